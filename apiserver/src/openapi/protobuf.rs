//! The v2 document in the one encoding that kubectl takes: before 1.27 it checks manifests with it, and every version falls
//! back to it where v3 fails.
//!
//! Message and field numbers are those of <https://github.com/google/gnostic-models/blob/main/openapiv2/OpenAPIv2.proto>.
//! Written by hand: it is a dozen messages, one way only. Responses are left out, no client of this encoding reads them.

use serde_json::{Map, Value};

/// Media type that clients ask for.
pub const ACCEPTED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Media type of the answer: an `@` is not allowed in one, and Go's parser refuses it. The real server does the same.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Encodes a document as `document_v2` makes it.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    if let Some(info) = document.get("info") {
        out.message(2, |m| {
            m.text(1, info.get("title"));
            m.text(2, info.get("version"));
        });
    }
    out.message(8, |m| {
        for (name, item) in entries(document.get("paths")) {
            m.named(2, name, |m| path_item(m, item));
        }
    });
    out.message(9, |m| {
        for (name, definition) in entries(document.get("definitions")) {
            m.named(1, name, |m| schema(m, definition));
        }
    });
    out.0
}

fn path_item(out: &mut Message, item: &Value) {
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(operation) = item.get(method) {
            out.message(field, |m| self::operation(m, operation));
        }
    }
    parameters(out, 9, item);
}

fn operation(out: &mut Message, operation: &Value) {
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    parameters(out, 8, operation);
    extensions(out, 13, operation);
}

fn parameters(out: &mut Message, field: u32, owner: &Value) {
    for parameter in owner.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        out.message(field, |item| item.message(1, |m| self::parameter(m, parameter)));
    }
}

fn parameter(out: &mut Message, parameter: &Value) {
    let common = |m: &mut Message, is_query: bool| {
        m.flag(1, parameter.get("required"));
        m.text(2, parameter.get("in"));
        m.text(3, parameter.get("description"));
        m.text(4, parameter.get("name"));
        m.text(if is_query { 6 } else { 5 }, parameter.get("type"));
    };
    match parameter.get("in").and_then(Value::as_str) {
        Some("body") => out.message(1, |m| {
            m.text(2, parameter.get("name"));
            m.text(3, parameter.get("in"));
            m.flag(4, parameter.get("required"));
            if let Some(body) = parameter.get("schema") {
                m.message(5, |m| schema(m, body));
            }
        }),
        Some("query") => out.message(2, |m| m.message(3, |m| common(m, true))),
        _ => out.message(2, |m| m.message(4, |m| common(m, false))),
    }
}

fn schema(out: &mut Message, schema: &Value) {
    for (field, key) in [(1, "$ref"), (2, "format"), (4, "description"), (13, "pattern")] {
        out.text(field, schema.get(key));
    }
    out.any(5, schema.get("default"));
    for (field, key) in [(11, "maxLength"), (12, "minLength"), (14, "maxItems"), (15, "minItems")] {
        out.integer(field, schema.get(key));
    }
    out.texts(19, schema.get("required"));
    for value in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.any(20, Some(value));
    }
    match schema.get("additionalProperties") {
        None => {}
        Some(Value::Bool(_)) => out.message(21, |m| m.flag(2, schema.get("additionalProperties"))),
        Some(of) => out.message(21, |m| m.message(1, |m| self::schema(m, of))),
    }
    if let Some(kind) = schema.get("type") {
        out.message(22, |m| m.text(1, Some(kind)));
    }
    if let Some(items) = schema.get("items") {
        out.message(23, |m| m.message(1, |m| self::schema(m, items)));
    }
    for all in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        out.message(24, |m| self::schema(m, all));
    }
    if schema.get("properties").is_some() {
        out.message(25, |m| {
            for (name, property) in entries(schema.get("properties")) {
                m.named(1, name, |m| self::schema(m, property));
            }
        });
    }
    extensions(out, 31, schema);
}

/// The `x-` entries of `owner`. Their values are YAML texts, and JSON is YAML.
fn extensions(out: &mut Message, field: u32, owner: &Value) {
    for (name, value) in entries(Some(owner)).filter(|(name, _)| name.starts_with("x-")) {
        out.named(field, name, |m| m.text(2, Some(&Value::from(value.to_string()))));
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// A message in the making: <https://protobuf.dev/programming-guides/encoding/>.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    const VARINT: u32 = 0;
    const LENGTH: u32 = 2;

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or(0));
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, Self::LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, values: Option<&Value>) {
        for value in values.and_then(Value::as_array).into_iter().flatten() {
            self.text(field, Some(value));
        }
    }

    fn flag(&mut self, field: u32, value: Option<&Value>) {
        if let Some(value) = value.and_then(Value::as_bool) {
            self.tag(field, Self::VARINT);
            self.varint(u64::from(value));
        }
    }

    /// A number that is never negative in a schema.
    fn integer(&mut self, field: u32, value: Option<&Value>) {
        if let Some(value) = value.and_then(Value::as_u64) {
            self.tag(field, Self::VARINT);
            self.varint(value);
        }
    }

    /// An `Any`, as YAML text.
    fn any(&mut self, field: u32, value: Option<&Value>) {
        if let Some(value) = value {
            self.message(field, |m| m.bytes(2, value.to_string().as_bytes()));
        }
    }

    fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// A `Named...` message: name and value.
    fn named(&mut self, field: u32, name: &str, fill: impl FnOnce(&mut Self)) {
        self.message(field, |m| {
            m.bytes(1, name.as_bytes());
            m.message(2, fill);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_have_the_bytes_of_the_specification() {
        let mut message = Message::default();
        message.integer(1, Some(&json!(150)));
        message.text(2, Some(&json!("testing")));
        message.message(3, |m| m.integer(1, Some(&json!(150))));
        // The examples of the encoding guide.
        let expected = [
            &[0x08, 0x96, 0x01][..],
            &[0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67],
            &[0x1a, 0x03, 0x08, 0x96, 0x01],
        ];
        assert_eq!(message.0, expected.concat());
    }

    #[test]
    fn a_definition_carries_type_properties_and_kind() {
        let document = json!({
            "swagger": "2.0",
            "definitions": {"a": {"type": "object", "properties": {"b": {"$ref": "#/definitions/c"}}, "x-y": [1]}},
        });
        let expected = [
            &b"\x0a\x032.0"[..],
            b"\x42\x00",
            b"\x4a\x3c\x0a\x3a\x0a\x01a\x12\x35",
            b"\xb2\x01\x08\x0a\x06object",
            b"\xca\x01\x18\x0a\x16\x0a\x01b\x12\x11\x0a\x0f#/definitions/c",
            b"\xfa\x01\x0c\x0a\x03x-y\x12\x05\x12\x03[1]",
        ];
        assert_eq!(encode(&document), expected.concat());
    }
}

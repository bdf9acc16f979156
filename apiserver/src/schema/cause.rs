//! The causes that a schema has against an object, in the words of the real server.
//!
//! Texts and reasons are those of apimachinery's `field.Error`:
//! <https://pkg.go.dev/k8s.io/apimachinery/pkg/util/validation/field#Error>. Clients match on them.

use std::fmt::Write as _;

use serde_json::Value;

use crate::admission::Cause;

/// Reason of a missing value.
pub(crate) const REQUIRED: &str = "FieldValueRequired";
/// Reason of a malformed value.
pub(crate) const INVALID: &str = "FieldValueInvalid";
/// Reason of a value of the wrong JSON type.
pub(crate) const TYPE_INVALID: &str = "FieldValueTypeInvalid";
/// Reason of a value outside an enumeration.
pub(crate) const NOT_SUPPORTED: &str = "FieldValueNotSupported";
/// Reason of a string over its length limit.
pub(crate) const TOO_LONG: &str = "FieldValueTooLong";
/// Reason of a list or map over its size limit.
pub(crate) const TOO_MANY: &str = "FieldValueTooMany";
/// Reason of a value that must be unique and is not.
pub(crate) const DUPLICATE: &str = "FieldValueDuplicate";
/// Reason of a value that policy forbids here.
pub(crate) const FORBIDDEN: &str = "FieldValueForbidden";

impl Cause {
    /// As [`Cause::invalid`], for a value of the wrong JSON type.
    pub(crate) fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(TYPE_INVALID, format!("Invalid value: {}: {detail}", print_value(value)), field)
    }

    /// `Unsupported value: <value>: supported values: "a", "b"`.
    pub(crate) fn not_supported<'a>(
        field: impl Into<String>,
        value: &Value,
        supported: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let quoted: Vec<String> = supported.into_iter().map(quote).collect();
        let message = format!("Unsupported value: {}: supported values: {}", print_value(value), quoted.join(", "));
        Self::new(NOT_SUPPORTED, message, field)
    }

    /// `Too long: may not be more than <max> bytes`. The value is left out on purpose: it may be huge.
    pub(crate) fn too_long(field: impl Into<String>, max: i64) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(TOO_LONG, format!("Too long: may not be more than {max} {unit}"), field)
    }

    /// `Too many: <actual>: must have at most <max> items`.
    pub(crate) fn too_many(field: impl Into<String>, actual: usize, max: i64) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(TOO_MANY, format!("Too many: {actual}: must have at most {max} {unit}"), field)
    }

    /// `Duplicate value: <value>`.
    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new(DUPLICATE, format!("Duplicate value: {}", print_value(value)), field)
    }

    /// `Forbidden: <detail>`.
    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(FORBIDDEN, format!("Forbidden: {detail}"), field)
    }
}

/// A string in double quotes with the escapes of Go's `%q`.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn print_value(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_printed_as_go_does() {
        assert_eq!(Cause::invalid("f", &json!("a\"b"), "no").message, r#"Invalid value: "a\"b": no"#);
        assert_eq!(Cause::invalid("f", &json!({"a": 1}), "no").message, r#"Invalid value: {"a":1}: no"#);
        assert_eq!(Cause::too_many("f", 300, 256).message, "Too many: 300: must have at most 256 items");
        assert_eq!(
            Cause::not_supported("f", &json!("c"), ["a", "b"]).message,
            r#"Unsupported value: "c": supported values: "a", "b""#
        );
    }
}

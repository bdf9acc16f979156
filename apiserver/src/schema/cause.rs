//! One field-level error of a refused object, and the 422 message that a list of them makes.
//!
//! Texts and reasons are those of apimachinery's `field.Error`:
//! <https://pkg.go.dev/k8s.io/apimachinery/pkg/util/validation/field#Error>. Clients match on them.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

/// Reason of a missing value.
pub const REQUIRED: &str = "FieldValueRequired";
/// Reason of a malformed value.
pub const INVALID: &str = "FieldValueInvalid";
/// Reason of a value of the wrong JSON type.
pub const TYPE_INVALID: &str = "FieldValueTypeInvalid";
/// Reason of a value outside an enumeration.
pub const NOT_SUPPORTED: &str = "FieldValueNotSupported";
/// Reason of a string over its length limit.
pub const TOO_LONG: &str = "FieldValueTooLong";
/// Reason of a list or map over its size limit.
pub const TOO_MANY: &str = "FieldValueTooMany";
/// Reason of a value that must be unique and is not.
pub const DUPLICATE: &str = "FieldValueDuplicate";
/// Reason of a value that policy forbids here.
pub const FORBIDDEN: &str = "FieldValueForbidden";

/// Why one field was refused: an entry of `Status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable class, one of the constants of this module (`FieldValueInvalid`, ...).
    pub reason: Cow<'static, str>,
    /// Text without the field name: `Invalid value: "x": must be ...`.
    pub message: String,
    /// JSON path of the field (`spec.disks[0].name`), or `<nil>` for the whole object.
    pub field: String,
}

impl Cause {
    /// A cause with a reason and message of the caller's own.
    pub fn new(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: Cow::Borrowed(reason), message: message.into(), field: field.into() }
    }

    /// `Required value`, with a detail unless it is empty.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(REQUIRED, field, with_detail("Required value".to_owned(), detail))
    }

    /// `Invalid value: <value>: <detail>`.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(INVALID, field, with_detail(format!("Invalid value: {}", print_value(value)), detail))
    }

    /// As [`Cause::invalid`], for a value of the wrong JSON type.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(TYPE_INVALID, field, with_detail(format!("Invalid value: {}", print_value(value)), detail))
    }

    /// `Unsupported value: <value>: supported values: "a", "b"`.
    pub fn not_supported<'a>(
        field: impl Into<String>,
        value: &Value,
        supported: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let quoted: Vec<String> = supported.into_iter().map(quote).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(NOT_SUPPORTED, field, with_detail(format!("Unsupported value: {}", print_value(value)), &detail))
    }

    /// `Too long: may not be more than <max> bytes`. The value is left out on purpose: it may be huge.
    pub fn too_long(field: impl Into<String>, max: i64) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(TOO_LONG, field, format!("Too long: may not be more than {max} {unit}"))
    }

    /// `Too many: <actual>: must have at most <max> items`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: i64) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(TOO_MANY, field, format!("Too many: {actual}: must have at most {max} {unit}"))
    }

    /// `Duplicate value: <value>`.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new(DUPLICATE, field, format!("Duplicate value: {}", print_value(value)))
    }

    /// `Forbidden: <detail>`.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(FORBIDDEN, field, with_detail("Forbidden".to_owned(), detail))
    }
}

/// The `message` of a 422 Status: `VirtualMachine.kubevirt.io "a" is invalid: <field>: <message>`, and `[x, y]` around
/// several. Group is empty for the core API. Equal entries are printed once, as the real server does.
pub fn invalid_message(kind: &str, group: &str, name: &str, causes: &[Cause]) -> String {
    let mut out = String::from(kind);
    if !group.is_empty() {
        out.push('.');
        out.push_str(group);
    }
    // Writing to a String cannot fail.
    let _ = write!(out, " {} is invalid", quote(name));
    let mut texts: Vec<String> = Vec::new();
    for cause in causes {
        let text = format!("{}: {}", cause.field, cause.message);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [] => {}
        [one] => {
            let _ = write!(out, ": {one}");
        }
        many => {
            let _ = write!(out, ": [{}]", many.join(", "));
        }
    }
    out
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

fn with_detail(mut text: String, detail: &str) -> String {
    if !detail.is_empty() {
        text.push_str(": ");
        text.push_str(detail);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_cause_is_printed_bare_and_several_in_brackets() {
        let a = Cause::required("spec.running", "");
        let b = Cause::too_many("spec.disks", 300, 256);
        assert_eq!(
            invalid_message("VirtualMachine", "kubevirt.io", "x", std::slice::from_ref(&a)),
            "VirtualMachine.kubevirt.io \"x\" is invalid: spec.running: Required value"
        );
        assert_eq!(
            invalid_message("Node", "", "n", &[a.clone(), b, a]),
            "Node \"n\" is invalid: [spec.running: Required value, spec.disks: Too many: 300: must have at most 256 items]"
        );
    }

    #[test]
    fn values_are_printed_as_go_does() {
        assert_eq!(Cause::invalid("f", &json!("a\"b"), "no").message, r#"Invalid value: "a\"b": no"#);
        assert_eq!(Cause::invalid("f", &json!({"a": 1}), "no").message, r#"Invalid value: {"a":1}: no"#);
        assert_eq!(
            Cause::not_supported("f", &json!("c"), ["a", "b"]).message,
            r#"Unsupported value: "c": supported values: "a", "b""#
        );
    }
}

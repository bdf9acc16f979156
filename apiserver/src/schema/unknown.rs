//! Typed round trips, and the fields that they lose: what a built-in kind's decoder does not know.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A field of the wrong type, with its path.
pub(crate) type TypeError = serde_path_to_error::Error<serde_json::Error>;

/// `value` as `T` writes it.
///
/// # Errors
/// If `value` cannot be read as `T`.
pub(crate) fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, TypeError> {
    let typed: T = serde_path_to_error::deserialize(value)?;
    serde_path_to_error::serialize(&typed, serde_json::value::Serializer)
}

/// Appends to `unknown` the paths in `sent` (at `path`) that `kept` no longer has. Nulls and empty containers count as
/// kept: a typed round trip may drop them.
pub(crate) fn unknown_fields(sent: &Value, kept: &Value, path: &str, unknown: &mut Vec<String>) {
    match (sent, kept) {
        (Value::Object(sent), kept) => {
            for (key, child) in sent {
                let child_path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match kept.get(key) {
                    Some(kept) => unknown_fields(child, kept, &child_path, unknown),
                    None if is_nothing(child) => {}
                    None => unknown.push(child_path),
                }
            }
        }
        (Value::Array(sent), Value::Array(kept)) => {
            for (index, (sent, kept)) in sent.iter().zip(kept).enumerate() {
                unknown_fields(sent, kept, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

//! Defaults, what `null` means, and whole numbers.
//!
//! `null` in a field that is not nullable becomes its default, or is dropped where there is none:
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#defaulting-and-nullable>.

use serde_json::Value;

use super::structural::{Node, Type};

/// Drops nulls that are neither allowed nor replaced by a default, then fills in defaults. An integer that came as `2.0` is
/// stored as `2`, as Go prints it: typed clients could not read it otherwise.
pub(crate) fn apply_defaults(value: &mut Value, schema: &Node) {
    drop_nulls(value, Some(schema));
    fill(value, schema);
}

fn drop_nulls(value: &mut Value, schema: Option<&Node>) {
    match value {
        Value::Object(map) => map.retain(|key, child| {
            let sub = schema.and_then(|s| s.field(key));
            if child.is_null() && sub.is_some_and(|s| !s.nullable && s.default.is_none()) {
                return false;
            }
            drop_nulls(child, sub);
            true
        }),
        Value::Array(items) => {
            let sub = schema.and_then(|s| s.items.as_deref());
            for item in items {
                drop_nulls(item, sub);
            }
        }
        _ => {}
    }
}

fn fill(value: &mut Value, schema: &Node) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                let replace = map.get(name.as_ref()).is_none_or(|v| v.is_null() && !property.nullable);
                if replace {
                    map.insert(name.to_string(), default.as_ref().clone());
                }
            }
            for (key, child) in map.iter_mut() {
                if let Some(sub) = schema.field(key) {
                    fill_null(child, sub);
                    fill(child, sub);
                }
            }
        }
        Value::Array(items) => {
            if let Some(sub) = schema.items.as_deref() {
                for item in items {
                    fill_null(item, sub);
                    fill(item, sub);
                }
            }
        }
        Value::Number(number) if number.is_f64() && matches!(schema.kind, Some(Type::Integer | Type::IntOrString)) => {
            // Only a whole number below 2^53 survives the way there and back.
            #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and the way back is checked")]
            let whole = number.as_f64().map(|f| (f, f as i64));
            #[expect(clippy::cast_precision_loss, reason = "a loss shows in the comparison")]
            if let Some((float, whole)) = whole
                && whole.abs() < 1 << 53
                && (whole as f64).total_cmp(&float).is_eq()
            {
                *value = Value::from(whole);
            }
        }
        _ => {}
    }
}

fn fill_null(value: &mut Value, schema: &Node) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.as_ref().clone();
    }
}

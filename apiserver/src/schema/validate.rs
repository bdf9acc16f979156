//! Value validation: types, required fields, bounds, enumerations, formats and junctors.
//!
//! Texts follow kube-openapi's validators, whose output every client sees:
//! <https://pkg.go.dev/k8s.io/kube-openapi/pkg/validation/validate>. Fields are visited in the order of their names, where
//! the real server's order is random.

use serde_json::{Number, Value};

use super::cause::quote;
use super::formats::Format;
use super::path::Path;
use super::structural::{Additional, Checks, Exclusive, ListType, Node, Type};
use crate::admission::Cause;

/// Floats count as integers up to here.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Appends what is wrong with `value` to `causes`. A part that equals its counterpart in `old` is not looked at: an
/// update is never refused for what it does not change.
pub(crate) fn validate(value: &Value, old: Option<&Value>, node: &Node, path: &mut Path, causes: &mut Vec<Cause>) {
    if old == Some(value) {
        return;
    }
    check_type(value, node, path, causes);
    if let Value::Number(number) = value {
        check_range(number, node, path, causes);
    }
    if let Some(checks) = &node.checks {
        check_junctors(value, old, checks, path, causes);
        check_enum(value, checks, path, causes);
        match value {
            Value::String(text) => check_string(text, node.kind, checks, path, causes),
            Value::Number(number) => check_number(number, checks, path, causes),
            Value::Array(items) => check_items(items, checks, path, causes),
            Value::Object(map) => check_properties(map, checks, path, causes),
            Value::Null | Value::Bool(_) => {}
        }
    }
    match value {
        Value::Array(items) => {
            if let Some(sub) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|o| correlate(item, o, &node.list_type));
                    path.with_index(index, |path| validate(item, old, sub, path, causes));
                }
            }
        }
        Value::Object(map) => {
            for (key, child) in map {
                let old = old.and_then(|o| o.get(key));
                if let Some(sub) = node.field(key) {
                    path.with_key(key, |path| validate(child, old, sub, path, causes));
                } else if matches!(node.additional, Additional::Denied) {
                    let detail = format!("{}.{key} in body is a forbidden property", path.as_str());
                    causes.push(Cause::invalid(field_of(path), &Value::from(key.as_str()), &detail));
                }
            }
        }
        _ => {}
    }
}

/// The old counterpart of a list item: by keys in a list of type map; items of other lists have none, so that an edited
/// list is checked in full.
fn correlate<'a>(item: &Value, old: &'a Value, list_type: &ListType) -> Option<&'a Value> {
    let ListType::Map { keys } = list_type else { return None };
    let same = |other: &&Value| keys.iter().all(|k| other.get(k.as_ref()) == item.get(k.as_ref()));
    old.as_array()?.iter().find(same)
}

fn check_type(value: &Value, node: &Node, path: &Path, causes: &mut Vec<Cause>) {
    let Some(kind) = node.kind else { return };
    let actual = match value {
        Value::Null if node.nullable => return,
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
    };
    let is_integral = value.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < MAX_SAFE_INTEGER);
    let fits = match kind {
        Type::Integer => actual == "integer" || (actual == "number" && is_integral),
        Type::Number => matches!(actual, "integer" | "number"),
        Type::IntOrString => matches!(actual, "integer" | "string") || (actual == "number" && is_integral),
        other => other.name() == actual,
    };
    if !fits {
        // Where there is a format, the real server speaks of formats, unless the value is text or a list. (A list in the
        // place of a formatted text it even lets pass; we do not.)
        let format = node.checks.as_ref().and_then(|c| c.format);
        let (expected, actual) = match (format, value) {
            (Some(format), Value::Number(n)) => (format.name(), if n.is_f64() { "float64" } else { "int64" }),
            (Some(format), Value::Bool(_) | Value::Object(_)) => (format.name(), ""),
            _ => (kind.name(), actual),
        };
        let detail = format!("{} in body must be of type {expected}: {}", path.as_str(), quote(actual));
        causes.push(Cause::type_invalid(field_of(path), &Value::from(actual), &detail));
    }
}

/// Whether a number fits the range of its type. The real server says it of no field.
fn check_range(number: &Number, node: &Node, path: &Path, causes: &mut Vec<Cause>) {
    let format = node.checks.as_ref().and_then(|c| c.format);
    let is_whole = |f: f64| f.fract() == 0.0 && f.abs() < MAX_SAFE_INTEGER;
    let fits = match (node.kind, format) {
        (Some(Type::Integer), Some(Format::Int32)) => {
            number.as_f64().is_some_and(|f| is_whole(f) && f >= f64::from(i32::MIN) && f <= f64::from(i32::MAX))
        }
        (Some(Type::Integer), _) => number.is_i64() || number.as_f64().is_some_and(is_whole),
        (Some(Type::Number), Some(Format::Float)) => number.as_f64().is_some_and(|f| f.abs() <= f64::from(f32::MAX)),
        _ => true,
    };
    if !fits {
        let kind = node.kind.map_or("", Type::name);
        let format = match format {
            Some(format) => format!("with format {}", format.name()),
            None => "(default format)".to_owned(),
        };
        let detail = format!("Checked value must be of type {kind} {format} in {}", path.as_str());
        causes.push(Cause::invalid("<nil>", &Value::from(""), detail));
    }
}

fn check_enum(value: &Value, checks: &Checks, path: &Path, causes: &mut Vec<Cause>) {
    if checks.allowed.is_empty() || checks.allowed.contains(value) {
        return;
    }
    let texts: Vec<String> =
        checks.allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
    causes.push(Cause::not_supported(field_of(path), value, texts.iter().map(String::as_str)));
}

fn check_string(text: &str, kind: Option<Type>, checks: &Checks, path: &Path, causes: &mut Vec<Cause>) {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let name = path.as_str();
    let mut invalid = |detail: String| causes.push(Cause::invalid(field_of(path), &Value::from(text), &detail));
    if let Some(max) = checks.max_length
        && length > max
    {
        causes.push(Cause::too_long(field_of(path), max));
        return;
    }
    if let Some(min) = checks.min_length
        && length < min
    {
        invalid(format!("{name} in body should be at least {min} chars long"));
        return;
    }
    if let Some(pattern) = &checks.pattern
        && !pattern.is_match(text)
    {
        invalid(format!("{name} in body should match '{pattern}'"));
    }
    if let Some(format) = checks.format
        && matches!(kind, None | Some(Type::String))
        && !format.admits(text)
    {
        let detail = format!("{name} in body must be of type {}: {}", format.name(), quote(text));
        causes.push(Cause::type_invalid(field_of(path), &Value::from(text), &detail));
    }
}

fn check_number(number: &Number, checks: &Checks, path: &Path, causes: &mut Vec<Cause>) {
    let Some(value) = number.as_f64() else { return };
    let name = path.as_str();
    let mut invalid =
        |detail: String| causes.push(Cause::invalid(field_of(path), &Value::Number(number.clone()), &detail));
    if let Some(factor) = checks.multiple_of
        && factor > 0.0
        && (value / factor).fract() != 0.0
    {
        invalid(format!("{name} in body should be a multiple of {factor}"));
    }
    if let Some((max, Exclusive(exclusive))) = checks.maximum
        && (value > max || (exclusive && value >= max))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        invalid(format!("{name} in body should be less than{or_equal} {max}"));
    }
    if let Some((min, Exclusive(exclusive))) = checks.minimum
        && (value < min || (exclusive && value <= min))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        invalid(format!("{name} in body should be greater than{or_equal} {min}"));
    }
}

fn check_items(items: &[Value], checks: &Checks, path: &Path, causes: &mut Vec<Cause>) {
    let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let name = path.as_str();
    if let Some(min) = checks.min_items
        && size < min
    {
        let detail = format!("{name} in body should have at least {min} items");
        causes.push(Cause::invalid(field_of(path), &Value::from(size), &detail));
    }
    if let Some(max) = checks.max_items
        && size > max
    {
        causes.push(Cause::too_many(field_of(path), items.len(), max));
    }
    if checks.unique_items && items.iter().enumerate().any(|(i, item)| items.iter().take(i).any(|other| other == item))
    {
        let detail = format!("{name} in body shouldn't contain duplicates");
        causes.push(Cause::invalid(field_of(path), &Value::from(""), &detail));
    }
}

fn check_properties(map: &serde_json::Map<String, Value>, checks: &Checks, path: &Path, causes: &mut Vec<Cause>) {
    let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
    let name = path.as_str();
    if let Some(min) = checks.min_properties
        && size < min
    {
        let detail = format!("{name} in body should have at least {min} properties");
        causes.push(Cause::invalid(field_of(path), &Value::from(size), &detail));
    }
    if let Some(max) = checks.max_properties
        && size > max
    {
        causes.push(Cause::too_many(field_of(path), map.len(), max));
    }
    for key in &checks.required {
        if !map.contains_key(key.as_ref()) {
            causes.push(Cause::required(path.child(key), ""));
        }
    }
}

fn check_junctors(value: &Value, old: Option<&Value>, checks: &Checks, path: &mut Path, causes: &mut Vec<Cause>) {
    let mut run = |node: &Node| {
        let mut found = Vec::new();
        validate(value, old, node, path, &mut found);
        found
    };
    let any: Vec<_> = checks.any_of.iter().map(&mut run).collect();
    let one: Vec<_> = checks.one_of.iter().map(&mut run).collect();
    let all: Vec<_> = checks.all_of.iter().map(&mut run).collect();
    let not = checks.not.as_deref().map(&mut run);
    let name = quote(path.as_str());
    let mut fail = |detail: String| causes.push(Cause::invalid("<nil>", &Value::from(""), &detail));
    if !any.is_empty() && !any.iter().any(Vec::is_empty) {
        fail(format!("{name} must validate at least one schema (anyOf)"));
    }
    let valid = one.iter().filter(|found| found.is_empty()).count();
    if !one.is_empty() && valid != 1 {
        let found =
            if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
        fail(format!("{name} must validate one and only one schema (oneOf). {found}"));
    }
    let failed = all.iter().filter(|found| !found.is_empty()).count();
    if failed > 0 {
        let none = if failed == all.len() { ". None validated" } else { "" };
        fail(format!("{name} must validate all the schemas (allOf){none}"));
    }
    if not.is_some_and(|found| found.is_empty()) {
        fail(format!("{name} must not validate the schema (not)"));
    }
    // The closest alternative explains what was missing.
    let closest = |all: Vec<Vec<Cause>>| all.into_iter().min_by_key(Vec::len).unwrap_or_default();
    if valid == 0 {
        causes.extend(closest(one));
    }
    if !any.iter().any(Vec::is_empty) {
        causes.extend(closest(any));
    }
    causes.extend(all.into_iter().flatten());
}

fn field_of(path: &Path) -> String {
    if path.as_str().is_empty() { "<nil>".to_owned() } else { path.as_str().to_owned() }
}

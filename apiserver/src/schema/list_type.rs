//! Uniqueness in lists of `x-kubernetes-list-type` set and map.
//!
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>; texts of
//! `listtype.ValidateListSetsAndMaps`.

use serde_json::{Map, Value};

use super::path::Path;
use super::structural::{ListType, Node};
use crate::admission::Cause;

/// Appends a cause for each element whose key another one has already.
pub(crate) fn validate_list_types(value: &Value, node: &Node, path: &mut Path, causes: &mut Vec<Cause>) {
    match value {
        Value::Array(items) => {
            match &node.list_type {
                ListType::Atomic => {}
                ListType::Set => duplicates(items, path, causes),
                ListType::Map { keys } => validate_map(items, keys, path, causes),
            }
            if let Some(sub) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    path.with_index(index, |path| validate_list_types(item, sub, path, causes));
                }
            }
        }
        Value::Object(map) => {
            for (key, child) in map {
                if let Some(sub) = node.field(key) {
                    path.with_key(key, |path| validate_list_types(child, sub, path, causes));
                }
            }
        }
        _ => {}
    }
}

fn validate_map(items: &[Value], keys: &[Box<str>], path: &Path, causes: &mut Vec<Cause>) {
    if let Some((index, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        causes.push(Cause::invalid(path.index(index), item, "must be an object for an array of list-type map"));
        return;
    }
    let key_of = |item: &Value| {
        let found = keys.iter().filter_map(|k| Some((k.to_string(), item.get(k.as_ref())?.clone())));
        Value::Object(found.collect::<Map<_, _>>())
    };
    let keys: Vec<Value> = items.iter().map(key_of).collect();
    duplicates(&keys, path, causes);
}

/// One cause for each value that appears more than once, at its second place.
fn duplicates(values: &[Value], path: &Path, causes: &mut Vec<Cause>) {
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for (index, value) in values.iter().enumerate() {
        let times = seen.entry(value.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            causes.push(Cause::duplicate(path.index(index), value));
        }
    }
}

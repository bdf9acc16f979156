//! Strategic merge patch: a merge patch that knows which lists are keyed.
//!
//! <https://github.com/kubernetes/community/blob/main/contributors/devel/sig-api-machinery/strategic-merge-patch.md>. The
//! keys are the `x-kubernetes-patch-merge-key`s of the kinds this server stores, which are few: lists that are not in
//! [`list_merge`] are replaced whole (`spec.taints` of a Node among them).

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::builtin::Builtin;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// How a list merges.
#[derive(Debug, Clone, Copy)]
enum ListMerge {
    /// The patch's list takes the place of the old one.
    Replace,
    /// Elements are values; new ones are appended.
    Set,
    /// Elements are objects, told apart by this key.
    Keyed(&'static str),
}

/// How the list at `path` (dotted, without indices) of `kind` merges.
fn list_merge(kind: Builtin, path: &str) -> ListMerge {
    match (kind, path) {
        (_, "metadata.finalizers") | (Builtin::Node, "spec.podCIDRs") => ListMerge::Set,
        (_, "metadata.ownerReferences") => ListMerge::Keyed("uid"),
        (Builtin::Node, "status.conditions" | "status.addresses") | (Builtin::Namespace, "status.conditions") => {
            ListMerge::Keyed("type")
        }
        _ => ListMerge::Replace,
    }
}

/// `object` with `patch` merged into it.
///
/// # Errors
/// [`PatchError::Rejected`] for an unknown directive or a list element without its key.
pub(super) fn merge(object: &Value, patch: &Value, kind: Builtin) -> Result<Value, PatchError> {
    let mut merged = object.clone();
    Merge { kind }.merge_value(&mut merged, patch, "")?;
    Ok(merged)
}

struct Merge {
    kind: Builtin,
}

impl Merge {
    fn merge_value(&self, target: &mut Value, patch: &Value, path: &str) -> Result<(), PatchError> {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return Ok(());
        };
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        match target {
            Value::Object(target) => self.merge_map(target, patch, path),
            _ => Ok(()),
        }
    }

    fn merge_map(
        &self,
        target: &mut Map<String, Value>,
        patch: &Map<String, Value>,
        path: &str,
    ) -> Result<(), PatchError> {
        match patch.get(DIRECTIVE).and_then(Value::as_str) {
            None | Some("merge") => {}
            Some("replace") => target.clear(),
            Some("delete") => {
                target.clear();
                return Ok(());
            }
            Some(other) => return Err(unknown_directive(other)),
        }
        if let Some(keep) = patch.get(RETAIN_KEYS).and_then(Value::as_array) {
            target.retain(|key, _| keep.iter().any(|k| k == key));
        }
        for (key, value) in patch {
            let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(ORDER_PREFIX) {
                // The order of elements means nothing in the lists of these kinds.
            } else if let Some(name) = key.strip_prefix(DELETE_PREFIX) {
                delete_from_list(target, name, value);
            } else if value.is_null() {
                target.remove(key);
            } else {
                let slot = target.entry(key.as_str()).or_insert(Value::Null);
                match value {
                    Value::Array(items) => self.merge_list(slot, items, &child(key))?,
                    _ => self.merge_value(slot, value, &child(key))?,
                }
            }
        }
        Ok(())
    }

    fn merge_list(&self, slot: &mut Value, patch: &[Value], path: &str) -> Result<(), PatchError> {
        let target = match slot {
            Value::Array(target) => std::mem::take(target),
            _ => Vec::new(),
        };
        *slot = Value::Array(match list_merge(self.kind, path) {
            ListMerge::Replace => self.cleaned(patch, path)?,
            ListMerge::Set => merge_set(target, patch),
            ListMerge::Keyed(key) => self.merge_keyed(target, patch, key, path)?,
        });
        Ok(())
    }

    fn merge_keyed(
        &self,
        mut target: Vec<Value>,
        patch: &[Value],
        key: &str,
        path: &str,
    ) -> Result<Vec<Value>, PatchError> {
        if patch.iter().any(|item| item.as_object().is_some_and(|m| m.len() == 1 && directive(item) == Some("replace")))
        {
            let rest: Vec<Value> = patch.iter().filter(|item| directive(item).is_none()).cloned().collect();
            return self.cleaned(&rest, path);
        }
        for item in patch {
            let id = item.get(key).ok_or_else(|| PatchError::Rejected {
                message: format!("map: {item} does not contain declared merge key: {key}"),
            })?;
            let found = target.iter().position(|old| old.get(key) == Some(id));
            match (directive(item), found) {
                (Some("delete"), _) => target.retain(|old| old.get(key) != Some(id)),
                (_, Some(index)) => {
                    if let Some(old) = target.get_mut(index) {
                        self.merge_value(old, item, path)?;
                    }
                }
                (_, None) => {
                    let mut new = Value::Null;
                    self.merge_value(&mut new, item, path)?;
                    target.push(new);
                }
            }
        }
        Ok(target)
    }

    /// Copies of `items` without directives and nulls.
    fn cleaned(&self, items: &[Value], path: &str) -> Result<Vec<Value>, PatchError> {
        let clean = |item: &Value| {
            let mut new = Value::Null;
            self.merge_value(&mut new, item, path).map(|()| new)
        };
        items.iter().map(clean).collect()
    }
}

fn merge_set(mut target: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    for item in patch {
        if !target.contains(item) {
            target.push(item.clone());
        }
    }
    target
}

fn delete_from_list(target: &mut Map<String, Value>, name: &str, gone: &Value) {
    let gone = gone.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(list) = target.get_mut(name).and_then(Value::as_array_mut) {
        list.retain(|item| !gone.contains(item));
    }
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE).and_then(Value::as_str)
}

fn unknown_directive(name: &str) -> PatchError {
    PatchError::Rejected { message: format!("unknown patch type found: {name}") }
}

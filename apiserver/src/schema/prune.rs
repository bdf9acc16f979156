//! Removal of fields that the schema does not know, and their paths for `fieldValidation`.
//!
//! As `pruning.PruneWithOptions` of apiextensions-apiserver does:
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#field-pruning>.

use serde_json::Value;

use super::path::Path;
use super::structural::{Additional, Node};

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes unknown fields from the object `value` (the root of a resource) and returns their paths, sorted.
/// `apiVersion`, `kind` and `metadata` are always known at the root.
pub(crate) fn prune(value: &mut Value, schema: &Node) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_node(value, Some(schema), true, &mut Path::root(), &mut unknown);
    unknown.sort();
    unknown
}

fn prune_node(value: &mut Value, schema: Option<&Node>, is_root: bool, path: &mut Path, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let keep_meta = is_root || schema.is_some_and(|s| s.embedded);
            map.retain(|key, child| {
                if keep_meta && META_FIELDS.contains(&key.as_str()) {
                    return true;
                }
                let known = schema.is_some_and(|s| knows(s, key));
                if !known {
                    unknown.push(path.child(key));
                    return false;
                }
                let sub = schema.and_then(|s| s.field(key));
                // `preserve-unknown-fields` keeps what is not listed as it is, and prunes again below listed fields.
                if sub.is_some() || !schema.is_some_and(|s| s.preserve_unknown) {
                    path.with_key(key, |path| prune_node(child, sub, false, path, unknown));
                }
                true
            });
        }
        Value::Array(items) => {
            let sub = schema.and_then(|s| s.items.as_deref());
            if sub.is_none() && schema.is_some_and(|s| s.preserve_unknown) {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                path.with_index(index, |path| prune_node(item, sub, false, path, unknown));
            }
        }
        _ => {}
    }
}

fn knows(schema: &Node, key: &str) -> bool {
    schema.preserve_unknown
        || schema.property(key).is_some()
        || matches!(schema.additional, Additional::Any | Additional::Of(_))
}

//! A namespace that is being deleted: its content goes, then it goes.

use std::sync::Arc;

use serde_json::json;

use super::owners;
use super::queue::{Queue, Work};
use crate::object::Object;
use crate::server::Core;
use crate::status::ApiError;
use crate::store::{Key, Mutation, WriteError};
use crate::verbs::delete::Propagation;
use crate::verbs::parse_stored;

/// The finalizer in `spec.finalizers` that stands for "its content is gone".
const CONTENT_FINALIZER: &str = "kubernetes";

/// Deletes what is in a terminating namespace; removes the namespace once nothing is.
pub(super) async fn empty(core: &Arc<Core>, queue: &mut Queue, name: &str) -> Result<(), ApiError> {
    let key = Key { resource: "namespaces".into(), namespace: String::new(), name: name.to_owned() };
    let Some(stored) = core.store.get(&key).await? else {
        queue.set_terminating(name, false);
        return Ok(());
    };
    let namespace = parse_stored(&key, &stored)?;
    if !namespace.is_deleting() {
        queue.set_terminating(name, false);
        return Ok(());
    }
    queue.set_terminating(name, true);
    let registry = core.registry();
    for (content_key, content) in core.store.in_namespace(name).await? {
        let object = parse_stored(&content_key, &content)?;
        if object.is_deleting() {
            continue;
        }
        if let Some(resource) = registry.by_storage(&content_key.resource) {
            owners::delete(core, resource, &content_key, &object, Propagation::Background).await?;
        }
    }
    if core.store.in_namespace(name).await?.is_empty() {
        return release(core, queue, &key, stored.version, namespace).await;
    }
    // Each deletion in the namespace brings it back here.
    Ok(())
}

/// Takes our finalizer off an empty namespace, which goes if there is no other.
async fn release(
    core: &Arc<Core>,
    queue: &mut Queue,
    key: &Key,
    version: u64,
    mut namespace: Object,
) -> Result<(), ApiError> {
    let finalizers = namespace.root_mut().get_mut("spec").and_then(|spec| spec.get_mut("finalizers"));
    let all = finalizers.as_ref().and_then(|list| list.as_array().cloned()).unwrap_or_default();
    let others: Vec<_> = all.iter().filter(|finalizer| *finalizer != CONTENT_FINALIZER).cloned().collect();
    let is_released = others.is_empty() && namespace.finalizers().is_empty();
    if !is_released && others.len() == all.len() {
        // Ours is off already; the others' owners take theirs.
        return Ok(());
    }
    namespace.root_mut().entry("spec").or_insert_with(|| json!({}))["finalizers"] = json!(others);
    let key = key.clone();
    let mutation = if is_released {
        Mutation::DeleteNamespace { key: key.clone(), version, object: namespace }
    } else {
        Mutation::Update { key: key.clone(), version, object: namespace, before: None, expires: None }
    };
    match core.store.write_one(mutation).await {
        Ok(_) | Err(WriteError::Missing) => {
            if is_released {
                queue.set_terminating(&key.name, false);
            }
            Ok(())
        }
        // Something appeared, or somebody else wrote: look again.
        Err(WriteError::NamespaceNotEmpty | WriteError::Changed) => {
            queue.push(Work::Namespace(key.name));
            Ok(())
        }
        Err(WriteError::Store(error)) => Err(error.into()),
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}

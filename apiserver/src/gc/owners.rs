//! One object: its owners, and the finalizers `orphan` and `foregroundDeletion`.
//!
//! <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>

use std::collections::HashSet;
use std::sync::Arc;

use http::StatusCode;

use super::queue::{Queue, Work};
use crate::auth::User;
use crate::http::query::Query;
use crate::object::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER, Object, OwnerReference};
use crate::registry::{Behavior, Resource};
use crate::server::Core;
use crate::status::ApiError;
use crate::store::{Key, Mutation, Stored, WriteError};
use crate::verbs::delete::{Preconditions, Propagation, remove};
use crate::verbs::{Call, before_if_selectable, is_released, parse_stored};

/// What an owner reference is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The owner is there; or its kind is not served, or the reference does not say where it is, so that nobody knows.
    Lives,
    /// The owner is being deleted in the foreground, and waits for its dependents.
    Waits,
    /// The owner is gone.
    Gone,
}

/// Looks at one object.
pub(super) async fn collect(core: &Arc<Core>, queue: &mut Queue, uid: &str) -> Result<(), ApiError> {
    let Some((key, stored)) = core.store.by_uid(uid).await? else { return Ok(()) };
    let object = parse_stored(&key, &stored)?;
    if &*key.resource == "namespaces" && object.is_deleting() {
        queue.push(Work::Namespace(key.name.clone()));
    }
    let registry = core.registry();
    let Some(resource) = registry.by_storage(&key.resource) else { return Ok(()) };
    if object.is_deleting() && object.has_finalizer(ORPHAN_FINALIZER) {
        return orphan(core, resource, &key, &object).await;
    }
    if object.is_deleting() && object.has_finalizer(FOREGROUND_FINALIZER) {
        return delete_dependents_first(core, queue, resource, &key, &object).await;
    }
    if object.is_deleting() {
        return Ok(());
    }
    settle_owners(core, resource, &key, &stored, &object).await
}

/// Takes the owner's name out of its dependents, then lets the owner go.
async fn orphan(core: &Arc<Core>, resource: &Resource, key: &Key, owner: &Object) -> Result<(), ApiError> {
    for (dependent_key, stored) in core.store.dependents(owner.uid()).await? {
        let dependent = parse_stored(&dependent_key, &stored)?;
        let mut released = dependent.clone();
        if released.remove_owner_references(|uid| uid == owner.uid()) {
            put(core, &dependent_key, &stored, &dependent, released).await?;
        }
    }
    drop_finalizer(core, resource, key, owner, ORPHAN_FINALIZER).await
}

/// Deletes the dependents, and lets the owner go when none that blocks it is left.
async fn delete_dependents_first(
    core: &Arc<Core>,
    queue: &mut Queue,
    resource: &Resource,
    key: &Key,
    owner: &Object,
) -> Result<(), ApiError> {
    let mut is_blocked = false;
    for (dependent_key, stored) in core.store.dependents(owner.uid()).await? {
        let dependent = parse_stored(&dependent_key, &stored)?;
        let blocks = dependent.owner_references().iter().any(|r| r.uid == owner.uid() && r.block_owner_deletion);
        is_blocked |= blocks;
        if !dependent.is_deleting() {
            queue.push(Work::Object(dependent.uid().to_owned()));
        }
    }
    if is_blocked {
        return Ok(());
    }
    drop_finalizer(core, resource, key, owner, FOREGROUND_FINALIZER).await
}

async fn settle_owners(
    core: &Arc<Core>,
    resource: &Resource,
    key: &Key,
    stored: &Stored,
    object: &Object,
) -> Result<(), ApiError> {
    let references = object.owner_references();
    let mut useless: HashSet<String> = HashSet::new();
    let mut waits = false;
    for reference in &references {
        match judge(core, key, reference).await? {
            Owner::Lives => {}
            Owner::Gone => {
                useless.insert(reference.uid.clone());
            }
            Owner::Waits => {
                useless.insert(reference.uid.clone());
                waits = true;
            }
        }
    }
    if useless.is_empty() {
        return Ok(());
    }
    if references.iter().any(|reference| !useless.contains(&reference.uid)) {
        let mut kept = object.clone();
        kept.remove_owner_references(|uid| useless.contains(uid));
        return put(core, key, stored, object, kept).await;
    }
    let has_dependents = !core.store.dependents(object.uid()).await?.is_empty();
    let propagation = if object.has_finalizer(ORPHAN_FINALIZER) {
        Propagation::Orphan
    } else if waits && has_dependents {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    delete(core, resource, key, object, propagation).await
}

/// Looks the owner up: the same UID, under the kind, namespace and name that the reference states.
async fn judge(core: &Arc<Core>, dependent: &Key, reference: &OwnerReference) -> Result<Owner, ApiError> {
    let registry = core.registry();
    let Some(resource) = registry.by_kind(reference.group(), &reference.kind) else { return Ok(Owner::Lives) };
    if resource.is_namespaced && dependent.namespace.is_empty() {
        // In which namespace? The reference is not allowed, which is no reason to delete whoever has it.
        return Ok(Owner::Lives);
    }
    let namespace = if resource.is_namespaced { dependent.namespace.as_str() } else { "" };
    let key = resource.key(namespace, &reference.name);
    let Some(stored) = core.store.get(&key).await? else { return Ok(Owner::Gone) };
    let owner = parse_stored(&key, &stored)?;
    Ok(if owner.uid() != reference.uid {
        Owner::Gone
    } else if owner.is_deleting() && owner.has_finalizer(FOREGROUND_FINALIZER) {
        Owner::Waits
    } else {
        Owner::Lives
    })
}

/// Deletes an object as a client would, if it is still the one that was looked at.
pub(super) async fn delete(
    core: &Arc<Core>,
    resource: &Resource,
    key: &Key,
    object: &Object,
    propagation: Propagation,
) -> Result<(), ApiError> {
    let (user, query) = (User::system("system:serviceaccount:kube-system:generic-garbage-collector"), Query::default());
    let call = Call { core, resource, namespace: &key.namespace, user: &user, query: &query };
    let preconditions = Preconditions {
        uid: Some(object.uid().to_owned()),
        resource_version: Some(object.resource_version().to_owned()),
    };
    match remove(&call, &key.name, Some(&preconditions), Some(propagation)).await {
        Ok(_) => Ok(()),
        Err(error) if error.code == StatusCode::NOT_FOUND => Ok(()),
        Err(error) => Err(error),
    }
}

async fn drop_finalizer(
    core: &Arc<Core>,
    resource: &Resource,
    key: &Key,
    owner: &Object,
    finalizer: &str,
) -> Result<(), ApiError> {
    let mut released = owner.clone();
    released.remove_finalizer(finalizer);
    let version = owner.resource_version().parse().unwrap_or_default();
    let key = key.clone();
    let mutation = if !is_released(&released) {
        Mutation::Update { key: key.clone(), version, object: released, before: None, expires: None }
    } else if resource.behavior == Behavior::Namespace {
        Mutation::DeleteNamespace { key: key.clone(), version, object: released }
    } else {
        Mutation::Delete { key: key.clone(), version, object: released, before: None }
    };
    tracing::debug!(kind = resource.kind, namespace = key.namespace, name = key.name, finalizer, "released");
    settled(&key, core.store.write_one(mutation).await)
}

async fn put(core: &Arc<Core>, key: &Key, stored: &Stored, old: &Object, new: Object) -> Result<(), ApiError> {
    let registry = core.registry();
    let before =
        registry.by_storage(&key.resource).and_then(|resource| before_if_selectable(resource, stored, old, &new));
    let mutation = Mutation::Update { key: key.clone(), version: stored.version, object: new, before, expires: None };
    settled(key, core.store.write_one(mutation).await)
}

/// An object that is gone needs nothing more; one that changed is looked at again.
fn settled<T>(key: &Key, result: Result<T, WriteError>) -> Result<(), ApiError> {
    match result {
        Ok(_) | Err(WriteError::Missing) => Ok(()),
        Err(WriteError::Changed) => Err(ApiError::modified("", &key.resource, &key.name)),
        Err(WriteError::Store(error)) => Err(error.into()),
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}

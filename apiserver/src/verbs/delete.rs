//! delete and deletecollection

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::prepare;
use super::read::Selection;
use super::{ATTEMPTS, Call, Reply};
use crate::http::{body, query};
use crate::object::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER, Object};
use crate::registry::Behavior;
use crate::status::ApiError;
use crate::store::{Mutation, WriteError};

/// Namespaces without which nothing works.
const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They are deleted once the object is gone.
    Background,
    /// They go first.
    Foreground,
    /// They stay, and forget their owner.
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub(crate) preconditions: Option<Preconditions>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    dry_run: Option<Vec<String>>,
}

/// What must be true of the object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

impl DeleteOptions {
    /// Options as body or as query; the body wins. kubectl, kube-rs and old clients use either.
    fn parse(headers: &HeaderMap, bytes: &Bytes, query: &query::Query) -> Result<Self, ApiError> {
        let mut options = if bytes.is_empty() {
            Self::default()
        } else {
            let body = body::parse(headers, bytes)?;
            Self::deserialize(body).map_err(|error| ApiError::bad_request(format!("DeleteOptions: {error}")))?
        };
        options.propagation_policy = options.propagation_policy.or_else(|| query.propagation_policy.clone());
        options.orphan_dependents = options.orphan_dependents.or(query.orphan_dependents);
        Ok(options)
    }

    fn is_dry_run(&self) -> Result<bool, ApiError> {
        let values = self.dry_run.iter().flatten();
        values.map(|value| query::dry_run(value)).try_fold(false, |any, one| Ok(any || one?))
    }

    /// The policy that is asked for; `None`: whatever the object's finalizers say.
    fn propagation(&self) -> Result<Option<Propagation>, ApiError> {
        if self.orphan_dependents.is_some() && self.propagation_policy.is_some() {
            return Err(ApiError::bad_request("orphanDependents and propagationPolicy cannot be both set"));
        }
        match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some("Background"), _) | (None, Some(false)) => Ok(Some(Propagation::Background)),
            (Some("Foreground"), _) => Ok(Some(Propagation::Foreground)),
            (Some("Orphan"), _) | (None, Some(true)) => Ok(Some(Propagation::Orphan)),
            (None, None) => Ok(None),
            (Some(other), _) => Err(ApiError::bad_request(format!(
                "invalid propagationPolicy {other:?}: must be one of Background, Foreground, Orphan"
            ))),
        }
    }
}

/// Deletes one object, or marks it where finalizers hold it.
pub(crate) async fn delete(call: &Call<'_>, name: &str, headers: &HeaderMap, bytes: &Bytes) -> Result<Reply, ApiError> {
    let options = DeleteOptions::parse(headers, bytes, call.query)?;
    if options.is_dry_run()? && !call.query.dry_run {
        let query = query::Query { dry_run: true, ..call.query.clone() };
        return remove(&Call { query: &query, ..*call }, name, options.preconditions.as_ref(), options.propagation()?)
            .await;
    }
    remove(call, name, options.preconditions.as_ref(), options.propagation()?).await
}

/// Deletes every object that the selectors pick. Answers with what was picked.
pub(crate) async fn delete_collection(
    call: &Call<'_>,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<(u64, Vec<Bytes>), ApiError> {
    let options = DeleteOptions::parse(headers, bytes, call.query)?;
    let query = query::Query { dry_run: call.query.dry_run || options.is_dry_run()?, ..call.query.clone() };
    let selection = Selection::parse(call.resource, call.query)?;
    let namespace = call.resource.is_namespaced.then_some(call.namespace).filter(|namespace| !namespace.is_empty());
    let listing = call.core.store.list(&call.resource.storage, namespace).await?;
    let mut picked = Vec::new();
    for json in listing.items {
        let Ok(object) = Object::parse(&json) else { continue };
        if !selection.matches(call.resource, &object) {
            continue;
        }
        let one = Call { namespace: object.namespace(), query: &query, ..*call };
        match remove(&one, object.name(), options.preconditions.as_ref(), options.propagation()?).await {
            Ok(_) => picked.push(json),
            Err(error) if error.code == StatusCode::NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    Ok((listing.version, picked))
}

/// What a delete makes of an object.
enum Outcome {
    /// It goes at once.
    Gone(Object),
    /// It waits for its finalizers.
    Marked(Object),
}

/// Decides what a delete makes of an object.
fn plan(call: &Call<'_>, old: &Object, propagation: Option<Propagation>) -> Outcome {
    let mut new = old.clone();
    let wants = |policy| propagation == Some(policy);
    if propagation.is_some() {
        if !wants(Propagation::Orphan) {
            new.remove_finalizer(ORPHAN_FINALIZER);
        }
        if !wants(Propagation::Foreground) {
            new.remove_finalizer(FOREGROUND_FINALIZER);
        }
    }
    if wants(Propagation::Orphan) {
        new.add_finalizer(ORPHAN_FINALIZER);
    } else if wants(Propagation::Foreground) {
        new.add_finalizer(FOREGROUND_FINALIZER);
    }
    new.mark_deleting(jiff::Timestamp::now());
    if call.resource.behavior == Behavior::Namespace {
        new.root_mut().entry("status").or_insert_with(|| json!({}))["phase"] = json!("Terminating");
    }
    if new.generation() > 0 && !old.is_deleting() {
        let generation = new.generation() + 1;
        new.metadata_mut().insert("generation".to_owned(), json!(generation));
    }
    if prepare::is_released(&new) { Outcome::Gone(new) } else { Outcome::Marked(new) }
}

fn check(call: &Call<'_>, old: &Object, preconditions: Option<&Preconditions>) -> Result<(), ApiError> {
    let name = old.name();
    if let Some(preconditions) = preconditions {
        if let Some(uid) = preconditions.uid.as_deref().filter(|uid| *uid != old.uid()) {
            return Err(prepare::uid_conflict(call.resource, name, uid, old.uid()));
        }
        if let Some(version) = preconditions.resource_version.as_deref().filter(|v| *v != old.resource_version()) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                old.resource_version()
            );
            return Err(ApiError::conflict(&call.resource.group, &call.resource.plural, name, &why));
        }
    }
    if call.resource.behavior == Behavior::Namespace && IMMORTAL_NAMESPACES.contains(&name) {
        return Err(ApiError::forbidden("", "namespaces", name, "this namespace may not be deleted"));
    }
    if call.resource.behavior == Behavior::Definition && call.core.is_given_definition(name) {
        let why = "this definition belongs to the server, which would put it back at its next start";
        return Err(ApiError::forbidden(&call.resource.group, &call.resource.plural, name, why));
    }
    Ok(())
}

/// A definition goes only when no object is left of it: they would be stranded in the store.
async fn check_definition_is_unused(call: &Call<'_>, old: &Object) -> Result<(), ApiError> {
    if call.resource.behavior != Behavior::Definition {
        return Ok(());
    }
    // A definition's name is what its objects are filed under.
    let listing = call.core.store.list(old.name(), None).await?;
    if listing.items.is_empty() {
        return Ok(());
    }
    let why = format!("{} objects of it are left: delete them first", listing.items.len());
    Err(ApiError::conflict(&call.resource.group, &call.resource.plural, old.name(), &why))
}

/// Deletes one object; garbage collection comes here too.
pub(crate) async fn remove(
    call: &Call<'_>,
    name: &str,
    preconditions: Option<&Preconditions>,
    propagation: Option<Propagation>,
) -> Result<Reply, ApiError> {
    for _ in 0..ATTEMPTS {
        let (stored, old) = call.load(name).await?;
        check(call, &old, preconditions)?;
        call.enforce("DELETE", "", name, None, Some(&old))?;
        check_definition_is_unused(call, &old).await?;
        let (key, version) = (call.key(name), stored.version);
        let result = match plan(call, &old, propagation) {
            Outcome::Marked(new) if new == old => return Ok(Reply::object(StatusCode::OK, stored.json)),
            Outcome::Marked(object) => {
                let mutation = Mutation::Update { key, version, object, before: None, expires: call.expires() };
                call.write(mutation).await.map(|json| Reply::object(StatusCode::OK, json))
            }
            Outcome::Gone(object) if call.resource.behavior == Behavior::Namespace => {
                let mutation = Mutation::DeleteNamespace { key, version, object };
                call.write(mutation).await.map(|json| Reply::object(StatusCode::OK, json))
            }
            Outcome::Gone(object) => {
                call.write(Mutation::Delete { key, version, object, before: None }).await.map(|_| success(call, &old))
            }
        };
        match result {
            Ok(reply) => {
                if call.resource.behavior == Behavior::Definition && !call.query.dry_run {
                    call.core.drop_definition(&old).await?;
                }
                return Ok(reply);
            }
            Err(WriteError::Changed) => {}
            Err(error) => return Err(call.write_error(name, error)),
        }
    }
    Err(ApiError::modified(&call.resource.group, &call.resource.plural, name))
}

/// The `Status` that says that an object is gone.
fn success(call: &Call<'_>, old: &Object) -> Reply {
    let mut details = json!({"name": old.name(), "kind": call.resource.plural, "uid": old.uid()});
    if !call.resource.group.is_empty() {
        details["group"] = json!(call.resource.group);
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Reply { is_object: false, ..Reply::object(StatusCode::OK, Bytes::from(status.to_string())) }
}

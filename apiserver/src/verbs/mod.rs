//! What requests do to objects: one file a verb.
//!
//! Each verb reads, decides with values ([`prepare`]), and writes with a precondition on what it read; where another
//! writer was faster, it starts over.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod patch;
mod prepare;
pub(crate) mod read;
pub(crate) mod review;
pub(crate) mod update;

use bytes::Bytes;
use http::StatusCode;

use crate::access::Attempt;
use crate::admission::{AdmissionRequest, Operation};
use crate::auth::User;
use crate::http::query::Query;
use crate::object::Object;
use crate::registry::{Behavior, Resource};
use crate::server::Core;
use crate::status::ApiError;
use crate::store::{Key, Mutation, StoreError, Stored, WriteError};

pub(crate) use prepare::{Part, is_released};

/// How often a write that found its object changed starts over.
const ATTEMPTS: usize = 16;

/// Lifetime of an event, as the real server's default, and of a signing request.
const LIFETIME_SECONDS: i64 = 3600;

/// A request for a resource, as far as all verbs share it.
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Core,
    pub(crate) resource: &'a Resource,
    /// Namespace of the path; empty for cluster-scoped resources.
    pub(crate) namespace: &'a str,
    pub(crate) user: &'a User,
    pub(crate) query: &'a Query,
}

/// An object as an answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: StatusCode,
    /// JSON of the object, as stored.
    pub(crate) json: Bytes,
    /// Texts for the `Warning` header.
    pub(crate) warnings: Vec<String>,
    /// Whether `json` is an object of the resource, not a `Status`.
    pub(crate) is_object: bool,
}

impl Reply {
    fn object(code: StatusCode, json: Bytes) -> Self {
        Self { code, json, warnings: Vec::new(), is_object: true }
    }

    fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }
}

impl Call<'_> {
    fn key(&self, name: &str) -> Key {
        self.resource.key(self.namespace, name)
    }

    fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.resource.group, &self.resource.plural, name)
    }

    /// Reads and parses an object.
    async fn load(&self, name: &str) -> Result<(Stored, Object), ApiError> {
        let key = self.key(name);
        let stored = self.core.store.get(&key).await?.ok_or_else(|| self.not_found(name))?;
        let object = parse_stored(&key, &stored)?;
        Ok((stored, object))
    }

    /// The embedding program's judgement.
    fn judge(&self, operation: Operation, object: &Object, old: Option<&Object>) -> Result<(), ApiError> {
        let causes = self.core.admission.validate(&AdmissionRequest {
            operation,
            group: &self.resource.group,
            version: &self.resource.version,
            kind: &self.resource.kind,
            namespace: self.resource.is_namespaced.then_some(self.namespace),
            name: object.name(),
            object: object.value(),
            old_object: old.map(Object::value),
            user: self.user,
        });
        self.refuse_if_any(object.name(), causes)
    }

    /// The policies' judgement of what somebody who is no administrator writes.
    fn enforce(
        &self,
        operation: &'static str,
        subresource: &str,
        name: &str,
        object: Option<&Object>,
        old_object: Option<&Object>,
    ) -> Result<(), ApiError> {
        if self.user.is_master() {
            return Ok(());
        }
        let (group, resource) = (self.resource.group.as_str(), self.resource.plural.as_str());
        let objection = self.core.access.objection(&Attempt {
            user: self.user,
            operation,
            group,
            resource,
            subresource,
            namespace: self.namespace,
            name,
            object: object.map(Object::value),
            old_object: old_object.map(Object::value),
        });
        objection.map_or(Ok(()), |why| Err(ApiError::forbidden(group, resource, name, &why)))
    }

    fn refuse_if_any(&self, name: &str, causes: Vec<crate::admission::Cause>) -> Result<(), ApiError> {
        if causes.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&self.resource.group, &self.resource.kind, name, causes))
    }

    /// When an object that is written now goes by itself.
    fn expires(&self) -> Option<i64> {
        let is_passing =
            matches!(self.resource.behavior, Behavior::Event | Behavior::EventsView | Behavior::SigningRequest);
        is_passing.then(|| jiff::Timestamp::now().as_second() + LIFETIME_SECONDS)
    }

    /// Writes, unless the request is a dry run.
    async fn write(&self, mutation: Mutation) -> Result<Bytes, WriteError> {
        if self.query.dry_run {
            let (Mutation::Create { object, .. }
            | Mutation::Update { object, .. }
            | Mutation::Delete { object, .. }
            | Mutation::DeleteNamespace { object, .. }) = mutation;
            return Ok(Bytes::from(object.into_value().to_string()));
        }
        Ok(self.core.store.write_one(mutation).await?.json)
    }

    /// A refused write as the client is told.
    fn write_error(&self, name: &str, error: WriteError) -> ApiError {
        let (group, plural) = (&self.resource.group, &self.resource.plural);
        match error {
            WriteError::Exists => ApiError::already_exists(group, plural, name),
            WriteError::Missing => self.not_found(name),
            WriteError::Changed => ApiError::modified(group, plural, name),
            WriteError::NamespaceMissing(namespace) => ApiError::not_found("", "namespaces", &namespace),
            WriteError::NamespaceTerminating(namespace) => {
                ApiError::namespace_terminating(group, plural, name, &namespace)
            }
            WriteError::NamespaceNotEmpty => {
                ApiError::conflict(group, plural, name, "the namespace is not empty yet, and goes when it is")
            }
            WriteError::Store(error) => error.into(),
        }
    }
}

/// Parses what the store holds.
pub(crate) fn parse_stored(key: &Key, stored: &Stored) -> Result<Object, StoreError> {
    Object::parse(&stored.json).map_err(|source| StoreError::Corrupt {
        resource: key.resource.to_string(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        source,
    })
}

/// The stored text of the replaced object, if a selector could tell it from the new one.
pub(crate) fn before_if_selectable(resource: &Resource, stored: &Stored, old: &Object, new: &Object) -> Option<Bytes> {
    let is_same = old.metadata().get("labels") == new.metadata().get("labels")
        && resource.fields.values(old.value()) == resource.fields.values(new.value());
    (!is_same).then(|| stored.json.clone())
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let chain = crate::status::chain(&error);
        match error {
            StoreError::Full { .. } => Self::insufficient_storage(chain),
            StoreError::Closed => Self::unavailable(chain),
            _ => {
                tracing::error!(error = %chain, "store failed");
                Self::internal(chain)
            }
        }
    }
}

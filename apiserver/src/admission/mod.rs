//! The hook through which the embedding program judges objects that the schema alone cannot judge.
//!
//! It runs after decoding, pruning, defaulting and schema validation, on create and on update of an object (not of its
//! status). It must not change the object: there is no mutating admission here.

use serde_json::Value;

use crate::auth::User;

/// What a request is about to do to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The object does not exist yet.
    Create,
    /// The object exists; `old_object` is what is stored.
    Update,
}

/// One object on its way into the store.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest<'a> {
    /// Create or update.
    pub operation: Operation,
    /// API group, empty for the core group.
    pub group: &'a str,
    /// API version within the group, e.g. `v1alpha1`.
    pub version: &'a str,
    /// Kind, e.g. `OfflineVirtualMachine`.
    pub kind: &'a str,
    /// Namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<&'a str>,
    /// Name, generated already where the request left that to the server.
    pub name: &'a str,
    /// The object as it would be stored.
    pub object: &'a Value,
    /// The stored object; `None` on create.
    pub old_object: Option<&'a Value>,
    /// Who asks.
    pub user: &'a User,
}

/// Why an object is refused; becomes one entry of `Status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, e.g. `FieldValueInvalid`.
    pub reason: String,
    /// Text for a person. It may begin with the field's path; it is shown without repeating it then.
    pub message: String,
    /// JSON path of the field, e.g. `spec.volumes[0].name`.
    pub field: String,
}

impl Cause {
    /// A cause from its three parts.
    pub fn new(reason: impl Into<String>, message: impl Into<String>, field: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), field: field.into() }
    }

    /// `Invalid value` for a field, with the offending value as the real server prints it.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueInvalid", format!("Invalid value: {value}: {}", detail.as_ref()), field)
    }

    /// `Required value` for a field.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self::new("FieldValueRequired", message, field)
    }

    /// The line that a person reads: the field, then what is wrong with it.
    pub(crate) fn line(&self) -> String {
        if self.field.is_empty() || self.message.starts_with(&self.field) {
            self.message.clone()
        } else {
            format!("{}: {}", self.field, self.message)
        }
    }
}

/// Rules of the embedding program.
pub trait Admission: Send + Sync + 'static {
    /// Everything that is wrong with the object; empty admits it. Called for every kind, so it must pass kinds that it
    /// does not know. It is called on a thread of the async runtime: no blocking.
    fn validate(&self, request: &AdmissionRequest<'_>) -> Vec<Cause>;
}

/// Admits everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn validate(&self, _request: &AdmissionRequest<'_>) -> Vec<Cause> {
        Vec::new()
    }
}

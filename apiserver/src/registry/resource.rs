//! One served resource: names, scope, schema, and what is special about it.

use std::sync::Arc;

use crate::schema::ResourceSchema;
use crate::schema::builtin::Builtin;
use crate::selector::SelectableFields;
use crate::store::Key;
use crate::table::TableColumns;

/// Verbs that a resource answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbs {
    /// create, delete, deletecollection, get, list, patch, update, watch.
    All,
    /// get, list, watch.
    ReadOnly,
    /// create: reviews, which are answered and never stored.
    CreateOnly,
}

impl Verbs {
    /// As discovery lists them.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            Self::All => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            Self::ReadOnly => &["get", "list", "watch"],
            Self::CreateOnly => &["create"],
        }
    }
}

/// What is special about a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Nothing.
    Plain,
    /// A custom resource.
    Custom,
    /// Holds others; goes when it is empty.
    Namespace,
    /// Has a lifetime.
    Event,
    /// `events.k8s.io/v1`: another view of the same events.
    EventsView,
    /// Defines custom resources.
    Definition,
    /// Says who asked, and is signed when it is approved.
    SigningRequest,
    /// Answered from who asks.
    SelfSubjectReview,
    /// Answered from what the user may do.
    SelfSubjectAccessReview,
    /// Answered with all that the user may do.
    SelfSubjectRulesReview,
}

/// How objects of a resource are checked.
#[derive(Clone, Debug)]
pub(crate) enum Schema {
    /// Not at all: nothing of it is stored.
    None,
    /// As the typed kind says.
    Builtin(Builtin),
    /// As a custom resource's definition says.
    Custom(Arc<ResourceSchema>),
}

/// One version of one resource.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    /// API group; empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) is_namespaced: bool,
    pub(crate) verbs: Verbs,
    /// Whether `status` is written through its own path only.
    pub(crate) has_status: bool,
    pub(crate) behavior: Behavior,
    /// What the store files its objects under: `plural.group`, the same for all versions.
    pub(crate) storage: Arc<str>,
    /// Whether objects are stored in this version.
    pub(crate) is_storage_version: bool,
    /// Whether stored objects are rewritten on their way in and out: another view of a kind, or one of several versions.
    pub(crate) is_converted: bool,
    /// Fields that selectors may name.
    pub(crate) fields: SelectableFields,
    /// What `kubectl get` prints; `None` for what is never listed.
    pub(crate) columns: Option<Arc<TableColumns>>,
    pub(crate) schema: Schema,
}

impl Resource {
    /// `version`, or `group/version`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The built-in kind that objects are checked as.
    pub(crate) fn builtin(&self) -> Option<Builtin> {
        if let Schema::Builtin(kind) = self.schema { Some(kind) } else { None }
    }

    /// Where an object is stored.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> Key {
        Key { resource: Arc::clone(&self.storage), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What the store files a resource's objects under.
pub(crate) fn storage_name(group: &str, plural: &str) -> Arc<str> {
    if group.is_empty() { Arc::from(plural) } else { Arc::from(format!("{plural}.{group}")) }
}

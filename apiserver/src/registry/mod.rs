//! Which resources are served: built-in kinds (one table), and custom resources as their definitions say.

mod builtin;
mod check;
mod custom;
mod definition;
mod events_view;
mod resource;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use check::AdmitError;
pub use custom::CrdError;
pub(crate) use definition::{Definition, settle};
pub(crate) use resource::{Behavior, Resource, Verbs};

/// All served resources at one time; replaced as a whole when a definition changes.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// By group, version and plural; in this order discovery lists them.
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn builtin() -> Self {
        let mut registry = Self { resources: BTreeMap::new() };
        for resource in builtin::resources() {
            registry.insert(resource);
        }
        registry
    }

    /// Adds a resource, in place of what is served under the same names.
    pub(crate) fn insert(&mut self, resource: Resource) {
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.resources.insert(key, Arc::new(resource));
    }

    /// Serves an accepted definition, in place of an older one.
    pub(crate) fn serve(&mut self, definition: Definition) {
        self.remove(&definition.group, &definition.plural);
        for resource in definition.resources {
            self.insert(resource);
        }
    }

    /// Whether a built-in kind is in the group.
    pub(crate) fn is_builtin_group(&self, group: &str) -> bool {
        self.iter().any(|resource| resource.group == group && resource.behavior != Behavior::Custom)
    }

    /// Removes all versions of a custom resource.
    pub(crate) fn remove(&mut self, group: &str, plural: &str) {
        self.resources.retain(|(in_group, _, in_plural), _| in_group != group || in_plural != plural);
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The resource whose objects are stored under `storage`, in the version that they are stored in.
    pub(crate) fn by_storage(&self, storage: &str) -> Option<&Arc<Resource>> {
        self.resources.values().find(|resource| &*resource.storage == storage && resource.is_storage_version)
    }

    /// The resource of a kind, in the version that it is stored in.
    pub(crate) fn by_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources
            .values()
            .find(|resource| resource.group == group && resource.kind == kind && resource.is_storage_version)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    pub(crate) fn in_version<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.iter().filter(move |resource| resource.group == group && resource.version == version)
    }
}

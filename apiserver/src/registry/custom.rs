//! Custom resources: what a definition makes the server serve.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::resource::{Behavior, Resource, Schema, Verbs, storage_name};
use crate::schema::{ResourceSchema, SchemaError};
use crate::selector::SelectableFields;
use crate::table::TableColumns;

/// A definition that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// Its name is not `<plural>.<group>`.
    #[error("custom resource definition {name}: metadata.name must be {expected}")]
    Name {
        /// Its name.
        name: String,
        /// What it must be.
        expected: String,
    },
    /// Not exactly one version is the storage version.
    #[error("custom resource definition {name}: exactly one version must have storage set, {found} have")]
    StorageVersion {
        /// Its name.
        name: String,
        /// Versions with `storage: true`.
        found: usize,
    },
    /// It converts between versions by a webhook.
    #[error("custom resource definition {name}: spec.conversion.strategy must be None, webhooks are not called here")]
    Conversion {
        /// Its name.
        name: String,
    },
    /// It is no definition.
    #[error("custom resource definition {name}: read it")]
    Decode {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Its group and plural are taken by a built-in kind or a mounted group.
    #[error("custom resource definition {name}: its group is served by the server itself")]
    Taken {
        /// Its name.
        name: String,
    },
    /// Its schema cannot be compiled.
    #[error("custom resource definition {name}")]
    Schema {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: SchemaError,
    },
}

impl Resource {
    /// The resources of a definition, one for each served version.
    pub(crate) fn from_definition(crd: &CustomResourceDefinition) -> Result<Vec<Self>, CrdError> {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let expected = format!("{}.{}", crd.spec.names.plural, crd.spec.group);
        if name != expected {
            return Err(CrdError::Name { name, expected });
        }
        let found = crd.spec.versions.iter().filter(|version| version.storage).count();
        if found != 1 {
            return Err(CrdError::StorageVersion { name, found });
        }
        if crd.spec.conversion.as_ref().is_some_and(|conversion| conversion.strategy != "None") {
            return Err(CrdError::Conversion { name });
        }
        let served = crd.spec.versions.iter().filter(|version| version.served);
        served
            .map(|version| {
                let schema = ResourceSchema::compile(crd, &version.name)
                    .map_err(|source| CrdError::Schema { name: name.clone(), source })?;
                let names = &crd.spec.names;
                Ok(Self {
                    group: crd.spec.group.clone(),
                    version: version.name.clone(),
                    kind: names.kind.clone(),
                    list_kind: names.list_kind.clone().unwrap_or_else(|| format!("{}List", names.kind)),
                    plural: names.plural.clone(),
                    singular: names.singular.clone().unwrap_or_else(|| names.kind.to_lowercase()),
                    short_names: names.short_names.clone().unwrap_or_default(),
                    categories: names.categories.clone().unwrap_or_default(),
                    is_namespaced: crd.spec.scope == "Namespaced",
                    verbs: Verbs::All,
                    has_status: version.subresources.as_ref().is_some_and(|sub| sub.status.is_some()),
                    behavior: Behavior::Custom,
                    storage: storage_name(&crd.spec.group, &names.plural),
                    is_storage_version: version.storage,
                    is_converted: crd.spec.versions.len() > 1,
                    fields: SelectableFields::of_crd(crd, &version.name),
                    columns: Some(Arc::new(TableColumns::of_crd(crd, &version.name))),
                    schema: Schema::Custom(Arc::new(schema)),
                })
            })
            .collect()
    }
}

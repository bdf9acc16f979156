//! The CustomResourceDefinitions of both kinds, generated from the wire types: structural, pruning, with a description on every field.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::names::{PART_OF, PART_OF_LABEL};
use crate::v1alpha1::{OfflineVirtualMachine, VirtualMachine};

/// Both definitions, in the order in which they are applied. Their label tells them from KubeVirt's own, which have the same names.
pub fn all() -> Vec<CustomResourceDefinition> {
    [OfflineVirtualMachine::crd(), VirtualMachine::crd()].into_iter().map(finish).collect()
}

fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata.labels.get_or_insert_default().insert(PART_OF_LABEL.to_owned(), PART_OF.to_owned());
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_unsigned_formats(schema);
        }
    }
    crd
}

/// Kubernetes knows no unsigned formats, and warns about each at every apply. The minimum of 0 says the same.
fn drop_unsigned_formats(schema: &mut JSONSchemaProps) {
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(drop_unsigned_formats);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        drop_unsigned_formats(items);
    }
}

#[cfg(test)]
mod tests;

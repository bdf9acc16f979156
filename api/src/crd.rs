//! The CustomResourceDefinitions of both kinds, generated from the wire types: structural, pruning, with a description on every field.
//!
//! CEL rules are for what must hold without webhook and agent: what is bound stays as it is. Rules of the wire contract name an index in field and
//! message, which CEL cannot; they are [`crate::admission`]'s, and the agent checks them again before it renders a guest.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use kube::CustomResourceExt;

use crate::admission::{BOUND_SPEC_CHANGED, FIELD_VALUE_FORBIDDEN};
use crate::names::{PART_OF, PART_OF_LABEL};
use crate::v1alpha1::{OfflineVirtualMachine, VirtualMachine};

/// Whether the stored VirtualMachine is bound to no node.
const WAS_UNBOUND: &str = "!has(oldSelf.status) || !has(oldSelf.status.nodeName) || oldSelf.status.nodeName == ''";

/// Both definitions, in the order in which they are applied. Their label tells them from KubeVirt's own, which have the same names.
pub fn all() -> Vec<CustomResourceDefinition> {
    let rules = [Vec::new(), bound_rules()];
    [OfflineVirtualMachine::crd(), VirtualMachine::crd()].into_iter().zip(rules).map(finish).collect()
}

fn finish((mut crd, rules): (CustomResourceDefinition, Vec<ValidationRule>)) -> CustomResourceDefinition {
    crd.metadata.labels.get_or_insert_default().insert(PART_OF_LABEL.to_owned(), PART_OF.to_owned());
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_unsigned_formats(schema);
            schema.x_kubernetes_validations = Some(rules.clone()).filter(|rules| !rules.is_empty());
        }
    }
    crd
}

/// A bound VirtualMachine keeps its spec and its node, whatever else fails (I1: its guest is on that node).
fn bound_rules() -> Vec<ValidationRule> {
    let rule = |keeps: &str, path: &str, message: &str| ValidationRule {
        rule: format!("{WAS_UNBOUND} || {keeps}"),
        message: Some(message.to_owned()),
        reason: Some(FIELD_VALUE_FORBIDDEN.to_owned()),
        field_path: Some(path.to_owned()),
        ..ValidationRule::default()
    };
    vec![
        rule("self.spec == oldSelf.spec", ".spec", BOUND_SPEC_CHANGED),
        rule(
            "has(self.status) && has(self.status.nodeName) && self.status.nodeName == oldSelf.status.nodeName",
            ".status.nodeName",
            "a VirtualMachine stays on its node; delete it, and its OfflineVirtualMachine gets another.",
        ),
    ]
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

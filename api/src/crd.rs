//! The CustomResourceDefinitions of both kinds, generated from the wire types: structural, pruning, with a description on every field.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::v1alpha1::{OfflineVirtualMachine, VirtualMachine};

/// Both definitions, in the order in which they are applied.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![OfflineVirtualMachine::crd(), VirtualMachine::crd()]
}

#[cfg(test)]
mod tests;

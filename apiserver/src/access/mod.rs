//! What users may do who are not administrators: roles and bindings (RBAC), and ValidatingAdmissionPolicies, as the embedding program gives them.
//!
//! They are Kubernetes' own documents, so that one text holds on a cluster and here. They are given at the start and not served: nobody changes them
//! through the API. Members of `system:masters` are not asked about.

mod policy;
mod roles;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use policy::Attempt;
use policy::Policy;
use roles::Grant;
pub(crate) use roles::Wish;

use crate::auth::User;

/// Who may do what.
#[derive(Debug, Default)]
pub struct AccessRules {
    grants: Vec<Grant>,
    policies: Vec<Policy>,
}

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It is not of its kind's shape.
    #[error("read {kind} {name}")]
    Decode {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A binding refers to a role that was not given.
    #[error("{kind} {name} refers to {role}, which was not given")]
    NoRole {
        /// Kind of the binding.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The role.
        role: String,
    },
    /// A policy's expression does not compile.
    #[error("ValidatingAdmissionPolicy {policy}: {expression}: {message}")]
    Expression {
        /// The policy's name.
        policy: String,
        /// The expression.
        expression: String,
        /// What the compiler said.
        message: String,
    },
}

impl AccessRules {
    /// Rules out of documents. What is no role, binding or policy is passed over, so that a whole manifest may be given; a policy counts as bound.
    ///
    /// # Errors
    /// If one cannot be read, or refers to what is not there.
    pub fn from_documents(documents: &[Value]) -> Result<Self, AccessError> {
        let policies: Vec<ValidatingAdmissionPolicy> = of_kind(documents, "ValidatingAdmissionPolicy")?;
        let cluster_roles: Vec<ClusterRole> = of_kind(documents, "ClusterRole")?;
        let roles: Vec<Role> = of_kind(documents, "Role")?;
        let mut grants = Vec::new();
        for binding in of_kind::<ClusterRoleBinding>(documents, "ClusterRoleBinding")? {
            grants.extend(Grant::everywhere(&binding, &cluster_roles)?);
        }
        for binding in of_kind::<RoleBinding>(documents, "RoleBinding")? {
            // Roles of the cluster's own, which are not given, are of no use here.
            grants.extend(Grant::in_namespace(&binding, &roles, &cluster_roles));
        }
        let policies = policies.iter().map(Policy::compile).collect::<Result<_, _>>()?;
        Ok(Self { grants, policies })
    }

    /// Whether a role gives the user this.
    pub(crate) fn allows(&self, user: &User, wish: &Wish<'_>) -> bool {
        self.grants.iter().any(|grant| grant.allows(user, wish))
    }

    /// The rules of all roles that the user has in a namespace.
    pub(crate) fn rules<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a PolicyRule> {
        self.grants.iter().flat_map(move |grant| grant.rules(user, namespace))
    }

    /// What the policies say against a write; none if nothing.
    pub(crate) fn objection(&self, attempt: &Attempt<'_>) -> Option<String> {
        self.policies.iter().find_map(|policy| policy.objection(attempt))
    }
}

fn of_kind<T: DeserializeOwned>(documents: &[Value], kind: &str) -> Result<Vec<T>, AccessError> {
    let found = documents.iter().filter(|document| document["kind"] == kind);
    let read = |document: &Value| {
        T::deserialize(document).map_err(|source| AccessError::Decode {
            kind: kind.to_owned(),
            name: document["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            source,
        })
    };
    found.map(read).collect()
}

#[cfg(test)]
mod tests;

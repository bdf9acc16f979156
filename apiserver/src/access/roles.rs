//! Roles and bindings: <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject};

use super::AccessError;
use crate::auth::User;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
}

/// A role given to somebody.
#[derive(Debug)]
pub(super) struct Grant {
    subjects: Vec<Subject>,
    /// Where it holds; everywhere without.
    namespace: Option<String>,
    rules: Vec<PolicyRule>,
}

impl Grant {
    pub(super) fn everywhere(binding: &ClusterRoleBinding, roles: &[ClusterRole]) -> Result<Option<Self>, AccessError> {
        let role = roles.iter().find(|role| role.metadata.name.as_ref() == Some(&binding.role_ref.name));
        let missing = || AccessError::NoRole {
            kind: "ClusterRoleBinding",
            name: binding.metadata.name.clone().unwrap_or_default(),
            role: binding.role_ref.name.clone(),
        };
        let rules = role.ok_or_else(missing)?.rules.clone().unwrap_or_default();
        Ok(Some(Self { subjects: binding.subjects.clone().unwrap_or_default(), namespace: None, rules }))
    }

    pub(super) fn in_namespace(binding: &RoleBinding, roles: &[Role], cluster_roles: &[ClusterRole]) -> Option<Self> {
        let (namespace, name) = (&binding.metadata.namespace, &binding.role_ref.name);
        let rules = if binding.role_ref.kind == "Role" {
            let is_it =
                |role: &&Role| role.metadata.namespace == *namespace && role.metadata.name.as_ref() == Some(name);
            roles.iter().find(is_it)?.rules.clone()
        } else {
            cluster_roles.iter().find(|role| role.metadata.name.as_ref() == Some(name))?.rules.clone()
        };
        let subjects = binding.subjects.clone().unwrap_or_default();
        Some(Self { subjects, namespace: namespace.clone(), rules: rules.unwrap_or_default() })
    }

    /// What it gives the user in a namespace.
    pub(super) fn rules(&self, user: &User, namespace: &str) -> &[PolicyRule] {
        let holds = self.subjects.iter().any(|subject| is(subject, user))
            && self.namespace.as_deref().is_none_or(|own| own == namespace);
        if holds { &self.rules } else { &[] }
    }

    pub(super) fn allows(&self, user: &User, wish: &Wish<'_>) -> bool {
        self.subjects.iter().any(|subject| is(subject, user))
            && self.namespace.as_deref().is_none_or(|namespace| wish.namespace == Some(namespace))
            && self.rules.iter().any(|rule| covers(rule, wish))
    }
}

fn is(subject: &Subject, user: &User) -> bool {
    match subject.kind.as_str() {
        "User" => subject.name == user.name,
        "Group" => user.groups.contains(&subject.name),
        // There are no service accounts here.
        _ => false,
    }
}

fn covers(rule: &PolicyRule, wish: &Wish<'_>) -> bool {
    let resource = match wish.subresource {
        Some(subresource) => format!("{}/{subresource}", wish.resource),
        None => wish.resource.to_owned(),
    };
    let has = |list: Option<&Vec<String>>, wanted: &str| {
        list.is_some_and(|list| list.iter().any(|one| one == wanted || one == "*"))
    };
    let names = rule.resource_names.as_ref().filter(|names| !names.is_empty());
    has(Some(&rule.verbs), wish.verb)
        && has(rule.api_groups.as_ref(), wish.group)
        && has(rule.resources.as_ref(), &resource)
        && names.is_none_or(|names| wish.name.is_some_and(|name| names.iter().any(|one| one == name)))
}

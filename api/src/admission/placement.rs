//! Rules over what decides the node, and over the template's labels: as Kubernetes has them for pods.
//!
//! Only for what is being stored: a misspelt word here asks for something that no node has, or for nothing, and breaks no guest. So
//! specs that were stored before these rules stay readable.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Toleration};

use super::{Faults, is_dns_subdomain};
use crate::names::LABEL_LIMIT;
use crate::v1alpha1::{ResourceRequirements, TemplateMetadata, VirtualMachineSpec};

/// Operators of a requirement over a node's labels.
const NODE_OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
/// Operators of a requirement over a node's name, the one field that can be asked for.
const FIELD_OPERATORS: &[&str] = &["In", "NotIn"];
const TOLERATION_OPERATORS: &[&str] = &["Equal", "Exists"];
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// Resources that a guest can ask for. Names with a domain are other programs' and let through, as for pods.
const RESOURCES: &[&str] = &["memory", "cpu"];

/// Rules over a VirtualMachine's spec.
pub(super) fn spec(spec: &VirtualMachineSpec, path: &str, faults: &mut Faults) {
    resources(spec.domain.resources.as_ref(), &format!("{path}.domain.resources"), faults);
    labels(spec.node_selector.as_ref(), &format!("{path}.nodeSelector"), faults);
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    if let Some(affinity) = affinity {
        node_affinity(affinity, &format!("{path}.affinity.nodeAffinity"), faults);
    }
    for (index, one) in spec.tolerations.iter().flatten().enumerate() {
        toleration(one, &format!("{path}.tolerations[{index}]"), faults);
    }
}

/// Rules over what a template gives its VirtualMachine: the API server would refuse that one at each start.
pub(super) fn template(metadata: &TemplateMetadata, path: &str, faults: &mut Faults) {
    labels(metadata.labels.as_ref(), &format!("{path}.labels"), faults);
    for key in metadata.annotations.iter().flat_map(BTreeMap::keys) {
        label_key(key, &format!("{path}.annotations"), faults);
    }
}

fn resources(resources: Option<&ResourceRequirements>, path: &str, faults: &mut Faults) {
    let sides = resources.map(|both| [("requests", &both.requests), ("limits", &both.limits)]);
    for (side, map) in sides.into_iter().flatten() {
        for name in map.iter().flat_map(BTreeMap::keys).filter(|name| !name.contains('/')) {
            if !RESOURCES.contains(&name.as_str()) {
                faults.unknown_word(&format!("{path}.{side}"), name, RESOURCES);
            }
        }
    }
}

fn toleration(toleration: &Toleration, path: &str, faults: &mut Faults) {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, value) = (text(&toleration.key), text(&toleration.value));
    let (operator, effect) = (text(&toleration.operator), text(&toleration.effect));
    if !operator.is_empty() && !TOLERATION_OPERATORS.contains(&operator.as_str()) {
        faults.unknown_word(&format!("{path}.operator"), &operator, TOLERATION_OPERATORS);
    } else if key.is_empty() && operator != "Exists" {
        faults.invalid(format!("{path}.operator"), format!("{path}.operator must be Exists, or {path}.key be given."));
    } else if !value.is_empty() && operator == "Exists" {
        let field = format!("{path}.value");
        faults.invalid(&field, format!("{field} '{value}' must be empty where {path}.operator is Exists."));
    }
    if !key.is_empty() {
        label_key(&key, &format!("{path}.key"), faults);
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect.as_str()) {
        faults.unknown_word(&format!("{path}.effect"), &effect, EFFECTS);
    } else if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let field = format!("{path}.effect");
        faults.invalid(&field, format!("{field} must be NoExecute where {path}.tolerationSeconds is given."));
    }
}

fn node_affinity(affinity: &NodeAffinity, path: &str, faults: &mut Faults) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        if required.node_selector_terms.is_empty() {
            faults.invalid(&path, format!("{path} must have a term: without one it admits no node."));
        }
        for (index, one) in required.node_selector_terms.iter().enumerate() {
            term(one, &format!("{path}[{index}]"), faults);
        }
    }
    let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution");
    for (index, one) in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
        if !(1..=100).contains(&one.weight) {
            let field = format!("{path}[{index}].weight");
            faults.invalid(&field, format!("{field} must be between 1 and 100, and is {}.", one.weight));
        }
        term(&one.preference, &format!("{path}[{index}].preference"), faults);
    }
}

fn term(term: &NodeSelectorTerm, path: &str, faults: &mut Faults) {
    for (index, one) in term.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        label_key(&one.key, &format!("{path}.key"), faults);
        requirement(one, &path, NODE_OPERATORS, faults);
    }
    for (index, one) in term.match_fields.iter().flatten().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        if one.key != "metadata.name" {
            faults.unknown_word(&format!("{path}.key"), &one.key, &["metadata.name"]);
        }
        requirement(one, &path, FIELD_OPERATORS, faults);
    }
}

fn requirement(requirement: &NodeSelectorRequirement, path: &str, operators: &[&str], faults: &mut Faults) {
    let operator = requirement.operator.as_str();
    if !operators.contains(&operator) {
        faults.unknown_word(&format!("{path}.operator"), operator, operators);
        return;
    }
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |value: &String| value.parse::<i64>().is_ok();
    let (right, needs) = match operator {
        "In" | "NotIn" => (!values.is_empty(), "at least one value"),
        "Exists" | "DoesNotExist" => (values.is_empty(), "no value"),
        _ => (values.len() == 1 && values.iter().all(number), "one integer"),
    };
    if !right {
        let field = format!("{path}.values");
        faults.invalid(&field, format!("{field} must have {needs} where {path}.operator is {operator}."));
    }
}

fn labels(labels: Option<&BTreeMap<String, String>>, path: &str, faults: &mut Faults) {
    for (key, value) in labels.into_iter().flatten() {
        label_key(key, path, faults);
        if !value.is_empty() && !is_label_word(value) {
            let message = format!(
                "{path}.{key} '{value}' is not the value of a label; use at most {LABEL_LIMIT} of letters, digits, '-', '_' and '.', with a letter or digit at both ends."
            );
            faults.invalid(path, message);
        }
    }
}

fn label_key(key: &str, field: &str, faults: &mut Faults) {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_label_word(name) || prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        let message = format!(
            "{field} '{key}' is not a key; use at most {LABEL_LIMIT} of letters, digits, '-', '_' and '.', with a letter or digit at both ends, after a DNS name and '/' if need be, such as example.com/zone."
        );
        faults.invalid(field, message);
    }
}

/// A label's value that is not empty, or the name part of its key.
fn is_label_word(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= LABEL_LIMIT
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

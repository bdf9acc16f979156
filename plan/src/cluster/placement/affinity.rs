//! Node affinity, as for pods: <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#node-affinity>.

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use crate::cluster::NodeFacts;

/// Whether the required terms admit the node: any one of them, each of whose requirements must hold.
pub(super) fn admits(affinity: &NodeAffinity, node: &NodeFacts) -> bool {
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
    required.is_none_or(|selector| selects(selector, node))
}

/// Whether any term selects the node.
pub(super) fn selects(selector: &NodeSelector, node: &NodeFacts) -> bool {
    selector.node_selector_terms.iter().any(|term| matches(term, node))
}

/// Sum of the weights of the preferred terms that match.
pub(super) fn preference(affinity: &NodeAffinity, node: &NodeFacts) -> i64 {
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    preferred.filter(|term| matches(&term.preference, node)).map(|term| i64::from(term.weight)).sum()
}

/// A term without requirements matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let mut expressions = term.match_expressions.iter().flatten();
    let mut fields = term.match_fields.iter().flatten();
    let empty = term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten()).next().is_none();
    !empty
        && expressions.all(|requirement| holds(requirement, node.labels.get(&requirement.key).map(String::as_str)))
        && fields.all(|requirement| requirement.key == "metadata.name" && holds(requirement, Some(&node.name)))
}

/// An operator that we do not know holds for no node.
fn holds(requirement: &NodeSelectorRequirement, actual: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = actual.is_some_and(|actual| values.iter().any(|value| value == actual));
    let compared = || {
        let bound = values.first()?.parse::<i64>().ok()?;
        Some(actual?.parse::<i64>().ok()?.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}

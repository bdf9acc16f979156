//! Which virtual machines a node has, or is to have. Pure.

use std::fmt;

use api::v1alpha1::{OfflineVirtualMachine, Phase, VirtualMachine};

/// A virtual machine that keeps its node from being empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Nobody starts it again.
    pub(super) is_bare: bool,
    pub(super) is_deleting: bool,
    /// For people: its phase, or that its node is lost.
    state: String,
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtualmachine/{} in namespace {}", self.name, self.namespace)
    }
}

impl Guest {
    fn of(vm: &VirtualMachine) -> Self {
        let meta = &vm.metadata;
        let status = vm.status.clone().unwrap_or_default();
        let is_lost = status.conditions.iter().any(|condition| condition.reason.as_deref() == Some("NodeLost"));
        let phase = status.phase.unwrap_or_default().as_str();
        let is_controlled = meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            is_bare: !is_controlled,
            is_deleting: meta.deletion_timestamp.is_some(),
            state: if is_lost { "its node is lost" } else { phase }.to_owned(),
        }
    }
}

/// Those of these VMs that are bound to the node. One that has ended is none, unless it is still being cleaned up.
pub(super) fn bound_to(node: &str, vms: &[VirtualMachine]) -> Vec<Guest> {
    let is_bound = |vm: &&VirtualMachine| node_of(vm) == Some(node);
    let is_over = |vm: &VirtualMachine| vm.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_final);
    let guests = vms.iter().filter(is_bound).map(|vm| (Guest::of(vm), is_over(vm)));
    guests.filter(|(guest, is_over)| guest.is_deleting || !is_over).map(|(guest, _)| guest).collect()
}

/// Namespace and name of the OVMs whose placement holds on to the node.
pub(super) fn placed_on(node: &str, ovms: &[OfflineVirtualMachine]) -> Vec<(String, String)> {
    let is_placed = |ovm: &&OfflineVirtualMachine| {
        let placement = ovm.status.as_ref().and_then(|status| status.placement.as_ref());
        placement.is_some_and(|placement| placement.node_name == node && !placement.released)
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ovms.iter().filter(is_placed).map(|ovm| (text(&ovm.metadata.namespace), text(&ovm.metadata.name))).collect()
}

/// A VM of a placement, if it is not bound yet: the controller is about to bind it.
pub(super) fn unbound(vm: &VirtualMachine) -> Option<Guest> {
    node_of(vm).is_none().then(|| Guest::of(vm))
}

/// Everybody who is left, in one line.
pub(super) fn describe(guests: &[Guest]) -> String {
    let one = |guest: &Guest| {
        let word = if guest.is_deleting { "stopping, " } else { "" };
        format!("{}/{} ({word}{})", guest.namespace, guest.name, guest.state)
    };
    guests.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn node_of(vm: &VirtualMachine) -> Option<&str> {
    vm.status.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vm(name: &str, metadata: &Value, status: &Value) -> VirtualMachine {
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid of {name}")},
            "spec": {"domain": {"devices": {}}}, "status": status,
        });
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn owned() -> Value {
        json!({"ownerReferences": [{"apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "name": "a", "uid": "u", "controller": true}]})
    }

    #[test]
    fn guests_of_a_node_are_those_bound_to_it_and_not_over() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let vms = [
            vm("owned", &owned(), &json!({"nodeName": "n1", "phase": "Running"})),
            vm("bare", &json!({}), &json!({"nodeName": "n1", "phase": "Scheduled"})),
            vm("elsewhere", &json!({}), &json!({"nodeName": "n2", "phase": "Running"})),
            vm("unbound", &json!({}), &json!({"nodeName": "", "phase": "Pending"})),
            vm("over", &json!({}), &json!({"nodeName": "n1", "phase": "Succeeded"})),
            vm("cleaned", &going, &json!({"nodeName": "n1", "phase": "Failed"})),
        ];
        let guests = bound_to("n1", &vms);
        let facts: Vec<_> =
            guests.iter().map(|guest| (guest.name.as_str(), guest.is_bare, guest.is_deleting)).collect();
        assert_eq!(facts, [("owned", false, false), ("bare", true, false), ("cleaned", true, true)]);
        assert_eq!(describe(&guests), "ns/owned (Running), ns/bare (Scheduled), ns/cleaned (stopping, Failed)");
        assert!(unbound(&vms[3]).is_some() && unbound(&vms[0]).is_none());
    }

    #[test]
    fn a_guest_of_a_lost_node_is_told_as_such() {
        let lost = json!({"nodeName": "n1", "phase": "Running", "conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeLost"}]});
        assert_eq!(describe(&bound_to("n1", &[vm("vm", &owned(), &lost)])), "ns/vm (its node is lost)");
    }

    #[test]
    fn a_placement_that_is_not_released_holds_on_to_its_node() {
        let ovm = |name: &str, node: &str, released: bool| -> OfflineVirtualMachine {
            serde_json::from_value(json!({
                "apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine",
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"running": true, "template": {"spec": {"domain": {"devices": {}}}}},
                "status": {"placement": {"vmUID": "u", "nodeName": node, "released": released}},
            }))
            .unwrap()
        };
        let ovms = [ovm("held", "n1", false), ovm("free", "n1", true), ovm("elsewhere", "n2", false)];
        assert_eq!(placed_on("n1", &ovms), [("ns".to_owned(), "held".to_owned())]);
    }
}

//! The Node object of a host without kubelet: made, described and kept Ready by the agent itself.

use api::names;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::objects::{ApiError, within};

/// Where kubelets' Leases are.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";
/// As kubelets' Leases have it.
const NODE_LEASE_SECONDS: i32 = 40;

/// What the host has for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCapacity {
    /// Memory.
    pub memory_kib: u64,
    /// Processors.
    pub cpus: u32,
}

/// Makes the Node if it is missing, and brings its labels, taint and capacity up to date.
pub(super) async fn register(client: &Client, node: &str, capacity: NodeCapacity, arch: &str) -> Result<(), ApiError> {
    const REGISTER: &str = "register the node";
    let nodes: Api<Node> = Api::all(client.clone());
    let labels = json!({
        "kubernetes.io/hostname": node, "kubernetes.io/arch": arch, "kubernetes.io/os": "linux",
        names::REGISTERED_BY_LABEL: names::REGISTERED_BY_AGENT,
    });
    if within(REGISTER, nodes.get_metadata_opt(node)).await?.is_none() {
        let taint = json!({"key": names::HYPERVISOR_TAINT, "effect": "NoSchedule"});
        let new = json!({"metadata": {"name": node, "labels": labels}, "spec": {"taints": [taint]}});
        let new: Node = serde_json::from_value(new)
            .map_err(|error| ApiError::Refused { operation: REGISTER, message: error.to_string() })?;
        within(REGISTER, nodes.create(&PostParams::default(), &new)).await?;
    } else {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        within(REGISTER, nodes.patch_metadata(node, &PatchParams::default(), &patch)).await?;
    }
    write_status(client, node, capacity, true, Vec::new()).await
}

/// Writes capacity, condition Ready, and the conditions of the node's own checks.
pub(super) async fn write_status(
    client: &Client,
    node: &str,
    capacity: NodeCapacity,
    ready: bool,
    checks: Vec<Value>,
) -> Result<(), ApiError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(node_status(capacity, ready, checks, Timestamp::now()));
    within("report the node", nodes.patch_status(node, &PatchParams::default(), &patch)).await.map(drop)
}

/// Renews the Lease by which Kubernetes itself sees that a node lives.
pub(crate) async fn renew_node_lease(client: &Client, node: &str) -> Result<(), ApiError> {
    const RENEW: &str = "renew the node's own lease";
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let spec = json!({"holderIdentity": node, "leaseDurationSeconds": NODE_LEASE_SECONDS, "renewTime": MicroTime(Timestamp::now())});
    let patch = Patch::Merge(json!({ "spec": spec }));
    match within(RENEW, leases.patch_metadata(node, &PatchParams::default(), &patch)).await {
        Err(ApiError::Missing { .. }) => {}
        other => return other.map(drop),
    }
    let lease = json!({"metadata": {"name": node}, "spec": spec});
    let lease: Lease = serde_json::from_value(lease)
        .map_err(|error| ApiError::Refused { operation: RENEW, message: error.to_string() })?;
    if let Err(ApiError::Missing { .. }) = within(RENEW, leases.create(&PostParams::default(), &lease)).await {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NODE_LEASES}}))
            .map_err(|error| ApiError::Refused { operation: RENEW, message: error.to_string() })?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        within(RENEW, namespaces.create(&PostParams::default(), &namespace)).await?;
        within(RENEW, leases.create(&PostParams::default(), &lease)).await?;
    }
    Ok(())
}

/// The Node's status. No pod fits: there is no kubelet to run one.
fn node_status(capacity: NodeCapacity, ready: bool, checks: Vec<Value>, now: Timestamp) -> Value {
    let resources =
        json!({"memory": format!("{}Ki", capacity.memory_kib), "cpu": capacity.cpus.to_string(), "pods": "0"});
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let (status, reason, message) = if ready {
        ("True", "AgentReady", "the agent and libvirt answer")
    } else {
        ("False", "LibvirtNotReady", "libvirt does not answer")
    };
    let condition = json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let conditions: Vec<Value> = std::iter::once(condition).chain(checks).collect();
    json!({"status": {"capacity": resources, "allocatable": resources, "conditions": conditions}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_node_has_room_for_guests_and_none_for_pods() {
        let status = node_status(NodeCapacity { memory_kib: 1024, cpus: 2 }, true, Vec::new(), Timestamp::UNIX_EPOCH);
        let allocatable = &status["status"]["allocatable"];
        assert_eq!(
            (&allocatable["memory"], &allocatable["cpu"], &allocatable["pods"]),
            (&json!("1024Ki"), &json!("2"), &json!("0"))
        );
        let down = node_status(NodeCapacity { memory_kib: 1024, cpus: 2 }, false, Vec::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(down["status"]["conditions"][0]["status"], "False");
    }
}

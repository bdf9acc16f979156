//! The Node object of a host without kubelet: made, described and kept Ready by the agent itself.

use api::names;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::doctor::NodeCheck;
use crate::libvirt::HostFacts;
use crate::objects::{ApiError, within};

/// Where kubelets' Leases are.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";
/// The condition that every Node has.
const READY: &str = "Ready";
/// As kubelets' Leases have it.
const NODE_LEASE_SECONDS: i32 = 40;

/// What the host is, and what it has for guests. Read when the agent starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Memory.
    pub memory_kib: u64,
    /// Processors.
    pub cpus: u32,
    /// Architecture, in Kubernetes' words.
    pub architecture: String,
    /// Version of libvirt's daemon.
    pub libvirt: String,
    /// `PRETTY_NAME` of the host's os-release, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// As `uname -r` says it.
    pub kernel: String,
    /// Of this boot.
    pub boot_id: String,
    /// Content of `/etc/machine-id`.
    pub machine_id: String,
    /// The host's own UUID, from its firmware; empty where that has none.
    pub system_uuid: String,
}

impl NodeFacts {
    /// What libvirt and the host's files say. A file that cannot be read leaves its fact empty: the Node is for people then, not for guests.
    pub fn read(host: &HostFacts) -> Self {
        let line = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let release = ["/etc/os-release", "/usr/lib/os-release"].map(line);
        Self {
            memory_kib: host.memory_kib,
            cpus: host.cpus,
            architecture: go_arch().to_owned(),
            libvirt: host.libvirt.to_string(),
            os_image: release.iter().find_map(|text| pretty_name(text)).unwrap_or_default(),
            kernel: line("/proc/sys/kernel/osrelease"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            machine_id: line("/etc/machine-id"),
            system_uuid: host.uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
        }
    }
}

/// This program's architecture in Kubernetes' words.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `PRETTY_NAME` of an os-release file: <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>.
fn pretty_name(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

/// Makes the Node if it is missing, and brings its labels, taint and facts up to date.
pub(super) async fn register(client: &Client, node: &str, facts: &NodeFacts) -> Result<(), ApiError> {
    const REGISTER: &str = "register the node";
    let nodes: Api<Node> = Api::all(client.clone());
    let labels = json!({
        "kubernetes.io/hostname": node, "kubernetes.io/arch": facts.architecture, "kubernetes.io/os": "linux",
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
    write_status(client, node, facts, true, None).await
}

/// Writes facts, condition Ready, and the conditions of the node's own checks; `None` leaves those as they are.
pub(super) async fn write_status(
    client: &Client,
    node: &str,
    facts: &NodeFacts,
    ready: bool,
    checks: Option<&[NodeCheck]>,
) -> Result<(), ApiError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let before = within("read the node", nodes.get(node)).await?;
    let before = before.status.and_then(|status| status.conditions).unwrap_or_default();
    let conditions = conditions(&before, ready, checks, Timestamp::now());
    let patch = Patch::Merge(node_status(node, facts, &conditions));
    within("report the node", nodes.patch_status(node, &PatchParams::default(), &patch)).await.map(drop)
}

/// Condition Ready, and that of each check; where no checks were made, the others are as before.
fn conditions(
    before: &[NodeCondition],
    ready: bool,
    checks: Option<&[NodeCheck]>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let (reason, message) = if ready {
        ("AgentReady", "the agent and libvirt answer")
    } else {
        ("LibvirtNotReady", "libvirt does not answer: condition kubevirt.io/GuestsRunnable says what to do")
    };
    let ready = condition(before, (READY, ready), reason, message, now);
    let of_check = |check: &NodeCheck| {
        let reason = if check.is_good { "CheckPassed" } else { "CheckFailed" };
        condition(before, (check.condition, check.is_good), reason, &check.message, now)
    };
    let others: Vec<_> = match checks {
        None => before.iter().filter(|condition| condition.type_ != READY).cloned().collect(),
        Some(checks) => checks.iter().map(of_check).collect(),
    };
    std::iter::once(ready).chain(others).collect()
}

/// A condition as it is now. It keeps the time since when it is that, also across restarts of the agent.
fn condition(
    before: &[NodeCondition],
    (type_, is_true): (&str, bool),
    reason: &str,
    message: &str,
    now: Timestamp,
) -> NodeCondition {
    let status = if is_true { "True" } else { "False" };
    let now = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let same = before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
    NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: same.and_then(|condition| condition.last_transition_time.clone()).or_else(|| now.clone()),
        last_heartbeat_time: now,
    }
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

/// The Node's status. No pod fits: there is no kubelet to run one. In place of a kubelet's version stands the agent's, and of a container
/// runtime libvirt's.
fn node_status(node: &str, facts: &NodeFacts, conditions: &[NodeCondition]) -> Value {
    let resources = json!({"memory": format!("{}Ki", facts.memory_kib), "cpu": facts.cpus.to_string(), "pods": "0"});
    let info = json!({
        "operatingSystem": "linux", "architecture": facts.architecture, "osImage": facts.os_image, "kernelVersion": facts.kernel,
        "bootID": facts.boot_id, "machineID": facts.machine_id, "systemUUID": facts.system_uuid,
        "containerRuntimeVersion": format!("libvirt://{}", facts.libvirt),
        "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "+ovm"), "kubeProxyVersion": "",
    });
    json!({"status": {
        "capacity": resources, "allocatable": resources, "nodeInfo": info,
        "addresses": [{"type": "Hostname", "address": node}], "conditions": conditions,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_node_has_room_for_guests_and_none_for_pods() {
        let facts = NodeFacts { memory_kib: 1024, cpus: 2, libvirt: "11.3.0".to_owned(), ..NodeFacts::default() };
        let status = node_status("n1", &facts, &[]);
        let allocatable = &status["status"]["allocatable"];
        assert_eq!(
            (&allocatable["memory"], &allocatable["cpu"], &allocatable["pods"]),
            (&json!("1024Ki"), &json!("2"), &json!("0"))
        );
        assert_eq!(status["status"]["nodeInfo"]["containerRuntimeVersion"], "libvirt://11.3.0");
    }

    #[test]
    fn each_condition_keeps_the_time_of_its_last_change() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut known = Vec::new();
        for (is_good, now, changed) in [(true, 100, 100), (true, 160, 100), (false, 220, 220), (false, 280, 220)] {
            let space = NodeCheck { condition: "kubevirt.io/DiskSpace", is_good, message: format!("seen at {now}") };
            known = conditions(&known, is_good, Some(&[space]), at(now));
            assert_eq!(known.len(), 2);
            for condition in &known {
                assert_eq!(condition.status, if is_good { "True" } else { "False" });
                let times = [&condition.last_heartbeat_time, &condition.last_transition_time];
                assert_eq!(times.map(|time| time.as_ref().unwrap().0), [at(now), at(changed)]);
            }
            assert_eq!(known[1].message.as_deref(), Some(format!("seen at {now}").as_str()));
        }
    }

    #[test]
    fn what_the_checks_said_stays_until_they_are_made_again() {
        let space = NodeCheck { condition: "kubevirt.io/DiskSpace", is_good: false, message: "0 MiB free".to_owned() };
        let before = conditions(&[], true, Some(&[space]), Timestamp::UNIX_EPOCH);
        let after = conditions(&before, false, None, Timestamp::from_second(60).unwrap());
        assert_eq!((after[0].status.as_str(), &after[1..]), ("False", &before[1..]));
    }

    #[test]
    fn the_system_s_name_is_read_with_or_without_quotes() {
        let debian = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(debian).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty_name("PRETTY_NAME=Arch\n").as_deref(), Some("Arch"));
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\n"), None);
    }
}

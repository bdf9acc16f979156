//! The Node object of a host without kubelet: made, described and kept Ready by the agent itself.

use api::names;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::libvirt::HostFacts;
use crate::objects::{ApiError, within};

/// Where kubelets' Leases are.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";
/// As kubelets' Leases have it.
const NODE_LEASE_SECONDS: i32 = 40;

/// What the host is, and what it has for guests. Read when the agent starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Memory.
    pub memory_kib: u64,
    /// Processors.
    pub cpus: u32,
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
            libvirt: host.libvirt.to_string(),
            os_image: release.iter().find_map(|text| pretty_name(text)).unwrap_or_default(),
            kernel: line("/proc/sys/kernel/osrelease"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            machine_id: line("/etc/machine-id"),
            system_uuid: host.uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
        }
    }
}

/// `PRETTY_NAME` of an os-release file: <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>.
fn pretty_name(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

/// Makes the Node if it is missing, and brings its labels, taint and facts up to date.
pub(super) async fn register(client: &Client, node: &str, facts: &NodeFacts, arch: &str) -> Result<(), ApiError> {
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
    write_status(client, node, facts, arch, true, None).await
}

/// Writes facts, condition Ready, and the conditions of the node's own checks; `None` leaves those as they are.
pub(super) async fn write_status(
    client: &Client,
    node: &str,
    facts: &NodeFacts,
    arch: &str,
    ready: bool,
    checks: Option<Vec<Value>>,
) -> Result<(), ApiError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let before = within("read the node", nodes.get(node)).await?;
    let since = ready_since(&before, ready);
    let checks = checks.unwrap_or_else(|| checks_of(&before));
    let mut patch = node_status(facts, ready, since, checks, Timestamp::now());
    patch["status"]["nodeInfo"]["architecture"] = arch.into();
    patch["status"]["addresses"] = json!([{"type": "Hostname", "address": node}]);
    within("report the node", nodes.patch_status(node, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

/// The conditions of a Node beside Ready.
fn checks_of(node: &Node) -> Vec<Value> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ != "Ready").map(|condition| json!(condition)).collect()
}

/// Since when condition Ready has been what it is now, if it was so before.
fn ready_since(node: &Node, ready: bool) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let before = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    let same = before.status == if ready { "True" } else { "False" };
    before.last_transition_time.as_ref().filter(|_| same).map(|time| time.0)
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
fn node_status(facts: &NodeFacts, ready: bool, since: Option<Timestamp>, checks: Vec<Value>, now: Timestamp) -> Value {
    let resources = json!({"memory": format!("{}Ki", facts.memory_kib), "cpu": facts.cpus.to_string(), "pods": "0"});
    let info = json!({
        "operatingSystem": "linux", "osImage": facts.os_image, "kernelVersion": facts.kernel,
        "bootID": facts.boot_id, "machineID": facts.machine_id, "systemUUID": facts.system_uuid,
        "containerRuntimeVersion": format!("libvirt://{}", facts.libvirt),
        "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "+ovm"), "kubeProxyVersion": "",
    });
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let (status, reason, message) = if ready {
        ("True", "AgentReady", "the agent and libvirt answer")
    } else {
        ("False", "LibvirtNotReady", "libvirt does not answer: condition kubevirt.io/GuestsRunnable says what to do")
    };
    let condition = json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": since.unwrap_or(now),
    });
    let conditions: Vec<Value> = std::iter::once(condition).chain(checks).collect();
    json!({"status": {"capacity": resources, "allocatable": resources, "nodeInfo": info, "conditions": conditions}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> NodeFacts {
        NodeFacts { memory_kib: 1024, cpus: 2, libvirt: "11.3.0".to_owned(), ..NodeFacts::default() }
    }

    #[test]
    fn a_registered_node_has_room_for_guests_and_none_for_pods() {
        let status = node_status(&facts(), true, None, Vec::new(), Timestamp::UNIX_EPOCH);
        let allocatable = &status["status"]["allocatable"];
        assert_eq!(
            (&allocatable["memory"], &allocatable["cpu"], &allocatable["pods"]),
            (&json!("1024Ki"), &json!("2"), &json!("0"))
        );
        assert_eq!(status["status"]["nodeInfo"]["containerRuntimeVersion"], "libvirt://11.3.0");
        let down = node_status(&facts(), false, None, Vec::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(down["status"]["conditions"][0]["status"], "False");
    }

    #[test]
    fn ready_keeps_the_time_of_its_last_change() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut node = Node::default();
        for (ready, now, changed) in [(true, 100, 100), (true, 160, 100), (false, 220, 220), (false, 280, 220)] {
            let status = node_status(&facts(), ready, ready_since(&node, ready), Vec::new(), at(now));
            node = serde_json::from_value(status).unwrap();
            assert!(checks_of(&node).is_empty());
            let ready = &node.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
            let times = [&ready.last_heartbeat_time, &ready.last_transition_time].map(|time| time.as_ref().unwrap().0);
            assert_eq!(times, [at(now), at(changed)]);
        }
    }

    #[test]
    fn what_the_checks_said_outlives_a_restart_of_the_agent() {
        let space = json!({"type": "kubevirt.io/DiskSpace", "status": "False", "message": "0 MiB free"});
        let status = node_status(&facts(), true, None, vec![space.clone()], Timestamp::UNIX_EPOCH);
        assert_eq!(checks_of(&serde_json::from_value(status).unwrap()), [space]);
    }

    #[test]
    fn the_system_s_name_is_read_with_or_without_quotes() {
        let debian = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(debian).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty_name("PRETTY_NAME=Arch\n").as_deref(), Some("Arch"));
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\n"), None);
    }
}

//! Nodes: what of a Node object placement looks at, and what a silent agent's Node is told.

use api::Quantity;
use api::names::{OUT_OF_SERVICE_TAINT, RESERVED_FOR_GUESTS_ANNOTATION, SCHEDULABLE_LABEL};
use k8s_openapi::api::core::v1::{Node, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::objects::{is_deleting, version_of};
use super::{LeaseFact, LeaseVerdict, NodeFacts, Now, Requests};

const BYTES_PER_KIB: u64 = 1024;

impl NodeFacts {
    /// What a Node object says. Quantities that cannot be read count as nothing.
    pub fn from_object(node: &Node) -> Self {
        let meta = &node.metadata;
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let annotations = meta.annotations.as_ref();
        let reserved =
            annotations.and_then(|all| all.get(RESERVED_FOR_GUESTS_ANNOTATION)).map(|text| Quantity(text.clone()));
        Self {
            name: meta.name.clone().unwrap_or_default(),
            version: version_of(meta),
            labels: meta.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            closed: spec.and_then(|spec| spec.unschedulable) == Some(true) || is_deleting(meta),
            allocatable: Requests {
                memory_kib: kib(allocatable.and_then(|all| all.get("memory"))),
                cpu_millis: millis(allocatable.and_then(|all| all.get("cpu"))),
            },
            reserved_kib: reserved.and_then(|quantity| quantity.to_units().ok()).unwrap_or_default() / BYTES_PER_KIB,
        }
    }

    /// Whether nothing that placement or fencing looks at differs. A heartbeat makes a new version of the same place.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let version = other.version.clone();
        Self { version, ..self.clone() } == *other
    }

    /// Whether the administrator says that the node is off (F1).
    pub fn is_out_of_service(&self) -> bool {
        self.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE_TAINT)
    }

    /// Whether the node's agent accepts guests, as it says itself.
    pub fn is_schedulable(&self) -> bool {
        self.labels.get(SCHEDULABLE_LABEL).is_some_and(|value| value == "true")
    }
}

/// Whether the Node has to be told that it is not schedulable, because its agent is silent. The agent takes it back.
pub fn is_unschedulable_due(now: Now, node: &NodeFacts, lease: &LeaseFact) -> bool {
    node.is_schedulable() && lease.verdict(now.monotonic) == LeaseVerdict::Expired
}

/// What a pod takes from its node, as the scheduler counts it: the containers together, or the largest init container, plus overhead.
/// Nothing, once it has ended.
pub fn pod_requests(pod: &Pod) -> Requests {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let Some(spec) = pod.spec.as_ref().filter(|_| !matches!(phase, Some("Succeeded" | "Failed"))) else {
        return Requests::default();
    };
    let inits = spec.init_containers.iter().flatten();
    let (sidecars, inits): (Vec<_>, Vec<_>) = inits.partition(|init| init.restart_policy.as_deref() == Some("Always"));
    let of = |resources: Option<&ResourceRequirements>| {
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        Requests {
            memory_kib: kib(requests.and_then(|all| all.get("memory"))),
            cpu_millis: millis(requests.and_then(|all| all.get("cpu"))),
        }
    };
    let running: Requests =
        spec.containers.iter().chain(sidecars).map(|container| of(container.resources.as_ref())).sum();
    let largest = inits.iter().map(|init| of(init.resources.as_ref())).fold(running, |most, one| Requests {
        memory_kib: most.memory_kib.max(one.memory_kib),
        cpu_millis: most.cpu_millis.max(one.cpu_millis),
    });
    let overhead = spec.overhead.as_ref();
    largest
        + Requests {
            memory_kib: kib(overhead.and_then(|all| all.get("memory"))),
            cpu_millis: millis(overhead.and_then(|all| all.get("cpu"))),
        }
}

fn kib(quantity: Option<&resource::Quantity>) -> u64 {
    let bytes = quantity.and_then(|quantity| Quantity(quantity.0.clone()).to_units().ok());
    bytes.unwrap_or_default() / BYTES_PER_KIB
}

fn millis(quantity: Option<&resource::Quantity>) -> u64 {
    quantity.and_then(|quantity| Quantity(quantity.0.clone()).to_millis().ok()).unwrap_or_default()
}

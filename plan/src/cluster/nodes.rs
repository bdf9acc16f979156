//! Nodes: what of a Node object placement looks at, and what a silent agent's Node is told.

use api::Quantity;
use api::names::{MACHINE_TYPES_ANNOTATION, OUT_OF_SERVICE_TAINT, RESERVED_FOR_GUESTS_ANNOTATION, SCHEDULABLE_LABEL};
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
            machine_types: annotations
                .and_then(|all| all.get(MACHINE_TYPES_ANNOTATION))
                .map(|list| {
                    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
                })
                .unwrap_or_default(),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {
                "name": "n", "uid": "u", "resourceVersion": "5",
                "labels": {"kubevirt.io/schedulable": "true"},
                "annotations": {"kubevirt.io/reserved-memory": "2Mi", "kubevirt.io/heartbeat": "2026-01-01T00:00:00Z"},
            },
            "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]},
            "status": {"capacity": {"memory": "16Gi", "cpu": "8"}, "allocatable": {"memory": "8Gi", "cpu": "3500m"}},
        }))
        .unwrap()
    }

    #[test]
    fn facts_of_a_node() {
        let facts = NodeFacts::from_object(&node());
        assert_eq!(facts.allocatable, Requests { memory_kib: 8 << 20, cpu_millis: 3500 });
        assert_eq!(facts.reserved_kib, 2048);
        assert!(facts.is_schedulable() && facts.is_out_of_service() && !facts.closed);
        let mut cordoned = node();
        cordoned.spec.get_or_insert_default().unschedulable = Some(true);
        assert!(NodeFacts::from_object(&cordoned).closed);
        let mut without = node();
        without.status.get_or_insert_default().allocatable = None;
        assert_eq!(NodeFacts::from_object(&without).allocatable.memory_kib, 16 << 20, "capacity stands in");
    }

    #[test]
    fn a_heartbeat_changes_nothing_that_matters() {
        let before = NodeFacts::from_object(&node());
        let mut beaten = node();
        beaten.metadata.resource_version = Some("6".to_owned());
        beaten
            .metadata
            .annotations
            .get_or_insert_default()
            .insert("kubevirt.io/heartbeat".to_owned(), "later".to_owned());
        assert!(before.is_same_place(&NodeFacts::from_object(&beaten)));
        beaten.metadata.labels = None;
        assert!(!before.is_same_place(&NodeFacts::from_object(&beaten)));
    }

    #[test]
    fn a_silent_agent_s_node_is_told_once() {
        let facts = NodeFacts::from_object(&node());
        let lease = LeaseFact { version: Some("1".into()), since: Duration::ZERO, renewed: true };
        assert!(!is_unschedulable_due(Now::at(Duration::from_secs(39)), &facts, &lease));
        assert!(is_unschedulable_due(Now::at(Duration::from_secs(40)), &facts, &lease));
        let told = NodeFacts { labels: std::collections::BTreeMap::new(), ..facts };
        assert!(!is_unschedulable_due(Now::at(Duration::from_secs(40)), &told, &lease));
    }

    #[test]
    fn pods_count_as_the_scheduler_counts_them() {
        let container =
            |memory: &str, cpu: &str| json!({"name": "c", "resources": {"requests": {"memory": memory, "cpu": cpu}}});
        let mut sidecar = container("1Mi", "1m");
        sidecar.as_object_mut().unwrap().insert("restartPolicy".to_owned(), json!("Always"));
        let pod = |phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p"},
                "spec": {
                    "containers": [container("2Mi", "100m"), container("3Mi", "50m")],
                    "initContainers": [container("10Mi", "10m"), sidecar],
                    "overhead": {"memory": "4Mi"},
                },
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        assert_eq!(pod_requests(&pod("Running")), Requests { memory_kib: 14 << 10, cpu_millis: 151 });
        assert_eq!(pod_requests(&pod("Succeeded")), Requests::default());
    }
}

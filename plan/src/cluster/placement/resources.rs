//! What a guest takes from its node, and what a node has left.

use api::admission::validate_vm_spec;
use api::v1alpha1::VirtualMachineSpec;
use api::validated::ValidatedSpec;

use crate::cluster::{ObservedNode, Requests};

/// Memory that QEMU takes besides the guest's own: its code, device models and page tables. A paused 64M guest has 31 MB in all; a guest
/// that does I/O, or is emulated with its translation cache capped, stays below this.
pub const GUEST_OVERHEAD_KIB: u64 = 128 * 1024;

/// What a VM takes from its node. A spec that breaks an admission rule is never started, and takes nothing.
pub fn guest_requests(spec: &VirtualMachineSpec) -> Requests {
    validate_vm_spec(spec, "spec").map(|valid| with_overhead(&valid)).unwrap_or_default()
}

pub(super) fn with_overhead(spec: &ValidatedSpec) -> Requests {
    Requests { memory_kib: spec.memory_kib.saturating_add(GUEST_OVERHEAD_KIB), cpu_millis: spec.cpu_request_millis }
}

/// What a node has left for guests: what pods leave, but at least what is reserved for guests, less what guests take.
pub(super) fn free(node: &ObservedNode) -> Requests {
    let all = node.facts.allocatable;
    let left_by_pods = all.memory_kib.saturating_sub(node.pods.memory_kib);
    let for_guests = left_by_pods.max(node.facts.reserved_kib.min(all.memory_kib));
    Requests {
        memory_kib: for_guests.saturating_sub(node.guests.memory_kib),
        cpu_millis: all.cpu_millis.saturating_sub(node.pods.cpu_millis).saturating_sub(node.guests.cpu_millis),
    }
}

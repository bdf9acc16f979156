//! What a controller sees: caches and reads as they are, unless a lie takes away the rule that asked for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::names;
use api::v1alpha1::{OfflineVirtualMachine, Placement, VirtualMachine};
use k8s_openapi::api::core::v1::Taint;
use uuid::Uuid;

use super::super::api::{NodeObject, Snapshot};
use super::super::world::World;
use crate::cluster::{
    Installation, LeaseFact, NodeFacts, ObjectKey, Observed, ObservedHome, ObservedNode, ReadOrder, Requests,
    SeenTaint, UuidRule, Version, bound_node,
};

/// Memory and CPU of a node: enough for every guest of the simulation.
const PLENTY: Requests = Requests { memory_kib: 1 << 30, cpu_millis: 1 << 20 };

pub(super) fn observe_cached(world: &World, index: usize, key: &ObjectKey) -> Observed {
    let view = world.controllers.get(index).map(|controller| world.api.at(controller.seen)).unwrap_or_default();
    let ovm = view.ovms.get(key).cloned();
    let vm = view.vms.get(key).cloned();
    observed(world, index, key, &view, ovm, vm, ReadOrder::CACHED, &BTreeMap::new())
}

#[expect(clippy::too_many_arguments, reason = "the parts of one observation, gathered in one place")]
pub(super) fn observed(
    world: &World,
    index: usize,
    key: &ObjectKey,
    view: &Snapshot,
    ovm: Option<Arc<OfflineVirtualMachine>>,
    vm: Option<Arc<VirtualMachine>>,
    order: ReadOrder,
    read: &BTreeMap<String, ObservedHome>,
) -> Observed {
    let controller = world.controllers.get(index);
    let lease = |name: &str| lease_fact(world, index, name);
    let (ovm, vm) = (ovm.map(|ovm| shown_ovm(world, vm.as_deref(), ovm)), vm);
    let vm = vm.map(|vm| shown_vm(world, ovm.as_deref(), vm));
    let placed = ovm.as_ref().and_then(|ovm| ovm.status.as_ref()?.placement.as_ref()).map(|p| p.node_name.clone());
    let bound = vm.as_ref().and_then(|vm| bound_node(vm)).map(str::to_owned);
    let homes = placed
        .into_iter()
        .chain(bound)
        .map(|name| {
            let home = read
                .get(&name)
                .cloned()
                .unwrap_or_else(|| home(world, view.nodes.get(&name), home_lease(world, index, &name), false));
            (name, home)
        })
        .collect();
    Observed {
        key: key.clone(),
        ovm,
        vm,
        revisions: None,
        uuid_holder: None,
        order,
        homes,
        nodes: view
            .nodes
            .iter()
            .map(|(name, node)| ObservedNode {
                facts: Arc::new(facts(world, name, node)),
                lease: lease(name),
                guests: Requests::default(),
                pods: Requests::default(),
            })
            .collect(),
        claims: BTreeMap::new(),
        installation: Arc::new(Installation {
            cluster_uid: Uuid::from_u128(1),
            network: "none".to_owned(),
            nic_model: "e1000".to_owned(),
            uuid_rule: UuidRule::Cluster,
        }),
        failure: controller.and_then(|controller| controller.failures.get(key)).cloned(),
    }
}

/// The Lease of a node that holds the guest, or may.
pub(super) fn home_lease(world: &World, index: usize, node: &str) -> LeaseFact {
    if world.lies.leases_expired {
        return LeaseFact { version: None, since: Duration::ZERO, renewed: false };
    }
    if world.lies.leases_look_live {
        return LeaseFact { since: world.now, renewed: true, ..lease_fact(world, index, node) };
    }
    lease_fact(world, index, node)
}

pub(super) fn lease_fact(world: &World, index: usize, node: &str) -> LeaseFact {
    let controller = world.controllers.get(index);
    let unknown = || LeaseFact::seen(None, None, controller.map_or(world.now, |controller| controller.started));
    controller.and_then(|controller| controller.leases.get(node)).cloned().unwrap_or_else(unknown)
}

/// The OVM as it is, or as a lie shows it.
fn shown_ovm(
    world: &World,
    vm: Option<&VirtualMachine>,
    mut ovm: Arc<OfflineVirtualMachine>,
) -> Arc<OfflineVirtualMachine> {
    let placed = ovm.status.as_ref().and_then(|status| status.placement.as_ref());
    let is_undecided = vm.is_some_and(|vm| {
        bound_node(vm).is_none() && placed.map(|placement| &placement.vm_uid) == vm.metadata.uid.as_ref()
    });
    let hides = world.lies.controllers_see_no_placement || (world.lies.placement_of_unbound_hidden && is_undecided);
    if hides && let Some(status) = Arc::make_mut(&mut ovm).status.as_mut() {
        status.placement = None;
    }
    if let Some((vm, node)) = vm.and_then(|vm| Some((vm, bound_node(vm)?))).filter(|_| world.lies.placements_look_right)
    {
        let vm_uid = vm.metadata.uid.clone().unwrap_or_default();
        let placement = Placement { vm_uid, node_name: node.to_owned(), released: false };
        Arc::make_mut(&mut ovm).status.get_or_insert_default().placement = Some(placement);
    }
    ovm
}

/// The VM as it is, or as a lie shows it.
fn shown_vm(world: &World, ovm: Option<&OfflineVirtualMachine>, mut vm: Arc<VirtualMachine>) -> Arc<VirtualMachine> {
    if world.lies.templates_look_current
        && let Some(annotations) = Arc::make_mut(&mut vm).metadata.annotations.as_mut()
    {
        annotations.remove(names::TEMPLATE_ANNOTATION);
    }
    if world.lies.finalizers_look_present {
        Arc::make_mut(&mut vm).metadata.finalizers = Some(vec![names::VM_FINALIZER.to_owned()]);
    }
    if let Some(uid) = ovm.and_then(|ovm| ovm.metadata.uid.clone()).filter(|_| world.lies.adoptions_look_blocked) {
        let annotations = Arc::make_mut(&mut vm).metadata.annotations.get_or_insert_default();
        annotations.insert(names::ORPHANED_BY_ANNOTATION.to_owned(), uid);
    }
    vm
}

pub(super) fn home(world: &World, node: Option<&NodeObject>, lease: LeaseFact, read_after_vm: bool) -> ObservedHome {
    ObservedHome {
        exists: node.is_some(),
        out_of_service: node.is_some_and(|n| n.out_of_service),
        no_execute: node.map(|node| SeenTaint::of_node(&taints(world, node), &[], Duration::ZERO)).unwrap_or_default(),
        lease,
        read_after_vm,
    }
}

/// The taints as they are, or as a lie shows them.
fn taints(world: &World, node: &NodeObject) -> Vec<Taint> {
    if world.lies.taints_hidden {
        return Vec::new();
    }
    let silent = if world.lies.kubernetes_taints_look_like_ours {
        "example.com/silent"
    } else {
        "node.kubernetes.io/unreachable"
    };
    let no_execute = |key: &str| Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    let ours = node.tainted.then(|| no_execute("example.com/maintenance"));
    let kubernetes = node.kubelet_silent.then(|| no_execute(silent));
    ours.into_iter().chain(kubernetes).collect()
}

fn facts(world: &World, name: &str, node: &NodeObject) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        version: Version { uid: node.uid.clone(), resource_version: node.version.to_string() },
        labels: BTreeMap::from([(names::SCHEDULABLE_LABEL.to_owned(), node.schedulable.to_string())]),
        taints: taints(world, node),
        closed: node.cordoned || node.out_of_service,
        allocatable: PLENTY,
        reserved_kib: 0,
        machine_types: BTreeSet::new(),
    }
}

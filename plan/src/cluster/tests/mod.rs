//! Tests of the cluster planner. What a world looks like is built here; `protocol` has one test or more for each rule, `behaviour` what
//! users see, `random` what must hold in every world.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test names the one answer that it expects")]
#![expect(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

mod abi;
mod behaviour;
mod leader;
mod protocol;
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::{OVM_FINALIZER, SCHEDULABLE_LABEL};
use api::v1alpha1::{
    OfflineVirtualMachine, OfflineVirtualMachineSpec, OfflineVirtualMachineStatus, Phase, PhaseTransitionTimestamp,
    Placement, VirtualMachine, VirtualMachineStatus, VirtualMachineTemplate,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use uuid::Uuid;

use super::template::make_vm;
use super::*;

/// Time of every plan in the tests: long after the controller's start.
const ELAPSED: Duration = Duration::from_secs(100_000);
const CLUSTER: Uuid = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
const OVM_UID: &str = "0a000000-0000-4000-8000-000000000001";
const VM_UID: &str = "0b000000-0000-4000-8000-000000000001";
const OLD_UID: &str = "0b000000-0000-4000-8000-000000000000";

fn now() -> Now {
    Now::at(ELAPSED)
}

/// Monotonic time, this long before [`now`].
fn before(span: Duration) -> Duration {
    ELAPSED.checked_sub(span).unwrap()
}

/// Seconds before [`now`], on the wall.
fn ago(seconds: u64) -> Timestamp {
    Now::at(before(Duration::from_secs(seconds))).wall
}

fn ovm(running: bool) -> OfflineVirtualMachine {
    let spec = OfflineVirtualMachineSpec { running, template: VirtualMachineTemplate::default() };
    let mut ovm = OfflineVirtualMachine::new("vm", spec);
    ovm.metadata.namespace = Some("ns".to_owned());
    ovm.metadata.uid = Some(OVM_UID.to_owned());
    ovm.metadata.resource_version = Some("10".to_owned());
    ovm.metadata.generation = Some(1);
    ovm.metadata.finalizers = Some(vec![OVM_FINALIZER.to_owned()]);
    ovm
}

/// The VM that the OVM makes, as stored.
fn vm(ovm: &OfflineVirtualMachine) -> VirtualMachine {
    let mut vm = make_vm(ovm);
    vm.metadata.uid = Some(VM_UID.to_owned());
    vm.metadata.resource_version = Some("20".to_owned());
    vm
}

/// A VM that nobody made.
fn bare_vm() -> VirtualMachine {
    let mut vm = vm(&ovm(true));
    vm.metadata.owner_references = None;
    vm
}

/// Both kinds have metadata.
trait Object {
    fn meta(&mut self) -> &mut ObjectMeta;
}

impl Object for OfflineVirtualMachine {
    fn meta(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Object for VirtualMachine {
    fn meta(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn deleting<K: Object>(mut object: K) -> K {
    object.meta().deletion_timestamp = Some(Time(ago(1)));
    object
}

/// The VM bound to a node, in a phase that it entered a minute ago.
fn bound(mut vm: VirtualMachine, node: &str, phase: Phase) -> VirtualMachine {
    vm.status = Some(VirtualMachineStatus {
        node_name: Some(node.to_owned()),
        phase: Some(phase),
        ..VirtualMachineStatus::default()
    });
    vm
}

fn entered(mut vm: VirtualMachine, phase: Phase, seconds_ago: u64) -> VirtualMachine {
    let stamp = PhaseTransitionTimestamp { phase, phase_transition_timestamp: Time(ago(seconds_ago)) };
    vm.status.get_or_insert_default().phase_transition_timestamps.push(stamp);
    vm
}

fn placed(mut ovm: OfflineVirtualMachine, vm_uid: &str, node: &str, released: bool) -> OfflineVirtualMachine {
    let placement = Placement { vm_uid: vm_uid.to_owned(), node_name: node.to_owned(), released };
    ovm.status.get_or_insert_default().placement = Some(placement);
    ovm
}

fn owner(kind: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "kubevirt.io/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        name: "vm".to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn live_lease() -> LeaseFact {
    LeaseFact { version: Some("7".into()), since: before(Duration::from_secs(3)), renewed: true }
}

fn expired_lease() -> LeaseFact {
    LeaseFact { since: before(LEASE_EXPIRY), ..live_lease() }
}

fn node(name: &str) -> ObservedNode {
    let facts = NodeFacts {
        name: name.to_owned(),
        labels: BTreeMap::from([(SCHEDULABLE_LABEL.to_owned(), "true".to_owned())]),
        allocatable: Requests { memory_kib: 8 << 20, cpu_millis: 4000 },
        ..NodeFacts::default()
    };
    ObservedNode { facts: Arc::new(facts), lease: live_lease(), ..ObservedNode::default() }
}

fn home(lease: LeaseFact) -> ObservedHome {
    ObservedHome { exists: true, out_of_service: false, no_execute: Vec::new(), lease, read_after_vm: true }
}

/// A taint that ends guests, seen a minute ago.
fn no_execute(key: &str) -> Vec<SeenTaint> {
    let taint = Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    SeenTaint::of_node(&[taint], &[], before(Duration::from_mins(1)))
}

/// Both nodes live, and everything has just been read uncached.
fn world(ovm: Option<OfflineVirtualMachine>, vm: Option<VirtualMachine>) -> Observed {
    Observed {
        key: ObjectKey { namespace: "ns".to_owned(), name: "vm".to_owned() },
        ovm: ovm.map(Arc::new),
        vm: vm.map(Arc::new),
        revisions: Some(Vec::new()),
        uuid_holder: None,
        order: ReadOrder::UNCACHED,
        homes: ["a", "b"].map(|name| (name.to_owned(), home(live_lease()))).into(),
        nodes: vec![node("a"), node("b")],
        claims: BTreeMap::new(),
        installation: Arc::new(Installation {
            cluster_uid: CLUSTER,
            network: "user".to_owned(),
            nic_model: "e1000".to_owned(),
            uuid_rule: UuidRule::Cluster,
        }),
        failure: None,
    }
}

impl Observed {
    fn with_home(mut self, node: &str, home: ObservedHome) -> Self {
        self.homes.insert(node.to_owned(), home);
        self
    }

    fn with_order(mut self, order: ReadOrder) -> Self {
        self.order = order;
        self
    }
}

fn fenced_home() -> ObservedHome {
    ObservedHome { out_of_service: true, ..home(expired_lease()) }
}

/// The step that is planned.
fn step(observed: &Observed) -> Step {
    match plan(now(), observed) {
        Plan { next: Next::Act(step), .. } => step,
        other => panic!("no step: {other:?}"),
    }
}

fn rests(observed: &Observed) -> bool {
    plan(now(), observed).next == Next::Rest
}

/// The OVM status that is written.
fn ovm_status(observed: &Observed) -> OfflineVirtualMachineStatus {
    match step(observed) {
        Step::WriteOvmStatus { status, .. } => *status,
        other => panic!("no write of the OVM's status: {other:?}"),
    }
}

/// The VM status that is written.
fn vm_status(observed: &Observed) -> VirtualMachineStatus {
    match step(observed) {
        Step::WriteVmStatus { status, .. } => *status,
        other => panic!("no write of the VM's status: {other:?}"),
    }
}

/// The finalizers that a step leaves.
fn finalizers(edit: &MetadataEdit) -> &[String] {
    match edit {
        MetadataEdit::Finalizers(finalizers) => finalizers,
        other => panic!("not about finalizers: {other:?}"),
    }
}

/// The OVM with the status that follows from the world, so that status is not what is planned next.
fn settled(mut observed: Observed) -> Observed {
    for _ in 0..3 {
        match plan(now(), &observed).next {
            Next::Act(Step::WriteOvmStatus { status, .. }) => {
                let mut ovm = observed.ovm.as_deref().unwrap().clone();
                ovm.status = Some(*status);
                observed.ovm = Some(Arc::new(ovm));
            }
            _ => break,
        }
    }
    observed
}

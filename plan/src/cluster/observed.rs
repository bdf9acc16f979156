//! What the cluster planner looks at: one namespace and name, and the nodes around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use uuid::Uuid;

use super::lease::{LeaseFact, LeaseVerdict};
use super::{AbiRevision, Now, ObservedClaim, SeenTaint, UuidRule, Version};

/// Everything that a plan for one key is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Which OVM and VM.
    pub key: ObjectKey,
    /// The OVM of that name.
    pub ovm: Option<Arc<OfflineVirtualMachine>>,
    /// The VM of that name.
    pub vm: Option<Arc<VirtualMachine>>,
    /// The OVM's ABI records, by number. None: not listed. Listed uncached after the OVM was read; still good after writes of our own, which fail if
    /// another controller has written to the OVM meanwhile (S3).
    pub revisions: Option<Vec<AbiRevision>>,
    /// With UUIDs by KubeVirt's rule: another guest that has this one's.
    pub uuid_holder: Option<ObjectKey>,
    /// In which order the two were read.
    pub order: ReadOrder,
    /// The node that the VM is bound to and the one in the OVM's placement, where there are such, by name.
    pub homes: BTreeMap<String, ObservedHome>,
    /// Every node, in any order; only looked at while a VM needs one. May be stale: the agent checks again before it starts (S4).
    pub nodes: Vec<ObservedNode>,
    /// The claims that the VM names, by name; only looked at while it needs a node.
    pub claims: BTreeMap<String, ObservedClaim>,
    /// What is the same for every guest of the installation.
    pub installation: Arc<Installation>,
    /// The last create or delete for this key, if it failed and has not succeeded since.
    pub failure: Option<StepFailure>,
}

/// Namespace and name, which an OVM and its VM share.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What the reads of one observation say about each other. Both false: from caches, of any age, and nothing is written from that but what S1 says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOrder {
    /// The OVM was read uncached after the VM (D1, D4).
    pub ovm_after_vm: bool,
    /// The VM was read uncached after the OVM (S2, D3).
    pub vm_after_ovm: bool,
}

impl ReadOrder {
    /// From the watch caches.
    pub const CACHED: Self = Self { ovm_after_vm: false, vm_after_ovm: false };
    /// VM, OVM, VM again, with the same VM both times: each was read after the other.
    pub const UNCACHED: Self = Self { ovm_after_vm: true, vm_after_ovm: true };

    /// Whether both objects are uncached reads, or answers to writes made from such.
    pub fn is_uncached(self) -> bool {
        self.ovm_after_vm || self.vm_after_ovm
    }
}

/// A node that holds the key's guest, or may.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedHome {
    /// Whether the Node object exists.
    pub exists: bool,
    /// Whether it has the out-of-service taint.
    pub out_of_service: bool,
    /// Its taints that may end guests (T1).
    pub no_execute: Vec<SeenTaint>,
    /// Its agent's Lease.
    pub lease: LeaseFact,
    /// Whether Lease and Node were read uncached, in this order, after the VM (F2).
    pub read_after_vm: bool,
}

/// A node as a place for guests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedNode {
    /// What the Node object says.
    pub facts: Arc<NodeFacts>,
    /// Its agent's Lease.
    pub lease: LeaseFact,
    /// What bound and placed guests take, overhead included.
    pub guests: Requests,
    /// What pods that are not final take.
    pub pods: Requests,
}

/// What a Node object says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Name.
    pub name: String,
    /// Which version of the Node this is.
    pub version: Version,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned (`spec.unschedulable`), or being deleted.
    pub closed: bool,
    /// `status.allocatable`, or the capacity where that is unset.
    pub allocatable: Requests,
    /// Memory, in KiB, that pods do not take from guests (annotation).
    pub reserved_kib: u64,
    /// Machine types that its libvirt offers (annotation); empty if its agent does not say.
    pub machine_types: BTreeSet<String>,
}

/// An amount of memory and CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Memory in KiB.
    pub memory_kib: u64,
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
}

/// What is the same for every guest of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// UID of the namespace `kube-system`.
    pub cluster_uid: Uuid,
    /// The guests' network, as in `VM.status.network`.
    pub network: String,
    /// Model of the guests' network card.
    pub nic_model: String,
    /// How firmware UUIDs are made of names.
    pub uuid_rule: UuidRule,
}

/// A create or delete that failed, and not because somebody else was faster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// What was tried.
    pub operation: Operation,
    /// The error, as events and the condition show it.
    pub error: String,
    /// How often in a row.
    pub attempts: u32,
    /// Monotonic time of the last attempt.
    pub at: Duration,
    /// `metadata.generation` of the OVM then: a changed spec is tried at once.
    pub generation: Option<i64>,
}

/// The writes whose failure users are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creation of the VM.
    Create,
    /// Deletion of the VM.
    Delete,
}

impl ObservedHome {
    /// Whether the node's agent has been silent for too long.
    pub fn is_lost(&self, now: Now) -> bool {
        self.lease.verdict(now.monotonic) == LeaseVerdict::Expired
    }

    /// F1: the administrator says that the node is off, and its agent is silent.
    pub fn is_fenced(&self, now: Now) -> bool {
        (self.out_of_service || !self.exists) && self.is_lost(now)
    }
}

impl Observed {
    /// Folds in the answer to a write of the VM: it is newer than everything else observed.
    pub fn vm_written(&mut self, vm: Option<Arc<VirtualMachine>>) {
        self.vm = vm;
        self.order.ovm_after_vm = false;
        self.order.vm_after_ovm = true;
        for home in self.homes.values_mut() {
            home.read_after_vm = false;
        }
    }

    /// Folds in a record that was written.
    pub fn revision_written(&mut self, written: AbiRevision) {
        if let Some(all) = self.revisions.as_mut() {
            all.retain(|one| one.name != written.name);
            all.push(written);
            all.sort_by_key(|one| one.revision);
        }
    }

    /// Folds in the deletion of a record.
    pub fn revision_deleted(&mut self, name: &str) {
        if let Some(all) = self.revisions.as_mut() {
            all.retain(|one| one.name != name);
        }
    }

    /// Folds in the answer to a write of the OVM.
    pub fn ovm_written(&mut self, ovm: Option<Arc<OfflineVirtualMachine>>) {
        self.ovm = ovm;
        // A VM from the caches stays what it is.
        if self.order.is_uncached() {
            self.order = ReadOrder { ovm_after_vm: true, vm_after_ovm: false };
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::ops::Add for Requests {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            memory_kib: self.memory_kib.saturating_add(other.memory_kib),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
        }
    }
}

impl std::iter::Sum for Requests {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), std::ops::Add::add)
    }
}

/// Monotonic and wall time, as one argument.
impl Now {
    /// Both clocks at the start of time, moved by `elapsed`: for tests and simulations.
    pub fn at(elapsed: Duration) -> Self {
        Self { wall: Timestamp::UNIX_EPOCH.saturating_add(elapsed).unwrap_or(Timestamp::MAX), monotonic: elapsed }
    }
}

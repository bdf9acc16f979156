//! What the cluster planner may ask for. Few and small, so that the API server and the simulation's fake world can both carry them out.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use api::v1alpha1::{OfflineVirtualMachineStatus, VirtualMachine, VirtualMachineStatus};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Operation, Requests};

/// What comes of one look at one namespace and name.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The one thing to do next.
    pub next: Next,
    /// When to look again although nothing changed. None: only a change matters.
    pub requeue: Option<Duration>,
    /// Why, for people.
    pub report: Report,
}

/// The one thing to do next. One at a time: after a step the planner is asked again, with the step's answer folded in.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// Read again, uncached, in the order that [`Look`] states; then plan again.
    Look(Look),
    /// Carry out the step, fold its answer into the observation, plan again.
    Act(Step),
}

/// Uncached reads: the VM, the OVM, the VM again (all three anew, if its UID or resourceVersion changed in between), then for each node
/// the Lease and the Node; then the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// VM and OVM are not read: they stay as they were observed, with their order.
    pub keep: bool,
    /// Names of nodes whose Lease and Node are read too.
    pub nodes: BTreeSet<String>,
    /// Whether the OVM's ABI records are listed too, after OVM and VM were read (S3).
    pub revisions: bool,
}

/// One write. Each carries what it depends on, so that the API server refuses it when that has changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// POST. An existing VM of that name makes it fail.
    CreateVm(Box<VirtualMachine>),
    /// DELETE with preconditions.
    DeleteVm(Version),
    /// As [`Step::DeleteVm`], because of its node's taint (T1).
    EvictVm {
        /// Which VM, as read.
        at: Version,
        /// Which taint of which node, for people.
        because: String,
    },
    /// Changes the VM's metadata.
    EditVm(Version, MetadataEdit),
    /// Changes the OVM's metadata.
    EditOvm(Version, MetadataEdit),
    /// Replaces `VM.status`. `claim` is what binding takes from the node.
    WriteVmStatus {
        /// Which VM, as read.
        at: Version,
        /// The whole new status.
        status: Box<VirtualMachineStatus>,
        /// Room on a node that this write takes.
        claim: Option<Claim>,
    },
    /// Replaces `OVM.status`.
    WriteOvmStatus {
        /// Which OVM, as read.
        at: Version,
        /// The whole new status.
        status: Box<OfflineVirtualMachineStatus>,
        /// Room on a node that this write takes.
        claim: Option<Claim>,
    },
    /// POST of the OVM's next ABI record. One of that name makes it fail (R1).
    CreateRevision(Box<ControllerRevision>),
    /// Replaces `ownerReferences` of a record.
    EditRevision {
        /// Its name.
        name: String,
        /// As it was read.
        at: Version,
        /// The owners.
        owners: Vec<OwnerReference>,
    },
    /// DELETE of a record, with preconditions.
    DeleteRevision {
        /// Its name.
        name: String,
        /// As it was read.
        at: Version,
    },
}

impl Step {
    /// The operation whose failure users are told of, if it is one.
    pub fn operation(&self) -> Option<Operation> {
        match self {
            Self::CreateVm(_) => Some(Operation::Create),
            Self::DeleteVm(_) | Self::EvictVm { .. } => Some(Operation::Delete),
            Self::EditVm(..)
            | Self::EditOvm(..)
            | Self::WriteVmStatus { .. }
            | Self::WriteOvmStatus { .. }
            | Self::CreateRevision(_)
            | Self::EditRevision { .. }
            | Self::DeleteRevision { .. } => None,
        }
    }
}

/// An object as it was read: the write fails if either differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// A change of metadata. Lists are given whole; the step's [`Version`] makes that safe.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataEdit {
    /// Replaces `finalizers`.
    Finalizers(Vec<String>),
    /// Replaces `ownerReferences`.
    OwnerReferences(Vec<OwnerReference>),
    /// Sets one annotation.
    Annotation {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
    },
}

/// Room on a node for one guest: held from the decision until the caches show it, so that two decisions at once do not fill one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// UID of the VM.
    pub vm_uid: String,
    /// Name of the node.
    pub node: String,
    /// What the guest takes there.
    pub requests: Requests,
}

/// Why a plan is what it is: one sentence each, naming the rule where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(pub Vec<String>);

impl Report {
    /// Adds a sentence.
    pub(crate) fn note(&mut self, sentence: impl Into<String>) {
        self.0.push(sentence.into());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

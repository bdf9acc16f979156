//! What the API says of a guest: its VirtualMachine as watched and as read uncached, its OfflineVirtualMachine, the Node.

use std::fmt;
use std::time::Duration;

use api::names;
use api::v1alpha1::{AbiStatus, OfflineVirtualMachine, Phase, VirtualMachine, VirtualMachineStatus};

/// Grace period of a guest whose spec sets none.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// A guest, whatever UID its VirtualMachine has at the moment. One worker, one domain name and one console belong to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestKey {
    /// Namespace of the VirtualMachine.
    pub namespace: String,
    /// Name of the VirtualMachine.
    pub name: String,
}

impl fmt::Display for GuestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the API says of one guest. `fresh`, `start_check` and `ovm` are answers to the look that the last plan asked for, and are valid for
/// one plan only: the observation before the next plan asks again or leaves them out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredGuest {
    /// The VirtualMachine as the watch last delivered it. None: the watch, which shows this node's VMs only, does not have it.
    pub cached: Option<VmFacts>,
    /// The answer to an uncached GET. None: not asked.
    pub fresh: Option<FreshVm>,
    /// S4's other reads. None: not made.
    pub start_check: Option<StartCheck>,
    /// The OfflineVirtualMachine of that name, read uncached *before* the VirtualMachine.
    pub ovm: OvmView,
}

/// The answer to an uncached GET of a VirtualMachine.
#[derive(Clone, Debug, PartialEq)]
pub enum FreshVm {
    /// It exists.
    Present(Box<VmFacts>),
    /// 404, while the kind is served.
    Absent,
    /// No answer, or one that proves nothing. The text says why.
    Unreachable(String),
}

/// What matters of a VirtualMachine on its node.
#[derive(Clone, Debug, PartialEq)]
pub struct VmFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`: every write carries it.
    pub resource_version: String,
    /// The object is being deleted.
    pub deleting: bool,
    /// Our finalizer is on it.
    pub has_finalizer: bool,
    /// Value of label `kubevirt.io/nodeName`.
    pub node_label: Option<String>,
    /// UID of the OfflineVirtualMachine that controls it.
    pub owner: Option<String>,
    /// Time for an orderly shutdown, at least 0.
    pub grace: Duration,
    /// The status as it is.
    pub status: VirtualMachineStatus,
}

impl VmFacts {
    /// The facts of an object that the API server returned. An object without UID (none such is ever served) has an empty one.
    pub fn from_object(vm: &VirtualMachine) -> Self {
        let meta = &vm.metadata;
        let grace = vm.spec.termination_grace_period_seconds;
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            has_finalizer: meta.finalizers.iter().flatten().any(|f| f == names::VM_FINALIZER),
            node_label: meta.labels.as_ref().and_then(|labels| labels.get(names::NODE_NAME_LABEL)).cloned(),
            owner: owner_of(vm),
            grace: grace.map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
            status: vm.status.clone().unwrap_or_default(),
        }
    }

    /// `status.phase`, Unset if there is none.
    pub fn phase(&self) -> Phase {
        self.status.phase.unwrap_or_default()
    }

    /// Whether the VM is bound to `node`.
    pub fn is_bound_to(&self, node: &str) -> bool {
        self.status.node_name.as_deref() == Some(node)
    }

    /// Whether the VM is bound to a node other than `node`.
    pub fn is_bound_elsewhere(&self, node: &str) -> bool {
        self.status.node_name.as_deref().is_some_and(|bound| !bound.is_empty() && bound != node)
    }
}

/// What S4 reads besides the VirtualMachine, after it has renewed the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartCheck {
    /// The agent's Lease was renewed before the reads. The text says why not.
    pub lease: Result<(), String>,
    /// The Node, read uncached after that.
    pub node: NodeView,
}

/// The Node as S4 reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeView {
    /// It exists, and carries no out-of-service taint.
    InService,
    /// It carries taint `node.kubernetes.io/out-of-service`.
    OutOfService,
    /// 404.
    Missing,
    /// No answer. The text says why.
    Unreachable(String),
}

/// The OfflineVirtualMachine of the guest's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each look at a guest, and mostly it is the large one")]
pub enum OvmView {
    /// Not asked, or no answer.
    #[default]
    Unknown,
    /// 404, while the kind is served.
    Absent,
    /// It exists.
    Present(OvmFacts),
}

fn owner_of(vm: &VirtualMachine) -> Option<String> {
    let owner = vm.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let is_ovm = owner.kind == "OfflineVirtualMachine" && owner.api_version.split('/').next() == Some(names::GROUP);
    is_ovm.then(|| owner.uid.clone())
}

/// What matters of an OfflineVirtualMachine on a node: where its VirtualMachine was placed (E4), and which ABI is recorded (R3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OvmFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`: the release carries it.
    pub resource_version: String,
    /// `status.placement`.
    pub placement: Option<api::v1alpha1::Placement>,
    /// `status.abi`.
    pub abi: Option<AbiStatus>,
    /// It is being deleted.
    pub deleting: bool,
    /// The garbage collector is taking its dependents off it.
    pub orphaning: bool,
}

impl OvmFacts {
    /// The facts of an object that the API server returned.
    pub fn from_object(ovm: &OfflineVirtualMachine) -> Self {
        Self {
            uid: ovm.metadata.uid.clone().unwrap_or_default(),
            resource_version: ovm.metadata.resource_version.clone().unwrap_or_default(),
            placement: ovm.status.as_ref().and_then(|status| status.placement.clone()),
            abi: ovm.status.as_ref().and_then(|status| status.abi.clone()),
            deleting: ovm.metadata.deletion_timestamp.is_some(),
            orphaning: ovm.metadata.finalizers.iter().flatten().any(|f| f == names::ORPHAN_FINALIZER),
        }
    }
}

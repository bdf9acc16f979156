//! What a run got to. A simulation that never starts a guest cannot find two of them running: a test asserts that the seeds reach each of these.

use std::collections::BTreeMap;

use api::v1alpha1::{OfflineVirtualMachineStatus, Phase, VirtualMachineStatus};

use crate::cluster::{MetadataEdit, Observed, Step, bound_node};

macro_rules! milestones {
    ($($name:ident,)*) => {
        /// Something worth reaching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each name says all there is")]
        pub enum Milestone { $($name,)* }

        impl Milestone {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

milestones! {
    // What the controllers wrote.
    VmCreated,
    VmRecreated,
    VmDeleted,
    VmOfOldTemplateDeleted,
    VmEvicted,
    VmPlaced,
    VmPinnedToOldNode,
    VmBound,
    BareVmBound,
    VmAdopted,
    AdoptionInFlightBlocked,
    FinalizerRestored,
    NeverBoundVmLetGo,
    OvmLetGo,
    NodeReportedLost,
    FailedByTaint,
    FailedByNodeDeletion,
    FencedVmLetGo,
    FencedPlacementReleased,
    Unschedulable,
    StartFailureCounted,
    StartBackedOff,
    RestartRequired,
    AbiRecorded,
    AbiChanged,
    AbiRecordTakenOver,
    // What the agents did.
    GuestStarted,
    PowerButtonPressed,
    GraceExceeded,
    LostGuestSeen,
    ProcessKilled,
    SlowPullDone,
    PullFailed,
    PullCancelled,
    StartSettled,
    ReportedSucceeded,
    ReportedFailed,
    EndJournalled,
    JournalledEndReported,
    OrphanStopped,
    OrphanWithSuccessorDestroyed,
    OrphanHeld,
    FencedGuestDestroyed,
    FilesCleaned,
    AgentLetVmGo,
    PlacementReleased,
    // What the world did to them.
    Conflict,
    AnswerLost,
    AgentDiedInStart,
    AgentDiedInPull,
    StartHung,
    LateStartFired,
    StartFailed,
    LibvirtDied,
    GuestForgotten,
    HostLostPower,
    CutOff,
    ClockStepped,
    Stripped,
    ForeignFinalizer,
    WronglyFenced,
    NodeDeletedAlive,
    OrphanDelete,
    ForegroundDelete,
    ObjectsLost,
    BothControllersOnOneKey,
    LeaderChangedInPass,
}

/// How often each milestone was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach(BTreeMap<Milestone, u64>);

impl Reach {
    pub(super) fn hit(&mut self, milestone: Milestone) {
        *self.0.entry(milestone).or_default() += 1;
    }

    /// How often one was reached.
    pub fn count(&self, milestone: Milestone) -> u64 {
        self.0.get(&milestone).copied().unwrap_or(0)
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (milestone, count) in &other.0 {
            *self.0.entry(*milestone).or_default() += count;
        }
    }
}

/// What a controller's write, once carried out, has reached.
pub(super) fn of_write(observed: &Observed, step: &Step) -> Vec<Milestone> {
    let old_ovm = observed.ovm.as_ref().and_then(|ovm| ovm.status.clone()).unwrap_or_default();
    let has_node = observed.vm.as_ref().is_some_and(|vm| bound_node(vm).is_some());
    let owners = observed.vm.as_ref().map_or(0, |vm| vm.metadata.owner_references.iter().flatten().count());
    match step {
        Step::CreateVm(_) if old_ovm.placement.is_some() => vec![Milestone::VmRecreated],
        Step::CreateVm(_) => vec![Milestone::VmCreated],
        Step::DeleteVm(_) if !has_node && is_of_old_template(observed) => vec![Milestone::VmOfOldTemplateDeleted],
        Step::DeleteVm(_) => vec![Milestone::VmDeleted],
        Step::EvictVm { .. } => vec![Milestone::VmEvicted],
        Step::EditVm(_, MetadataEdit::Annotation { .. }) => vec![Milestone::AdoptionInFlightBlocked],
        Step::EditVm(_, MetadataEdit::OwnerReferences(new)) if new.len() > owners => vec![Milestone::VmAdopted],
        Step::EditVm(_, MetadataEdit::Finalizers(new)) if new.iter().any(|f| f == api::names::VM_FINALIZER) => {
            vec![Milestone::FinalizerRestored]
        }
        Step::EditVm(_, MetadataEdit::Finalizers(_)) if has_node => vec![Milestone::FencedVmLetGo],
        Step::EditVm(_, MetadataEdit::Finalizers(_)) => vec![Milestone::NeverBoundVmLetGo],
        Step::EditOvm(_, MetadataEdit::Finalizers(new)) if !new.iter().any(|f| f == api::names::OVM_FINALIZER) => {
            vec![Milestone::OvmLetGo]
        }
        // That a VM loses our reference (D2) takes an adoption within an orphan delete: there is a scenario of it.
        Step::EditVm(_, MetadataEdit::OwnerReferences(_)) | Step::EditOvm(..) | Step::DeleteRevision { .. } => {
            Vec::new()
        }
        Step::CreateRevision(made) if made.revision == 1 => vec![Milestone::AbiRecorded],
        Step::CreateRevision(_) => vec![Milestone::AbiChanged],
        Step::EditRevision { .. } => vec![Milestone::AbiRecordTakenOver],
        Step::WriteVmStatus { status, .. } => of_vm_status(observed, has_node, status),
        Step::WriteOvmStatus { status, .. } => of_ovm_status(&old_ovm, status),
    }
}

fn is_of_old_template(observed: &Observed) -> bool {
    let (Some(ovm), Some(vm)) = (&observed.ovm, &observed.vm) else { return false };
    let made_from = vm.metadata.annotations.as_ref().and_then(|all| all.get(api::names::TEMPLATE_ANNOTATION));
    let is_wanted = ovm.spec.running && ovm.metadata.deletion_timestamp.is_none();
    is_wanted && made_from.is_some_and(|made_from| *made_from != ovm.spec.template.fingerprint())
}

fn of_vm_status(observed: &Observed, has_node: bool, status: &VirtualMachineStatus) -> Vec<Milestone> {
    if status.phase == Some(Phase::Failed) {
        let exists = observed.homes.values().any(|home| home.out_of_service);
        return vec![if exists { Milestone::FailedByTaint } else { Milestone::FailedByNodeDeletion }];
    }
    if status.node_name.is_some() && !has_node {
        return vec![if observed.ovm.is_some() { Milestone::VmBound } else { Milestone::BareVmBound }];
    }
    let says = |reason: &str| status.conditions.iter().any(|condition| condition.reason.as_deref() == Some(reason));
    let lost = says("NodeLost").then_some(Milestone::NodeReportedLost);
    let unschedulable = (!has_node).then_some(Milestone::Unschedulable);
    lost.into_iter().chain(unschedulable).collect()
}

fn of_ovm_status(old: &OfflineVirtualMachineStatus, new: &OfflineVirtualMachineStatus) -> Vec<Milestone> {
    let mut reached = Vec::new();
    match (&old.placement, &new.placement) {
        (Some(old), Some(new)) if old.vm_uid == new.vm_uid && new.released && !old.released => {
            reached.push(Milestone::FencedPlacementReleased);
        }
        (Some(old), Some(new)) if old.vm_uid != new.vm_uid && !old.released => {
            reached.push(Milestone::VmPinnedToOldNode);
        }
        (_, Some(new)) if old.placement.as_ref() != Some(new) => reached.push(Milestone::VmPlaced),
        _ => {}
    }
    if new.start_failure.is_some() && new.start_failure != old.start_failure {
        reached.push(Milestone::StartFailureCounted);
    }
    if new.conditions.iter().any(|condition| condition.type_ == "RestartRequired") {
        reached.push(Milestone::RestartRequired);
    }
    reached
}

//! The entry of the cluster planner, and what its rules share.

use api::v1alpha1::{
    OfflineVirtualMachine, OfflineVirtualMachineStatus, Placement, VirtualMachine, VirtualMachineStatus,
};
use std::time::Duration;

use super::objects::{is_deleting, uid_of, version_of};
use super::{Claim, Look, Next, Now, Observed, ObservedHome, Plan, Report, Step};

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub(super) now: Now,
    pub(super) observed: &'a Observed,
    pub(super) report: Report,
    requeue: Option<Duration>,
}

/// What a write must have been decided from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// The OVM was read after the VM (D1, D4).
    OvmAfterVm,
    /// The VM was read after the OVM (S2, D3).
    VmAfterOvm,
    /// The node's Lease and Node were read after the VM (F2).
    Home(&'a str),
    /// The OVM's ABI records were listed (S3, R1).
    Revisions,
    /// Nothing but the caches, beside the records: for a write that the API server refuses where they are wrong, or of which nothing comes before another
    /// write finds out (S1).
    Caches,
}

/// Plans the next thing to do for one namespace and name. Total and deterministic.
pub fn plan(now: Now, observed: &Observed) -> Plan {
    let mut draft = Draft { now, observed, report: Report::default(), requeue: None };
    let next = match (&observed.ovm, &observed.vm) {
        (None, None) => Next::Rest,
        (None, Some(vm)) => draft.plan_bare_vm(vm),
        (Some(ovm), vm) if is_deleting(&ovm.metadata) => draft.plan_ovm_deletion(ovm, vm.as_deref()),
        (Some(ovm), vm) => draft.plan_ovm(ovm, vm.as_deref()),
    };
    Plan { next, requeue: draft.requeue, report: draft.report }
}

impl<'a> Draft<'a> {
    /// The step, if what it was decided from is good enough; else the look that makes it so.
    pub(super) fn act(&mut self, why: &str, step: Step, needs: &[Need<'_>]) -> Next {
        self.act_with(why, || step, needs)
    }

    /// As [`Self::act`], for a step that is only made where it is taken.
    pub(super) fn act_with(&mut self, why: &str, step: impl FnOnce() -> Step, needs: &[Need<'_>]) -> Next {
        self.report.note(why);
        let order = self.observed.order;
        let from_caches = needs.contains(&Need::Caches);
        let met = (order.is_uncached() || from_caches)
            && needs.iter().all(|need| match need {
                Need::OvmAfterVm => order.ovm_after_vm,
                Need::VmAfterOvm => order.vm_after_ovm,
                Need::Home(node) => self.home(node).is_some_and(|home| home.read_after_vm),
                Need::Revisions => self.observed.revisions.is_some(),
                Need::Caches => true,
            });
        if met {
            return Next::Act(step());
        }
        let nodes = needs.iter().filter_map(|need| match need {
            Need::Home(node) => Some((*node).to_owned()),
            Need::OvmAfterVm | Need::VmAfterOvm | Need::Revisions | Need::Caches => None,
        });
        Next::Look(Look { keep: from_caches, nodes: nodes.collect(), revisions: needs.contains(&Need::Revisions) })
    }

    /// Asks for another look in at most `after`.
    pub(super) fn requeue(&mut self, after: Duration) {
        self.requeue = Some(self.requeue.map_or(after, |earlier| earlier.min(after)));
    }

    pub(super) fn home(&self, node: &str) -> Option<&'a ObservedHome> {
        self.observed.homes.get(node)
    }

    pub(super) fn is_lost(&self, node: &str) -> bool {
        self.home(node).is_some_and(|home| home.is_lost(self.now))
    }

    pub(super) fn is_fenced(&self, node: &str) -> bool {
        self.home(node).is_some_and(|home| home.is_fenced(self.now))
    }

    /// A write of the whole OVM status (S2: the VM is read after the OVM), if it differs from what is there.
    pub(super) fn write_ovm_status(
        &mut self,
        why: &str,
        ovm: &OfflineVirtualMachine,
        status: OfflineVirtualMachineStatus,
        claim: Option<Claim>,
    ) -> Option<Next> {
        if ovm.status.as_ref() == Some(&status) {
            return None;
        }
        let step = Step::WriteOvmStatus { at: version_of(&ovm.metadata), status: Box::new(status), claim };
        Some(self.act(why, step, &[Need::VmAfterOvm]))
    }

    /// A write of the whole VM status, if it differs from what is there.
    pub(super) fn write_vm_status(
        &mut self,
        why: &str,
        vm: &VirtualMachine,
        status: VirtualMachineStatus,
        claim: Option<Claim>,
        needs: &[Need<'_>],
    ) -> Option<Next> {
        if vm.status.as_ref() == Some(&status) {
            return None;
        }
        let step = Step::WriteVmStatus { at: version_of(&vm.metadata), status: Box::new(status), claim };
        Some(self.act(why, step, needs))
    }
}

/// The OVM's placement.
pub(super) fn placement_of(ovm: &OfflineVirtualMachine) -> Option<&Placement> {
    ovm.status.as_ref()?.placement.as_ref()
}

/// Whether the OVM's placement is about this VM.
pub(super) fn places(ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> bool {
    placement_of(ovm).is_some_and(|placement| placement.vm_uid == uid_of(&vm.metadata))
}

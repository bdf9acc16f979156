//! An OVM that is not being deleted: finalizer, adoption, creation, re-creation, start and stop.

use api::names::OVM_FINALIZER;
use api::v1alpha1::{OfflineVirtualMachine, Phase, Placement, VirtualMachine};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::draft::{Draft, Need, placement_of, places};
use super::events::retry_delay;
use super::objects::{
    Ownership, bound_node, finalizers_with, has_finalizer, is_deleting, is_ovm, ownership, phase_of, uid_of, version_of,
};
use super::start_failure::{retry_in, young_for};
use super::template::{is_outdated, make_vm};
use super::{Claim, MetadataEdit, Next, Operation, Step};

impl Draft<'_> {
    /// The next thing to do for an OVM that is not being deleted.
    pub(super) fn plan_ovm(&mut self, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) -> Next {
        // S1. At once, not just before the first VM: that keeps it off the way from `running: true` to a running guest.
        if !has_finalizer(&ovm.metadata, OVM_FINALIZER) {
            let edit = MetadataEdit::Finalizers(finalizers_with(&ovm.metadata, OVM_FINALIZER));
            let step = Step::EditOvm(version_of(&ovm.metadata), edit);
            return self.act("S1: the OVM gets its finalizer", step, &[Need::Caches]);
        }
        if let Some(next) = self.plan_record_upkeep(ovm, vm) {
            return next;
        }
        let next = match vm {
            None => self.plan_absent(ovm),
            Some(vm) => self.plan_upkeep(vm).or_else(|| match ownership(ovm, vm) {
                Ownership::Ours => self.plan_ours(ovm, vm),
                Ownership::Free => self.plan_adoption(ovm, vm),
                Ownership::Foreign(owner) if is_ovm(owner) => None,
                Ownership::Foreign(_) => self.plan_unowned(vm),
            }),
        };
        next.or_else(|| self.plan_status(ovm, vm)).unwrap_or(Next::Rest)
    }

    /// No VM of the name exists.
    fn plan_absent(&mut self, ovm: &OfflineVirtualMachine) -> Option<Next> {
        if let Some(next) = self.plan_fenced_release(ovm, None) {
            return Some(next);
        }
        if !ovm.spec.running {
            return None;
        }
        if let Some(wait) = retry_in(ovm, self.now.wall) {
            self.report.note(format!("the guest keeps failing: it is started again in {} s", wait.as_secs()));
            self.requeue(wait);
            return None;
        }
        if self.is_backing_off(Operation::Create, ovm.metadata.generation) {
            return None;
        }
        // S1: from the caches. The records are for the placement that follows: they are listed after the OVM that it will be written to (S3).
        let step = || Step::CreateVm(Box::new(make_vm(ovm)));
        Some(self.act_with("running is true and there is no VM", step, &[Need::Caches, Need::Revisions]))
    }

    /// The VM is controlled by this OVM.
    fn plan_ours(&mut self, ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> Option<Next> {
        if let (Some(node), false) = (bound_node(vm), places(ovm, vm)) {
            let why = "S2: a VM that was adopted bound gets its placement at once";
            return Some(self.write_placement(ovm, vm, node, None, why));
        }
        if let Some(next) = self.plan_record(ovm, vm) {
            return Some(next);
        }
        if is_deleting(&vm.metadata) {
            self.report.note("the VM is being deleted");
            return None;
        }
        if phase_of(vm).is_final() {
            // The facts of this end (ready false, start failure) are written before the delete that makes them unreadable.
            return self.plan_status(ovm, Some(vm)).or_else(|| self.plan_vm_deletion(ovm, vm, "the VM has ended"));
        }
        if !ovm.spec.running {
            return self.plan_vm_deletion(ovm, vm, "running is false");
        }
        if let Some(left) = young_for(ovm, vm, self.now.wall) {
            self.requeue(left);
        }
        if bound_node(vm).is_some() { self.plan_eviction(vm, Some(ovm)) } else { self.plan_placed_binding(ovm, vm) }
    }

    /// D1: the OVM is read after the VM, and the delete carries that VM's UID and resourceVersion.
    pub(super) fn plan_vm_deletion(
        &mut self,
        ovm: &OfflineVirtualMachine,
        vm: &VirtualMachine,
        why: &str,
    ) -> Option<Next> {
        if self.is_backing_off(Operation::Delete, ovm.metadata.generation) {
            return None;
        }
        Some(self.act(
            &format!("D1: {why}: delete the VM"),
            Step::DeleteVm(version_of(&vm.metadata)),
            &[Need::OvmAfterVm],
        ))
    }

    /// D4: takes over a VM without controller.
    fn plan_adoption(&mut self, ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> Option<Next> {
        if is_deleting(&vm.metadata) {
            self.report.note("a VM of this name without controller is being deleted");
            return None;
        }
        let others = vm.metadata.owner_references.iter().flatten().filter(|owner| owner.uid != uid_of(&ovm.metadata));
        let owners = others.cloned().chain([owner_reference(ovm)]).collect();
        let step = Step::EditVm(version_of(&vm.metadata), MetadataEdit::OwnerReferences(owners));
        Some(self.act("D4: adopt the VM", step, &[Need::OvmAfterVm]))
    }

    /// Places an unbound VM of ours (S2), then binds it (S3).
    fn plan_placed_binding(&mut self, ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> Option<Next> {
        if let Some(next) = self.plan_fenced_release(ovm, Some(vm)) {
            return Some(next);
        }
        // Looked at once more before it is bound: the answer to the write of placement has the template as the API server has it, and a watch that
        // began before the definition got a field has not.
        if is_outdated(ovm, vm) {
            return self.plan_vm_deletion(
                ovm,
                vm,
                "S2: the VM was not made from the present template, and is not bound yet",
            );
        }
        if self.observed.revisions.is_some()
            && let Some(misfit) = self.abi_obstacle(vm, ovm)
        {
            return self.plan_unschedulable(vm, &misfit);
        }
        let placement = placement_of(ovm);
        if let Some(placement) = placement.filter(|_| places(ovm, vm)) {
            let node = placement.node_name.as_str();
            if self.is_lost(node) {
                let step = Step::DeleteVm(version_of(&vm.metadata));
                let why = "S2: the VM's placed node is lost before it was bound: delete it, placement never changes";
                return Some(self.act(why, step, &[Need::OvmAfterVm, Need::Home(node)]));
            }
            return self.plan_binding(vm, node, Some(ovm));
        }
        // E5: until the old placement is released or fenced, the successor goes to its node.
        let pinned = placement.filter(|placement| !placement.released).map(|placement| placement.node_name.as_str());
        match self.choose_node(vm, Some(ovm), pinned) {
            Ok((node, claim)) => {
                let why = format!("S2: the VM is placed on node {node}");
                Some(self.write_placement(ovm, vm, &node, Some(claim), &why))
            }
            Err(misfit) => self.plan_unschedulable(vm, &misfit),
        }
    }

    /// After a fence (F2), and after a VM whose finalizer somebody took: the placement of a VM that is gone, on a fenced node, is released.
    fn plan_fenced_release(&mut self, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) -> Option<Next> {
        let placement = placement_of(ovm).filter(|placement| !placement.released)?;
        if vm.is_some_and(|vm| uid_of(&vm.metadata) == placement.vm_uid) || !self.is_fenced(&placement.node_name) {
            return None;
        }
        let mut status = self.ovm_status(ovm, vm);
        status.placement = Some(Placement { released: true, ..placement.clone() });
        let step = Step::WriteOvmStatus { at: version_of(&ovm.metadata), status: Box::new(status), claim: None };
        let why = format!("F2: node {} is fenced and the VM gone: its placement is released", placement.node_name);
        Some(self.act(&why, step, &[Need::VmAfterOvm, Need::Home(&placement.node_name)]))
    }

    /// S2: `created` and `placement` in one write.
    fn write_placement(
        &mut self,
        ovm: &OfflineVirtualMachine,
        vm: &VirtualMachine,
        node: &str,
        claim: Option<Claim>,
        why: &str,
    ) -> Next {
        let mut status = self.ovm_status(ovm, Some(vm));
        status.placement =
            Some(Placement { vm_uid: uid_of(&vm.metadata).to_owned(), node_name: node.to_owned(), released: false });
        let step = Step::WriteOvmStatus { at: version_of(&ovm.metadata), status: Box::new(status), claim };
        self.act(why, step, &[Need::VmAfterOvm, Need::Revisions])
    }

    /// Whether the last create or delete failed too short a time ago. A changed OVM is tried at once.
    pub(super) fn is_backing_off(&mut self, operation: Operation, generation: Option<i64>) -> bool {
        let Some(failure) = self.observed.failure.as_ref() else { return false };
        if failure.operation != operation || failure.generation != generation {
            return false;
        }
        let since = self.now.monotonic.saturating_sub(failure.at);
        let Some(left) = retry_delay(failure.attempts).checked_sub(since).filter(|left| !left.is_zero()) else {
            return false;
        };
        self.report.note(format!("the last try failed ({}): next in {} ms", failure.error, left.as_millis()));
        self.requeue(left);
        true
    }

    /// `OVM.status`, if what is there is not what was observed.
    pub(super) fn plan_status(&mut self, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) -> Option<Next> {
        let status = self.ovm_status(ovm, vm);
        self.write_ovm_status("the OVM's status is out of date", ovm, status, None)
    }
}

/// The owner reference that makes a VM ours.
pub(super) fn owner_reference(ovm: &OfflineVirtualMachine) -> OwnerReference {
    OwnerReference {
        api_version: api::names::API_VERSION.to_owned(),
        kind: "OfflineVirtualMachine".to_owned(),
        name: ovm.metadata.name.clone().unwrap_or_default(),
        uid: uid_of(&ovm.metadata).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the VM runs, by its phase.
pub(super) fn is_running(vm: &VirtualMachine) -> bool {
    phase_of(vm) == Phase::Running
}

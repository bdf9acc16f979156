//! An OVM that is being deleted: its VM goes first, or is left without us (D2), then the OVM is let go (D3).
//!
//! ```text
//! orphan finalizer there: take our reference off the VM, wait for the garbage collector
//! VM with our reference:  placement names it, or never bound -> delete it, wait
//!                         else                               -> take our reference off it
//! VM without it:          write to it once, let go
//! no VM:                  wait until the placement is released or fenced, let go
//! ```

use api::names::{ORPHAN_FINALIZER, ORPHANED_BY_ANNOTATION, OVM_FINALIZER};
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};

use super::draft::{Draft, Need, placement_of, places};
use super::objects::{
    bound_node, controller_of, finalizers_without, has_finalizer, is_deleting, is_ovm, is_owned_by, uid_of, version_of,
};
use super::{MetadataEdit, Next, Step};

impl Draft<'_> {
    /// The next thing to do for an OVM that is being deleted.
    pub(super) fn plan_ovm_deletion(&mut self, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) -> Next {
        let next = vm.and_then(|vm| self.plan_upkeep(vm)).or_else(|| {
            if has_finalizer(&ovm.metadata, ORPHAN_FINALIZER) {
                return self.plan_orphaning(ovm, vm);
            }
            match vm {
                Some(vm) if is_owned_by(&vm.metadata, uid_of(&ovm.metadata)) => self.plan_owned_deletion(ovm, vm),
                Some(vm) => self.plan_foreign_binding(vm).or_else(|| self.plan_letting_go_of(ovm, vm)),
                None => self.plan_letting_go(ovm, "the VM is gone"),
            }
        });
        next.or_else(|| self.plan_status(ovm, vm)).unwrap_or(Next::Rest)
    }

    /// D2: the collector is to orphan the VM. It orphans what is in its graph, which learns of a new kind within 30 s and of a new object within
    /// milliseconds; a VM that it misses would be deleted as soon as the orphan finalizer is gone.
    fn plan_orphaning(&mut self, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) -> Option<Next> {
        match vm {
            Some(vm) if is_owned_by(&vm.metadata, uid_of(&ovm.metadata)) && !is_deleting(&vm.metadata) => {
                Some(self.leave(ovm, vm, "D2: the OVM is deleted without its VM"))
            }
            _ => {
                self.report.note("D2: waiting for the garbage collector to let the OVM go");
                None
            }
        }
    }

    /// D2: the VM has our owner reference.
    fn plan_owned_deletion(&mut self, ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> Option<Next> {
        if is_deleting(&vm.metadata) {
            self.report.note("D3: waiting for the VM to be gone");
            return None;
        }
        if bound_node(vm).is_none() || places(ovm, vm) {
            return self.plan_vm_deletion(ovm, vm, "the OVM is being deleted");
        }
        Some(self.leave(ovm, vm, "D2: placement does not name this bound VM: it is left running, without us"))
    }

    /// Takes our owner reference off a VM.
    fn leave(&mut self, ovm: &OfflineVirtualMachine, vm: &VirtualMachine, why: &str) -> Next {
        let uid = uid_of(&ovm.metadata);
        let others = vm.metadata.owner_references.iter().flatten().filter(|owner| owner.uid != uid).cloned();
        let step = Step::EditVm(version_of(&vm.metadata), MetadataEdit::OwnerReferences(others.collect()));
        self.act(why, step, &[Need::OvmAfterVm])
    }

    /// D3: the VM of the name has no owner reference of ours. It is the one in `placement`, or another.
    fn plan_letting_go_of(&mut self, ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> Option<Next> {
        let uid = uid_of(&ovm.metadata);
        let noted = vm.metadata.annotations.as_ref().and_then(|all| all.get(ORPHANED_BY_ANNOTATION));
        if controller_of(&vm.metadata).is_none() && noted.map(String::as_str) != Some(uid) {
            let edit = MetadataEdit::Annotation { key: ORPHANED_BY_ANNOTATION, value: uid.to_owned() };
            let why = "D3: write to the VM once, so that an adoption in flight fails";
            return Some(self.act(why, Step::EditVm(version_of(&vm.metadata), edit), &[]));
        }
        if places(ovm, vm) {
            return self.let_go(ovm, "the VM runs on without us", &[Need::VmAfterOvm]);
        }
        self.plan_letting_go(ovm, "the VM in placement is gone")
    }

    /// D3: the VM in `placement` is gone; nobody may be holding its domain.
    fn plan_letting_go(&mut self, ovm: &OfflineVirtualMachine, why: &str) -> Option<Next> {
        match placement_of(ovm) {
            Some(placement) if !placement.released && self.is_fenced(&placement.node_name) => {
                self.let_go(ovm, why, &[Need::VmAfterOvm, Need::Home(&placement.node_name)])
            }
            Some(placement) if !placement.released => {
                self.report.note(format!("D3: waiting for node {} to release the placement", placement.node_name));
                None
            }
            Some(_) | None => self.let_go(ovm, why, &[Need::VmAfterOvm]),
        }
    }

    fn let_go(&mut self, ovm: &OfflineVirtualMachine, why: &str, needs: &[Need<'_>]) -> Option<Next> {
        if !has_finalizer(&ovm.metadata, OVM_FINALIZER) {
            self.report.note("the OVM waits for others' finalizers");
            return None;
        }
        let edit = MetadataEdit::Finalizers(finalizers_without(&ovm.metadata, OVM_FINALIZER));
        let step = Step::EditOvm(version_of(&ovm.metadata), edit);
        Some(self.act(&format!("D3: {why}: the OVM is let go"), step, needs))
    }

    /// A VM that another kind controls is not this OVM's business, but still needs a node.
    fn plan_foreign_binding(&mut self, vm: &VirtualMachine) -> Option<Next> {
        controller_of(&vm.metadata).filter(|owner| !is_ovm(owner)).and_then(|_| self.plan_unowned(vm))
    }
}

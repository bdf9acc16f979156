//! What really happened, whatever the objects say; and what must hold of each single decision and effect at the moment that it is made.

use std::collections::{BTreeMap, BTreeSet};

use api::v1alpha1::{OfflineVirtualMachineStatus, VirtualMachine};

use super::api::Snapshot;
use super::host::Host;
use super::world::Fate;
use crate::cluster::{self, ObjectKey, Observed, bound_node};
use crate::node;

/// The book of facts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// resourceVersion up to which every change of the API was checked.
    pub(super) checked: u64,
    /// VM UIDs whose finalizer somebody took by hand, or whose object was lost.
    pub(super) stripped: BTreeSet<String>,
    /// VM UIDs of which the administrator, by deleting their OVM with `orphan`, asked that they run on.
    pub(super) spared: BTreeSet<String>,
    /// Nodes that look fenced although they live (F3), until they have caught up.
    pub(super) wrongly_fenced: BTreeSet<String>,
    /// VM UIDs with a guest that has run, and its process id and node.
    pub(super) runs: BTreeMap<String, (String, u32)>,
    /// Where the devices of each guest were at its last start.
    pub(super) places: BTreeMap<ObjectKey, BTreeMap<String, Option<String>>>,
    violations: Vec<String>,
}

impl Ledger {
    /// Notes a violation; each counts once.
    pub(super) fn violated(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    /// Everything that went wrong so far.
    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// An agent has a plan.
    pub(super) fn node_planned(&mut self, node: &str, key: &ObjectKey, plan: &node::NodePlan) {
        if plan.steps.iter().filter(|step| step.is_destructive()).count() > 1 {
            self.violated(format!("{node} {key}: more than one destructive step in one pass: {:?}", plan.steps));
        }
        let starts = plan.steps.iter().any(|step| matches!(step, node::Step::Start { .. }));
        let journals = plan.steps.iter().any(|step| matches!(step, node::Step::JournalStart { .. }));
        if starts && !journals {
            self.violated(format!("{node} {key}: S5: a start that is not journalled: {:?}", plan.steps));
        }
    }

    /// A controller has planned a write.
    pub(super) fn planned(&mut self, state: &Snapshot, observed: &Observed, step: &cluster::Step) {
        let lets_go = matches!(step, cluster::Step::EditOvm(_, cluster::MetadataEdit::Finalizers(kept))
            if !kept.iter().any(|f| f == api::names::OVM_FINALIZER));
        // What else a look reads comes after the VM, and takes its time.
        let was_read_last = observed.revisions.is_none() && observed.homes.values().all(|home| !home.read_after_vm);
        let uid = |vm: &VirtualMachine| vm.metadata.uid.clone();
        let there = state.vms.get(&observed.key).and_then(|vm| uid(vm));
        if lets_go && was_read_last && there != observed.vm.as_ref().and_then(|vm| uid(vm)) {
            self.violated(format!("{}: D3: the OVM is let go, and a VM {there:?} is left", observed.key));
        }
        // S1.
        let may_be_cached = matches!(step, cluster::Step::CreateVm(_))
            || !lets_go && matches!(step, cluster::Step::EditOvm(_, cluster::MetadataEdit::Finalizers(_)));
        if !observed.order.is_uncached() && !may_be_cached {
            self.violated(format!("{}: a write was planned from caches: {step:?}", observed.key));
        }
    }

    /// A controller is about to write.
    pub(super) fn writing(&mut self, state: &Snapshot, key: &ObjectKey, step: &cluster::Step, fate: Fate) {
        if fate == Fate::Lost {
            return;
        }
        let at = |at: &cluster::Version| {
            state.vms.get(key).filter(|vm| {
                vm.metadata.uid.as_ref() == Some(&at.uid)
                    && vm.metadata.resource_version.as_ref() == Some(&at.resource_version)
            })
        };
        match step {
            cluster::Step::CreateVm(vm)
                if !vm.metadata.finalizers.iter().flatten().any(|f| f == api::names::VM_FINALIZER) =>
            {
                self.violated(format!("{key}: S1: a VM is created without its finalizer"));
            }
            cluster::Step::DeleteVm(version) if at(version).is_some() && self.spared.contains(&version.uid) => {
                self.violated(format!("{key}: D2: {} is deleted, and was to run on without its OVM", version.uid));
            }
            cluster::Step::WriteOvmStatus { at, status, .. } => self.placing(state, key, at, status),
            cluster::Step::CreateVm(_)
            | cluster::Step::DeleteVm(_)
            | cluster::Step::EvictVm { .. }
            | cluster::Step::EditVm(..)
            | cluster::Step::EditOvm(..)
            | cluster::Step::WriteVmStatus { .. }
            | cluster::Step::CreateRevision(_)
            | cluster::Step::EditRevision { .. }
            | cluster::Step::DeleteRevision { .. } => {}
        }
    }

    /// S2: a VM that was made from the OVM is placed for the first time, in a write that will go through.
    fn placing(
        &mut self,
        state: &Snapshot,
        key: &ObjectKey,
        at: &cluster::Version,
        status: &OfflineVirtualMachineStatus,
    ) {
        let Some(ovm) =
            state.ovms.get(key).filter(|ovm| ovm.metadata.resource_version.as_ref() == Some(&at.resource_version))
        else {
            return;
        };
        let uid_of = |status: &OfflineVirtualMachineStatus| status.placement.as_ref().map(|one| one.vm_uid.clone());
        let uid = uid_of(status).filter(|uid| ovm.status.as_ref().and_then(uid_of).as_ref() != Some(uid));
        let made = |vm: &VirtualMachine| {
            bound_node(vm).is_none()
                && vm.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(api::names::TEMPLATE_ANNOTATION))
        };
        let vm = state.vms.get(key).filter(|vm| uid.is_some() && vm.metadata.uid == uid && made(vm));
        if vm.is_some_and(|vm| vm.spec != ovm.spec.template.spec) {
            self.violated(format!("{key}: S2: {uid:?} is placed, and was made from an old template"));
        }
    }

    /// An agent is about to write to the API server.
    pub(super) fn agent_writing(&mut self, state: &Snapshot, host: Option<&Host>, key: &ObjectKey, step: &node::Step) {
        let node::Step::DropFinalizer { uid, resource_version } = step else { return };
        let current = state.vms.get(key).filter(|vm| {
            vm.metadata.uid.as_ref() == Some(uid) && vm.metadata.resource_version.as_ref() == Some(resource_version)
        });
        let Some(host) = host.filter(|_| current.is_some()) else { return };
        if host.processes.values().any(|process| process.vm_uid == *uid) {
            self.violated(format!("{key}: I2: {uid} is let go while its guest runs"));
        }
        if host.domains.values().any(|domain| domain.definition.vm_uid == *uid) {
            self.violated(format!("{key}: I2: {uid} is let go while its domain is defined"));
        }
    }

    /// An agent is about to call libvirt.
    pub(super) fn acting(&mut self, state: &Snapshot, node: &str, key: &ObjectKey, step: &node::Step) {
        let (node::Step::Destroy { uid } | node::Step::Shutdown { uid }) = step else { return };
        if state.vms.get(key).is_some_and(|vm| shall_run(vm, uid) && bound_node(vm) == Some(node)) {
            self.violated(format!("{key}: I6: {step:?} on a guest that shall run"));
        }
    }

    /// An agent is about to remove files.
    pub(super) fn cleaning(&mut self, state: &Snapshot, host: Option<&Host>, key: &ObjectKey, uid: &str) {
        if host.is_some_and(|host| host.processes.values().any(|process| process.vm_uid == uid)) {
            self.violated(format!("{key}: files of {uid} are removed under its running guest"));
        }
        if state.vms.get(key).is_some_and(|vm| shall_run(vm, uid)) {
            self.violated(format!("{key}: files of {uid} are removed, and it shall run"));
        }
    }

    /// A start call that had run into its deadline takes effect.
    pub(super) fn late_start(&mut self, key: &ObjectKey, made_for: &str, starts: Option<&str>) {
        if let Some(other) = starts.filter(|other| *other != made_for) {
            self.violated(format!("{key}: S6: the wrong VM runs: a start made for {made_for} started {other}"));
        }
    }
}

/// Whether the VM is the one of that UID, and is neither ended nor to end.
fn shall_run(vm: &VirtualMachine, uid: &str) -> bool {
    let phase = vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
    vm.metadata.uid.as_deref() == Some(uid) && vm.metadata.deletion_timestamp.is_none() && !phase.is_final()
}

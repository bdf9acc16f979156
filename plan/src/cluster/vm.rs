//! What every VM needs, with or without an OVM: finalizer, node, binding, and what becomes of it when its node is lost or fenced.

use std::time::Duration;

use api::names::VM_FINALIZER;
use api::v1alpha1::{
    OfflineVirtualMachine, Phase, PhaseTransitionTimestamp, VirtualMachine, VirtualMachineStatus, VolumeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::claims::resolve;
use super::draft::{Draft, Need, placement_of, places};
use super::objects::{
    bound_node, condition, controller_of, finalizers_with, finalizers_without, has_finalizer, is_deleting, is_ovm,
    phase_of, remove_condition, set_condition, uid_of, version_of,
};
use super::placement::{Constraints, Misfit, choose};
use super::{Claim, LeaseVerdict, MetadataEdit, Next, Step, VolumeConstraints};

/// Condition of a VM without a node.
pub(super) const SCHEDULED: &str = "Scheduled";
/// Condition that says whether the guest runs, of a VM and of an OVM.
pub(super) const READY: &str = "Ready";
/// Reason of a VM whose node is silent.
pub(super) const NODE_LOST: &str = "NodeLost";
/// Reason of a VM that was failed by a fence.
const NODE_FENCED: &str = "NodeFenced";
/// How often a VM without a node is looked at again, should a change of the nodes have been missed.
const UNSCHEDULABLE_RETRY: Duration = Duration::from_secs(30);
/// How long a fresh `Ready` is left alone although the node seems lost.
const CONTEST_PAUSE: Duration = Duration::from_secs(10);

impl Draft<'_> {
    /// A VM without an OVM of its name.
    pub(super) fn plan_bare_vm(&mut self, vm: &VirtualMachine) -> Next {
        self.plan_upkeep(vm)
            .or_else(|| match controller_of(&vm.metadata) {
                Some(owner) if is_ovm(owner) => {
                    self.report.note("the VM's OVM is gone: the garbage collector deletes the VM");
                    None
                }
                Some(_) | None => self.plan_unowned(vm),
            })
            .unwrap_or(Next::Rest)
    }

    /// What holds for every VM, whoever controls it.
    pub(super) fn plan_upkeep(&mut self, vm: &VirtualMachine) -> Option<Next> {
        let meta = &vm.metadata;
        let ours = has_finalizer(meta, VM_FINALIZER);
        if !is_deleting(meta) && !ours {
            let edit = MetadataEdit::Finalizers(finalizers_with(meta, VM_FINALIZER));
            return Some(self.act("S1: the VM gets its finalizer back", Step::EditVm(version_of(meta), edit), &[]));
        }
        match bound_node(vm) {
            None if is_deleting(meta) && ours => Some(self.plan_unbound_end(vm)),
            None => None,
            Some(node) if self.is_fenced(node) => self.plan_fence(vm, node),
            Some(node) => self.plan_readiness(vm, node),
        }
    }

    /// E3 for a VM that was never bound: the controller lets it go. One that has been placed is bound all the same, to be ended by its node: nobody else can
    /// say that no domain of the name is left there (E4), and what is not released holds up the OVM's deletion and ties its next VM.
    fn plan_unbound_end(&mut self, vm: &VirtualMachine) -> Next {
        let ovm = self.observed.ovm.clone().filter(|ovm| places(ovm, vm));
        let node = ovm.as_deref().and_then(placement_of).filter(|placement| !placement.released);
        if let Some(node) = node.map(|placement| placement.node_name.as_str())
            && !self.is_lost(node)
            && !self.is_fenced(node)
            && self.resolve_claims(vm).is_ok()
            && let Some(next) = self.plan_binding(vm, node, ovm.as_deref())
        {
            self.report.note("E3: the VM was placed but never bound: its node ends it, and releases the placement");
            return next;
        }
        self.drop_vm_finalizer(vm, "E3: the VM was never bound: the controller lets it go", &[])
    }

    fn drop_vm_finalizer(&mut self, vm: &VirtualMachine, why: &str, needs: &[Need<'_>]) -> Next {
        let edit = MetadataEdit::Finalizers(finalizers_without(&vm.metadata, VM_FINALIZER));
        self.act(why, Step::EditVm(version_of(&vm.metadata), edit), needs)
    }

    /// F2: first Failed, then the finalizer, each after its own look at VM, Lease and Node.
    fn plan_fence(&mut self, vm: &VirtualMachine, node: &str) -> Option<Next> {
        if !phase_of(vm).is_final() {
            let message = format!("node {node} is out of service or was deleted, and its agent is silent");
            let mut status = vm.status.clone().unwrap_or_default();
            enter(&mut status, Phase::Failed, self.now.wall);
            set_condition(&mut status.conditions, self.now.wall, READY, "False", NODE_FENCED, &message);
            let why = format!("F2: node {node} is fenced: the VM is Failed");
            return self.write_vm_status(&why, vm, status, None, &[Need::Home(node)]);
        }
        if is_deleting(&vm.metadata) && has_finalizer(&vm.metadata, VM_FINALIZER) {
            if !self.may_let_go(vm) {
                self.report.note("R3: the ended VM is let go once its ABI is on record");
                return None;
            }
            let why = format!("F2: node {node} is fenced: the ended VM is let go");
            return Some(self.drop_vm_finalizer(vm, &why, &[Need::Home(node)]));
        }
        None
    }

    /// `Ready` is Unknown while the node is lost. It goes back only once the Lease was seen to change: a controller that has just started
    /// knows nothing of the node yet.
    fn plan_readiness(&mut self, vm: &VirtualMachine, node: &str) -> Option<Next> {
        if phase_of(vm).is_final() {
            return None;
        }
        let verdict = self.home(node)?.lease.verdict(self.now.monotonic);
        let mut status = vm.status.clone().unwrap_or_default();
        let says_lost =
            condition(&status.conditions, READY).is_some_and(|ready| ready.reason.as_deref() == Some(NODE_LOST));
        match verdict {
            LeaseVerdict::Expired if !says_lost => {
                if let Some(wait) = self.contested(vm) {
                    self.requeue(wait);
                    return None;
                }
                let message = format!("the agent of node {node} is silent; the guest may still run there");
                set_condition(&mut status.conditions, self.now.wall, READY, "Unknown", NODE_LOST, &message);
                // A controller that was cut off from the API saw no renewal either: the Lease is read again first.
                self.write_vm_status(&format!("node {node} is lost"), vm, status, None, &[Need::Home(node)])
            }
            LeaseVerdict::Live if says_lost => {
                // The agent writes `Ready` as it observes it.
                remove_condition(&mut status.conditions, READY);
                self.write_vm_status(&format!("node {node} is back"), vm, status, None, &[])
            }
            LeaseVerdict::Expired | LeaseVerdict::Live | LeaseVerdict::Unproven => None,
        }
    }

    /// How long to leave `Ready` alone: somebody has just written it, perhaps an agent that can write anything but its Lease.
    fn contested(&self, vm: &VirtualMachine) -> Option<Duration> {
        let ready = condition(&vm.status.as_ref()?.conditions, READY)?;
        let since = self.now.wall.duration_since(ready.last_transition_time.as_ref()?.0);
        CONTEST_PAUSE.checked_sub(Duration::try_from(since).ok()?).filter(|left| !left.is_zero())
    }

    /// A VM that no OVM controls: it is bound, and goes by its node's taints like any other.
    pub(super) fn plan_unowned(&mut self, vm: &VirtualMachine) -> Option<Next> {
        self.plan_bare_binding(vm).or_else(|| self.plan_eviction(vm, None))
    }

    /// Chooses a node for a VM that no OVM controls, and binds it in one write.
    fn plan_bare_binding(&mut self, vm: &VirtualMachine) -> Option<Next> {
        if bound_node(vm).is_some() || is_deleting(&vm.metadata) || phase_of(vm).is_final() {
            return None;
        }
        match self.choose_node(vm, None, None) {
            Ok((node, claim)) => self.write_binding(vm, &node, None, Some(claim)),
            Err(misfit) => self.plan_unschedulable(vm, &misfit),
        }
    }

    /// S3 for a VM whose placement is written.
    pub(super) fn plan_binding(
        &mut self,
        vm: &VirtualMachine,
        node: &str,
        ovm: Option<&OfflineVirtualMachine>,
    ) -> Option<Next> {
        self.write_binding(vm, node, ovm, None)
    }

    /// S3: one write of `VM.status`.
    fn write_binding(
        &mut self,
        vm: &VirtualMachine,
        node: &str,
        ovm: Option<&OfflineVirtualMachine>,
        claim: Option<Claim>,
    ) -> Option<Next> {
        let volumes = match self.resolve_claims(vm) {
            Ok((volumes, _)) => volumes,
            // Between placement and binding a claim was deleted.
            Err(misfit) => return self.plan_unschedulable(vm, &misfit),
        };
        let installation = &self.observed.installation;
        let mut status = vm.status.clone().unwrap_or_default();
        status.volumes = volumes;
        status.node_name = Some(node.to_owned());
        status.network = Some(installation.network.clone());
        status.nic_model = Some(installation.nic_model.clone());
        status.abi = Some(self.bound_abi(vm, ovm));
        remove_condition(&mut status.conditions, SCHEDULED);
        enter(&mut status, Phase::Scheduled, self.now.wall);
        let needs: &[Need<'_>] = if ovm.is_some() { &[Need::Revisions] } else { &[] };
        self.write_vm_status(&format!("S3: the VM is bound to node {node}"), vm, status, claim, needs)
    }

    fn resolve_claims(&self, vm: &VirtualMachine) -> Result<(Vec<VolumeStatus>, VolumeConstraints), Misfit> {
        resolve(&self.observed.key.namespace, &vm.spec, &self.observed.claims)
    }

    /// The node for a VM, and the room that it takes there.
    pub(super) fn choose_node(
        &self,
        vm: &VirtualMachine,
        ovm: Option<&OfflineVirtualMachine>,
        pinned: Option<&str>,
    ) -> Result<(String, Claim), Misfit> {
        let machine_type = self.needed_machine_type(vm, ovm);
        let (_, volumes) = self.resolve_claims(vm)?;
        let constraints = Constraints { machine_type, volumes, ..Constraints::of(&vm.spec, pinned)? };
        let node = choose(self.now, &constraints, &self.observed.nodes)?;
        let claim =
            Claim { vm_uid: uid_of(&vm.metadata).to_owned(), node: node.clone(), requests: constraints.requests };
        Ok((node, claim))
    }

    /// Says on the VM why it has no node.
    pub(super) fn plan_unschedulable(&mut self, vm: &VirtualMachine, misfit: &Misfit) -> Option<Next> {
        self.requeue(UNSCHEDULABLE_RETRY);
        for line in misfit.lines() {
            self.report.note(line);
        }
        let mut status = vm.status.clone().unwrap_or_default();
        set_condition(&mut status.conditions, self.now.wall, SCHEDULED, "False", misfit.reason(), &misfit.to_string());
        enter(&mut status, Phase::Pending, self.now.wall);
        self.write_vm_status("no node fits the VM", vm, status, None, &[])
    }
}

/// Moves a status to a phase, and notes when it was entered first.
fn enter(status: &mut VirtualMachineStatus, phase: Phase, now: jiff::Timestamp) {
    status.phase = Some(phase);
    if !status.phase_transition_timestamps.iter().any(|stamp| stamp.phase == phase) {
        let phase_transition_timestamp = Time(now);
        status.phase_transition_timestamps.push(PhaseTransitionTimestamp { phase, phase_transition_timestamp });
    }
}

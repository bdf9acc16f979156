//! `OVM.status` as it follows from what was observed. Never from what was asked for.

use api::v1alpha1::{Condition, OfflineVirtualMachine, OfflineVirtualMachineStatus, Phase, VirtualMachine};

use super::Operation;
use super::draft::Draft;
use super::objects::{
    Ownership, bound_node, condition, is_deleting, ownership, phase_of, remove_condition, set_condition,
};
use super::ovm::is_running;
use super::start_failure;
use super::template::differs;
use super::vm::{NODE_LOST, READY, SCHEDULED};

/// Condition of an OVM whose create or delete fails.
const FAILURE: &str = "Failure";
/// Condition of an OVM whose running guest differs from the template.
const RESTART_REQUIRED: &str = "RestartRequired";
/// Condition of a VM that its agent cannot bring about.
const SYNCHRONIZED: &str = "Synchronized";

impl Draft<'_> {
    /// The status of an OVM, with placement as it is.
    pub(super) fn ovm_status(
        &self,
        ovm: &OfflineVirtualMachine,
        vm: Option<&VirtualMachine>,
    ) -> OfflineVirtualMachineStatus {
        let ours = vm.filter(|vm| ownership(ovm, vm) == Ownership::Ours);
        let mut status = ovm.status.clone().unwrap_or_default();
        status.created = ours.is_some();
        status.ready = ours.is_some_and(is_running);
        status.observed_generation = ovm.metadata.generation.or(status.observed_generation);
        status.abi = self.ovm_abi(ovm, ours);
        status.start_failure = start_failure::next(ovm, ours, self.now.wall);
        self.set_failure(&mut status.conditions, ovm, vm);
        self.set_restart_required(&mut status.conditions, ovm, ours);
        let word = self.printable_status(ovm, ours, &status);
        let stands_still = ours.is_some_and(|vm| not_ready(vm).is_some());
        self.set_ready(&mut status, &word, stands_still);
        status.printable_status = Some(word);
        status
    }

    /// `ready` once more, for `kubectl wait --for=condition=Ready`; unknown while nobody hears of the guest.
    fn set_ready(&self, status: &mut OfflineVirtualMachineStatus, word: &str, stands_still: bool) {
        let (value, message) = match status.ready {
            true if stands_still => ("False", "the guest stands still; its VirtualMachine's condition Ready says why"),
            true if word == NODE_LOST => ("Unknown", "the agent of its node is silent; the guest may still run there"),
            true => ("True", "the guest runs"),
            false => ("False", "the guest does not run"),
        };
        set_condition(&mut status.conditions, self.now.wall, READY, value, word, message);
    }

    fn set_failure(&self, conditions: &mut Vec<Condition>, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) {
        match self.failure(ovm, vm) {
            Some((reason, message)) => set_condition(conditions, self.now.wall, FAILURE, "True", reason, &message),
            None => remove_condition(conditions, FAILURE),
        }
    }

    /// Reason and message of what keeps the VM from being created or deleted.
    fn failure(&self, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) -> Option<(&'static str, String)> {
        let last = self.observed.failure.as_ref();
        let Some(vm) = vm else {
            let last = last.filter(|failure| failure.operation == Operation::Create && ovm.spec.running)?;
            return Some(("FailedCreate", last.error.clone()));
        };
        match ownership(ovm, vm) {
            Ownership::Foreign(owner) if !is_deleting(&ovm.metadata) => {
                let reason = if ovm.spec.running { "FailedCreate" } else { "FailedDelete" };
                let name = ovm.metadata.name.as_deref().unwrap_or_default();
                let owner = format!("{} {} (uid {})", owner.kind, owner.name, owner.uid);
                Some((
                    reason,
                    format!(
                        "VirtualMachine {name} is controlled by {owner}: it is left alone; delete it, or rename this one"
                    ),
                ))
            }
            Ownership::Foreign(_) | Ownership::Free => None,
            Ownership::Ours => {
                let wanted = is_deleting(&ovm.metadata) || !ovm.spec.running || phase_of(vm).is_final();
                let last = last.filter(|failure| failure.operation == Operation::Delete)?;
                (wanted && !is_deleting(&vm.metadata)).then(|| ("FailedDelete", last.error.clone()))
            }
        }
    }

    fn set_restart_required(
        &self,
        conditions: &mut Vec<Condition>,
        ovm: &OfflineVirtualMachine,
        vm: Option<&VirtualMachine>,
    ) {
        let alive = vm.filter(|vm| !is_deleting(&vm.metadata) && !phase_of(vm).is_final());
        if alive.is_some_and(|vm| differs(ovm, vm)) {
            let message = "the template was changed; the change takes effect at the next start";
            set_condition(conditions, self.now.wall, RESTART_REQUIRED, "True", "TemplateChanged", message);
        } else {
            remove_condition(conditions, RESTART_REQUIRED);
        }
    }

    /// One word for what the virtual machine is doing.
    fn printable_status(
        &self,
        ovm: &OfflineVirtualMachine,
        vm: Option<&VirtualMachine>,
        status: &OfflineVirtualMachineStatus,
    ) -> String {
        let starting = || {
            let failing = status.start_failure.is_some();
            let failure = condition(&status.conditions, FAILURE).and_then(|failure| failure.reason.clone());
            failure.unwrap_or_else(|| if failing { "CrashLoopBackOff" } else { "Starting" }.to_owned())
        };
        if is_deleting(&ovm.metadata) {
            return "Terminating".to_owned();
        }
        let Some(vm) = vm else {
            return if ovm.spec.running { starting() } else { "Stopped".to_owned() };
        };
        let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        if is_deleting(&vm.metadata) || !ovm.spec.running {
            return if bound_node(vm).is_some_and(|node| self.is_lost(node)) { NODE_LOST } else { "Stopping" }
                .to_owned();
        }
        match phase_of(vm) {
            Phase::Succeeded | Phase::Failed => starting(),
            _ if bound_node(vm).is_some_and(|node| self.is_lost(node)) => NODE_LOST.to_owned(),
            // Paused, panicked, on a full disk.
            Phase::Running => not_ready(vm).unwrap_or("Running").to_owned(),
            Phase::Unset | Phase::Pending | Phase::Scheduling | Phase::Scheduled | Phase::Unknown => {
                let blocked = [SCHEDULED, SYNCHRONIZED].into_iter().find_map(|type_| condition(conditions, type_));
                let reason =
                    blocked.filter(|blocked| blocked.status == "False").and_then(|blocked| blocked.reason.clone());
                reason.unwrap_or_else(|| "Starting".to_owned())
            }
        }
    }
}

/// Why a guest that is up does not run, as its agent says.
fn not_ready(vm: &VirtualMachine) -> Option<&str> {
    let ready = condition(&vm.status.as_ref()?.conditions, READY)?;
    ready.reason.as_deref().filter(|_| ready.status == "False")
}

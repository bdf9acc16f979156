//! `OVM.status` as it follows from what was observed. Never from what was asked for.

use api::v1alpha1::{
    Condition, OfflineVirtualMachine, OfflineVirtualMachineStatus, Phase, StartFailure, VirtualMachine,
};

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
/// Reason of a VM whose image is on its way: the message changes all the time, and is not repeated.
const PULLING: &str = "Pulling";

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
        self.set_ready(&mut status, &word, ours);
        status.printable_status = Some(word);
        status
    }

    /// `ready` once more, for `kubectl wait --for=condition=Ready`; but false from when the guest is to stop, and unknown while nobody hears
    /// of it. Its message says why the guest does not run, so that nobody has to look elsewhere.
    fn set_ready(&self, status: &mut OfflineVirtualMachineStatus, word: &str, vm: Option<&VirtualMachine>) {
        let (value, message) = match status.ready {
            true if word == NODE_LOST => {
                ("Unknown", "the agent of its node is silent; the guest may still run there".to_owned())
            }
            // Ready once more when its successor runs: that is what `kubectl wait` after a restart is for.
            true if matches!(word, "Stopping" | "Terminating") => ("False", why_not(status, word, vm)),
            true => match vm.and_then(not_ready) {
                Some(why) => ("False", why.message.clone().unwrap_or_else(|| "the guest stands still".to_owned())),
                None => ("True", "the guest runs".to_owned()),
            },
            false => ("False", why_not(status, word, vm)),
        };
        set_condition(&mut status.conditions, self.now.wall, READY, value, word, &message);
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
        if is_deleting(&vm.metadata) || !ovm.spec.running {
            return if bound_node(vm).is_some_and(|node| self.is_lost(node)) { NODE_LOST } else { "Stopping" }
                .to_owned();
        }
        match phase_of(vm) {
            Phase::Succeeded | Phase::Failed => starting(),
            _ if bound_node(vm).is_some_and(|node| self.is_lost(node)) => NODE_LOST.to_owned(),
            // Paused, panicked, on a full disk.
            Phase::Running => {
                not_ready(vm).and_then(|ready| ready.reason.clone()).unwrap_or_else(|| "Running".to_owned())
            }
            Phase::Unset | Phase::Pending | Phase::Scheduling | Phase::Scheduled | Phase::Unknown => {
                blocked(vm).and_then(|blocked| blocked.reason.clone()).unwrap_or_else(|| "Starting".to_owned())
            }
        }
    }
}

/// Why a guest that is up does not run, as its agent says.
fn not_ready(vm: &VirtualMachine) -> Option<&Condition> {
    let ready = condition(&vm.status.as_ref()?.conditions, READY)?;
    (ready.status == "False" && ready.reason.is_some()).then_some(ready)
}

/// What keeps a guest from its start, as controller or agent say.
fn blocked(vm: &VirtualMachine) -> Option<&Condition> {
    let conditions = &vm.status.as_ref()?.conditions;
    let blocked = [SCHEDULED, SYNCHRONIZED].into_iter().find_map(|type_| condition(conditions, type_))?;
    (blocked.status == "False").then_some(blocked)
}

/// Why the guest does not run, in a sentence. `word` is its `printableStatus`.
fn why_not(status: &OfflineVirtualMachineStatus, word: &str, vm: Option<&VirtualMachine>) -> String {
    let says_word = |condition: &&Condition| condition.reason.as_deref() == Some(word);
    let said = vm.and_then(blocked).or_else(|| condition(&status.conditions, FAILURE)).filter(says_word);
    let fixed = match (word, &status.start_failure) {
        (PULLING, _) => "its image is on its way; its VirtualMachine's condition Synchronized says how far",
        ("Stopped", _) => "spec.running is false",
        ("Stopping" | "Terminating", _) => "the guest is being stopped",
        (NODE_LOST, _) => "the agent of its node is silent",
        ("CrashLoopBackOff", Some(failure)) => return crash_loop(failure),
        _ => match said.and_then(|said| said.message.clone()) {
            Some(message) => return message,
            None => "the guest is being started",
        },
    };
    fixed.to_owned()
}

fn crash_loop(failure: &StartFailure) -> String {
    let count = failure.consecutive_fail_count;
    let retry = failure.retry_after_timestamp.as_ref().map(|time| format!(", and is started again after {}", time.0));
    format!("the guest did not stay up for 10 s, {count} times in a row{}", retry.unwrap_or_default())
}

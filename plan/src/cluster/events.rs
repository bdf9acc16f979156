//! What users are told of the planner's steps: the events of KubeVirt v0.5.0, word for word (`docs/API.md`).

use std::time::Duration;

use api::v1alpha1::AbiRecord;
use k8s_openapi::api::apps::v1::ControllerRevision;

use super::objects::{Ownership, ownership};
use super::{Observed, Step};

/// An event's message has at most 1024 bytes.
const LONGEST_CHANGES: usize = 900;
/// Delay after the first failed call.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Longest delay between tries of a failing call.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// An event about an OVM, or about a VM that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// It is about the VM, else about the OVM.
    pub on_vm: bool,
    /// Warning, else Normal.
    pub warning: bool,
    /// One word, CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// The event that a carried out step is worth. `outcome` is its error as people are to read it. One per change; writes of metadata and status
/// are worth none.
pub fn event_for(step: &Step, observed: &Observed, outcome: Result<(), &str>) -> Option<EventNote> {
    let name = &observed.key.name;
    let (warning, reason, message) = match (step, outcome) {
        (Step::CreateVm(_), Ok(())) => (false, "SuccessfulCreate", format!("Created virtual machine: {name}")),
        (Step::CreateVm(_), Err(error)) => (true, "FailedCreate", format!("Error creating virtual machine: {error}")),
        (Step::DeleteVm(at), Ok(())) => (false, "SuccessfulDelete", format!("Deleted virtual machine: {}", at.uid)),
        (Step::EvictVm { at, because }, Ok(())) => {
            (false, "TaintEviction", format!("Deleted virtual machine {}: {because}", at.uid))
        }
        (Step::DeleteVm(_) | Step::EvictVm { .. }, Err(error)) => {
            (true, "FailedDelete", format!("Error deleting virtual machine {name}: {error}"))
        }
        (Step::CreateRevision(made), outcome) => return record_event(made, observed, outcome),
        (
            Step::EditVm(..)
            | Step::EditOvm(..)
            | Step::WriteVmStatus { .. }
            | Step::WriteOvmStatus { .. }
            | Step::EditRevision { .. }
            | Step::DeleteRevision { .. },
            _,
        ) => {
            return None;
        }
    };
    let vm = observed.vm.as_deref().filter(|_| matches!(step, Step::EvictVm { .. }));
    let on_vm = vm.is_some_and(|vm| observed.ovm.as_deref().is_none_or(|ovm| ownership(ovm, vm) != Ownership::Ours));
    Some(EventNote { on_vm, warning, reason, message })
}

/// What became of a guest's next record: which of its ABI changed, by the user's doing. The first says nothing that nobody knew.
fn record_event(made: &ControllerRevision, observed: &Observed, outcome: Result<(), &str>) -> Option<EventNote> {
    if let Err(error) = outcome {
        let message = format!("Error recording the guest's ABI: {error}");
        return Some(EventNote { warning: true, reason: "FailedAbiRecord", message, on_vm: false });
    }
    let number = made.revision;
    let earlier = observed.revisions.iter().flatten().filter(|one| one.revision < number);
    let before = earlier.max_by_key(|one| one.revision)?.record.as_ref().ok()?;
    let after = AbiRecord::read(&made.data.as_ref()?.0).ok()?;
    let mut changes = before.changes(&after).join("; ");
    if let Some((end, _)) = changes.char_indices().nth(LONGEST_CHANGES) {
        changes.truncate(end);
        changes.push_str("...");
    }
    Some(EventNote {
        warning: false,
        reason: "AbiChanged",
        message: format!("ABI record {number}: {changes}"),
        on_vm: false,
    })
}

/// How long to wait after `attempts` failed calls in a row.
pub fn retry_delay(attempts: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX)).min(LONGEST_RETRY)
}

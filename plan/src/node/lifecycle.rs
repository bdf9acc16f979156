//! What a domain's state says of a run: the lifecycle truth table.
//!
//! libvirt keeps the reason of a stop in memory only. `unknown` is therefore never success, and the journal tells a run that was
//! forgotten from one that never was (S6).

use api::v1alpha1::Phase;
use jiff::Timestamp;

use super::{DomainFacts, DomainState, FinalState, ShutOffReason, StartRecord};

/// Reasons of final states that events tell apart.
pub(super) mod reason {
    /// The guest powered off by itself, or obeyed.
    pub(in crate::node) const POWERED_OFF: &str = "PoweredOff";
    /// It was powered off when its grace period was over.
    pub(in crate::node) const GRACE_PERIOD_EXCEEDED: &str = "GracePeriodExceeded";
    /// Somebody destroyed the domain.
    pub(in crate::node) const DESTROYED: &str = "Destroyed";
    /// QEMU died.
    pub(in crate::node) const QEMU_CRASHED: &str = "QemuCrashed";
    /// The guest's kernel panicked.
    pub(in crate::node) const GUEST_PANICKED: &str = "GuestPanicked";
}

/// What is known of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// QEMU lives.
    Live,
    /// A start call may still fire: settle it first (S6).
    Unsettled,
    /// Defined, and never run.
    NeverRan,
    /// Over.
    Ended(FinalState),
}

/// What else bears on the verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    /// Now.
    pub(super) now: Timestamp,
    /// The phase in the API, Unset if there is no object.
    pub(super) phase: Phase,
    /// The journalled start.
    pub(super) start: Option<&'a StartRecord>,
    /// A guest panic was reported.
    pub(super) panic_seen: bool,
}

/// Judges a run by its domain.
pub(super) fn judge(domain: &DomainFacts, evidence: Evidence<'_>) -> Verdict {
    let DomainState::ShutOff(reason) = domain.state else { return Verdict::Live };
    if is_unsettled(evidence.start) {
        return Verdict::Unsettled;
    }
    let may_have_run = evidence.phase == Phase::Running || evidence.start.is_some();
    let end = |phase, reason: &str, message: &str| {
        Verdict::Ended(FinalState { phase, reason: reason.to_owned(), message: message.to_owned(), at: evidence.now })
    };
    match reason {
        ShutOffReason::Shutdown => end(Phase::Succeeded, reason::POWERED_OFF, "the guest powered off"),
        ShutOffReason::Crashed | ShutOffReason::Destroyed if evidence.panic_seen => {
            end(Phase::Failed, reason::GUEST_PANICKED, "the guest panicked")
        }
        ShutOffReason::Crashed => end(
            Phase::Failed,
            reason::QEMU_CRASHED,
            "QEMU crashed or was killed, or the guest panicked while the agent was away",
        ),
        ShutOffReason::Destroyed if domain.deadline.is_some_and(|deadline| deadline <= evidence.now) => end(
            Phase::Failed,
            reason::GRACE_PERIOD_EXCEEDED,
            "the guest still ran when its grace period was over, and was powered off",
        ),
        ShutOffReason::Destroyed => end(Phase::Failed, reason::DESTROYED, "the domain was destroyed, not by its agent"),
        // A start that failed or was cut short is tried again, unless an earlier one is known to have succeeded.
        ShutOffReason::Failed | ShutOffReason::Daemon if evidence.phase != Phase::Running => Verdict::NeverRan,
        ShutOffReason::Unknown if !may_have_run => Verdict::NeverRan,
        ShutOffReason::Unknown | ShutOffReason::Failed | ShutOffReason::Daemon => {
            end(Phase::Failed, "StateLost", "how the guest ended is not known: libvirt was restarted since")
        }
        ShutOffReason::Saved => {
            end(Phase::Failed, "Saved", "the domain was saved to a file, which its agent does not restore")
        }
        ShutOffReason::Migrated => end(Phase::Failed, "Migrated", "the domain was migrated away, not by its agent"),
        ShutOffReason::FromSnapshot => {
            end(Phase::Failed, "Reverted", "the domain was reverted to a snapshot, not by its agent")
        }
        ShutOffReason::Other(code) => end(
            Phase::Failed,
            "ShutOff",
            &format!("libvirt gives shut-off reason {code}, which this version does not know"),
        ),
    }
}

/// The end of a run whose domain is gone without the agent's doing.
pub(super) fn vanished(now: Timestamp) -> FinalState {
    FinalState {
        phase: Phase::Failed,
        reason: "DomainGone".to_owned(),
        message: "the domain was undefined, not by its agent".to_owned(),
        at: now,
    }
}

/// Whether a start call may still fire. None can across a boot of the host.
pub(super) fn is_unsettled(start: Option<&StartRecord>) -> bool {
    start.is_some_and(|start| start.this_boot && !start.settled)
}

/// Whether a live domain is the run that the agent started. Where the journal is lost, a phase that only the agent writes speaks for it.
pub(super) fn is_started_by_agent(domain: &DomainFacts, evidence: Evidence<'_>) -> bool {
    match evidence.start {
        Some(start) => {
            start.this_boot && (start.run_id.is_none() || domain.run_id.is_none() || start.run_id == domain.run_id)
        }
        None => evidence.phase == Phase::Running,
    }
}

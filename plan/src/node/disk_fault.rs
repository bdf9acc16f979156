//! A guest that is paused because one of its disks failed: what to say of it, and when to let it go on.
//!
//! QEMU stops a guest at the first write that its disk does not take (`error_policy='stop'`), and makes that write again when the guest is resumed: nothing
//! is lost. So a guest whose file system was full goes on when there is room, and one whose storage was away when it is back. Nobody tells when that
//! is: free space is looked at, and where that says nothing, the guest is resumed to find out, ever more seldom.

use std::time::Duration;

use jiff::Timestamp;

use super::{DomainFacts, DomainState, GuestEvent, NodePlan, PausedReason, Report, Step, VmFacts, status};

/// So much has to be free before a guest goes on: enough for it not to stop again at once.
const ROOM_BYTES: u64 = 4 << 20;
/// How often free space is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The pause after the first attempt to resume a guest; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// A disk that failed under a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFault {
    /// Name of the disk in the spec, or its target where that is not known.
    pub disk: String,
    /// The file or device that was written to; empty if it is not known.
    pub path: String,
    /// The write found no space; else it is an error of another kind.
    pub no_space: bool,
    /// What is free on the file system of `path`. None: not known, or it is on none.
    pub free_bytes: Option<u64>,
}

/// Attempts to let a paused guest go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumes {
    /// How many in a row.
    pub count: u32,
    /// When the last one was made.
    pub at: Timestamp,
}

impl Resumes {
    /// Adds an attempt. One that held for the longest pause begins a new row.
    pub fn after(before: Option<Self>, now: Timestamp) -> Self {
        let is_recent = |one: &Self| elapsed(one.at, now) < LONGEST_PAUSE * 2;
        let count = before.filter(is_recent).map_or(0, |one| one.count);
        Self { count: count.saturating_add(1), at: now }
    }

    /// How long the next attempt must still wait. None: it may be made. So it may after one from the future: the clock was set back since.
    fn wait_left(self, now: Timestamp) -> Option<Duration> {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.count.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
        let waited = Duration::try_from(now.duration_since(self.at)).ok()?;
        pause.checked_sub(waited).filter(|left| !left.is_zero())
    }
}

/// Nothing, where the clock was set back.
fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// Whether the domain is paused because a disk failed.
pub(super) fn is_paused_by_disk(domain: &DomainFacts) -> bool {
    domain.state == DomainState::Paused(PausedReason::IoError)
}

/// Reason and message of condition Ready.
pub(super) fn readiness(faults: &[DiskFault]) -> (&'static str, String) {
    let Some(fault) = faults.iter().find(|fault| !fault.no_space).or(faults.first()) else {
        return (
            "PausedOnIoError",
            "the guest is paused: one of its disks failed; it is resumed from time to time".to_owned(),
        );
    };
    let DiskFault { disk, path, .. } = fault;
    if fault.no_space {
        let message = format!(
            "the guest is paused: disk {disk} has no space left: the file system of {path} is full; free some, and the guest goes on"
        );
        return ("DiskFull", message);
    }
    let message = format!(
        "the guest is paused: disk {disk} failed ({path}): see to the storage and the kernel's log; the guest is resumed from time to time"
    );
    ("PausedOnIoError", message)
}

/// A guest that is paused so: says it, and resumes it when that may help.
pub(super) fn plan_paused(
    now: Timestamp,
    vm: &VmFacts,
    told: Option<Step>,
    faults: &[DiskFault],
    resumes: Option<Resumes>,
) -> NodePlan {
    let (reason, message) = readiness(faults);
    let is_new = !status::says(vm, reason);
    let mut steps: Vec<Step> = told.into_iter().collect();
    if is_new && !steps.is_empty() {
        steps.push(Step::Record(GuestEvent::warning(&vm.uid, reason, &message)));
    }
    let is_still_full =
        faults.iter().any(|fault| fault.no_space && fault.free_bytes.is_some_and(|free| free < ROOM_BYTES));
    let wait = resumes.and_then(|resumes| resumes.wait_left(now));
    let requeue = match wait {
        _ if is_still_full => LOOK_AGAIN,
        Some(left) => left.min(LOOK_AGAIN),
        // The first attempt has a pause before it, too, where nothing says that it will help.
        None if is_new && faults.iter().all(|fault| !fault.no_space) => LOOK_AGAIN,
        None => {
            steps.push(Step::Resume { uid: vm.uid.clone() });
            LOOK_AGAIN
        }
    };
    NodePlan { steps, requeue: Some(requeue), report: Report::new("PausedOnIoError", &message), ..NodePlan::default() }
}

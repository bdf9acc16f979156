//! Whether /proc can be believed: it must show the guests that libvirt says run.
//!
//! A directory that shows process 1 may still be that of another PID namespace, where no QEMU ever is. Every look would then be an all-clear (S5, E1).

use std::collections::BTreeSet;

use uuid::Uuid;

/// A run of a guest, as libvirt tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestRun {
    /// UUID of the domain, which its QEMU has on its command line.
    pub uuid: Uuid,
    /// libvirt's number for the run.
    pub run_id: u32,
}

/// What one pass says of /proc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcVerdict {
    /// Runs that /proc did not show, for the next pass to compare with.
    pub unseen: BTreeSet<GuestRun>,
    /// Whether looks may be believed. None: nothing has run in two passes, so nothing new is known. Err: for the administrator.
    pub believed: Option<Result<(), String>>,
}

/// Judges /proc by the runs that libvirt lists. A guest may end between the two reads, so only a run that is not shown in two passes counts.
pub fn judge_processes(
    running: &BTreeSet<GuestRun>,
    shown: &BTreeSet<Uuid>,
    unseen_before: &BTreeSet<GuestRun>,
) -> ProcVerdict {
    let unseen: BTreeSet<GuestRun> = running.iter().filter(|run| !shown.contains(&run.uuid)).copied().collect();
    let hidden = unseen.intersection(unseen_before).count();
    let believed = match (hidden, unseen.is_empty(), running.is_empty()) {
        (0, true, false) => Some(Ok(())),
        (0, _, _) => None,
        (hidden, _, _) => Some(Err(format!(
            "{hidden} of {} guests that libvirt runs are not among the processes shown to the agent, so a guest that libvirt lost would be missed: \
             give the /proc of libvirt's host with --proc-dir, and restart the agent",
            running.len()
        ))),
    };
    ProcVerdict { unseen, believed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u32) -> GuestRun {
        GuestRun { uuid: Uuid::from_u128(number.into()), run_id: number }
    }

    #[test]
    fn e1_a_proc_that_does_not_show_a_running_guest_twice_is_not_believed() {
        let (both, first) = (BTreeSet::from([run(1), run(2)]), BTreeSet::from([run(1).uuid]));
        let once = judge_processes(&both, &first, &BTreeSet::new());
        assert_eq!((once.believed, &once.unseen), (None, &BTreeSet::from([run(2)])), "it may just have ended");
        let twice = judge_processes(&both, &first, &once.unseen);
        let message = twice.believed.unwrap().unwrap_err();
        assert!(message.contains("1 of 2") && message.contains("--proc-dir"), "{message}");
    }

    #[test]
    fn a_guest_that_was_started_again_in_between_is_another_run() {
        let again = GuestRun { run_id: 9, ..run(2) };
        let verdict = judge_processes(&BTreeSet::from([again]), &BTreeSet::new(), &BTreeSet::from([run(2)]));
        assert_eq!(verdict.believed, None);
    }

    #[test]
    fn all_shown_is_believed_and_none_running_says_nothing() {
        let seen =
            judge_processes(&BTreeSet::from([run(1)]), &BTreeSet::from([run(1).uuid]), &BTreeSet::from([run(1)]));
        assert_eq!(seen, ProcVerdict { unseen: BTreeSet::new(), believed: Some(Ok(())) });
        assert_eq!(
            judge_processes(&BTreeSet::new(), &BTreeSet::new(), &BTreeSet::from([run(1)])),
            ProcVerdict::default()
        );
    }
}

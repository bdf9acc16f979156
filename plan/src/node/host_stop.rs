//! The host shuts down: its guests are stopped in order, each within its grace period, by whoever runs when nothing else of ours has to.
//!
//! Guests of ours are all that carry our metadata. Each is told once more every ten seconds, as in a stop (E3); one that does not obey is ended when its grace
//! period is over, or the longest that the host waits for anybody. The deadline goes into the domain's metadata first, so that its end is reported as what it was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::stop::SIGNAL_INTERVAL;

/// A guest of ours that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningGuest {
    /// Its own grace period.
    pub grace: Duration,
    /// When the shutdown that this host began for it is over; none: not begun.
    pub deadline: Option<Timestamp>,
    /// Whether the deadline is in its domain's metadata.
    pub recorded: bool,
    /// When it was told last.
    pub told: Option<Timestamp>,
}

/// A step of the host's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostStopStep {
    /// Write down until when the guest has time.
    SetDeadline(Timestamp),
    /// Press its power button.
    Shutdown,
    /// End it.
    Destroy,
}

/// Decides what to do for a guest that still runs. `longest`: what the host waits at most, whatever the guest's own grace period is.
pub fn plan_host_stop(now: Timestamp, longest: Duration, guest: &RunningGuest) -> Vec<HostStopStep> {
    let grace = SignedDuration::try_from(guest.grace.min(longest)).unwrap_or(SignedDuration::MAX);
    let latest = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
    // One beyond that is of a clock that was set back since, as is a word to the guest from the future.
    let begun = guest.deadline.filter(|deadline| *deadline <= latest);
    let deadline = begun.unwrap_or(latest);
    let record = (!guest.recorded || begun.is_none()).then_some(HostStopStep::SetDeadline(deadline));
    let since = |told| Duration::try_from(now.duration_since(told)).unwrap_or(SIGNAL_INTERVAL);
    let is_due = guest.told.is_none_or(|told| since(told) >= SIGNAL_INTERVAL);
    let act = match () {
        () if deadline <= now => Some(HostStopStep::Destroy),
        () if is_due => Some(HostStopStep::Shutdown),
        () => None,
    };
    record.into_iter().chain(act).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_mins(5);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn guest(grace: u64) -> RunningGuest {
        RunningGuest { grace: Duration::from_secs(grace), deadline: None, recorded: false, told: None }
    }

    fn told(grace: u64, deadline: i64, told: i64) -> RunningGuest {
        RunningGuest { deadline: Some(at(deadline)), recorded: true, told: Some(at(told)), ..guest(grace) }
    }

    #[test]
    fn a_guest_is_told_and_has_its_grace_period() {
        let steps = plan_host_stop(at(100), LONGEST, &guest(30));
        assert_eq!(steps, [HostStopStep::SetDeadline(at(130)), HostStopStep::Shutdown]);
        assert_eq!(plan_host_stop(at(105), LONGEST, &told(30, 130, 100)), []);
        assert_eq!(plan_host_stop(at(110), LONGEST, &told(30, 130, 100)), [HostStopStep::Shutdown]);
        assert_eq!(plan_host_stop(at(130), LONGEST, &told(30, 130, 120)), [HostStopStep::Destroy]);
    }

    #[test]
    fn no_guest_holds_the_host_up_for_longer_than_the_host_waits() {
        let steps = plan_host_stop(at(0), LONGEST, &guest(3600));
        assert_eq!(steps.first(), Some(&HostStopStep::SetDeadline(at(300))));
    }

    #[test]
    fn a_guest_without_grace_period_is_ended_at_once() {
        let steps = plan_host_stop(at(0), LONGEST, &guest(0));
        assert_eq!(steps, [HostStopStep::SetDeadline(at(0)), HostStopStep::Destroy]);
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_guest_more_time() {
        let steps = plan_host_stop(at(100), LONGEST, &told(30, 3700, 3670));
        assert_eq!(steps, [HostStopStep::SetDeadline(at(130)), HostStopStep::Shutdown]);
    }

    #[test]
    fn a_deadline_that_was_not_written_down_is_written_again_and_stays() {
        let lost = RunningGuest { recorded: false, ..told(30, 130, 100) };
        assert_eq!(plan_host_stop(at(105), LONGEST, &lost), [HostStopStep::SetDeadline(at(130))]);
    }
}

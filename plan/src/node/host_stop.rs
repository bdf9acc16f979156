//! The host shuts down: its guests are stopped in order, each within its grace period, by whoever runs when nothing else of ours has to.
//!
//! Guests of ours are all that carry our metadata. Each is told once more every ten seconds, as in a stop (E3); one that does not obey is ended when its grace
//! period is over, or the longest that the host waits for anybody. The deadline goes into the domain's metadata first, so that its end is reported as what it was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::stop::SIGNAL_INTERVAL;

/// A guest of ours that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningGuest {
    /// Its firmware UUID.
    pub uuid: Uuid,
    /// Its own grace period.
    pub grace: Duration,
    /// When the shutdown that this host began for it is over; none: not begun.
    pub deadline: Option<Timestamp>,
    /// When it was told last.
    pub told: Option<Timestamp>,
}

/// A step of the host's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostStopStep {
    /// Write down until when the guest has time.
    SetDeadline {
        /// The guest.
        uuid: Uuid,
        /// Until then.
        deadline: Timestamp,
    },
    /// Press its power button.
    Shutdown {
        /// The guest.
        uuid: Uuid,
    },
    /// End it.
    Destroy {
        /// The guest.
        uuid: Uuid,
    },
}

/// Decides what to do for the guests that still run. `longest`: what the host waits at most, whatever a guest's own grace period is.
pub fn plan_host_stop(now: Timestamp, longest: Duration, guests: &[RunningGuest]) -> Vec<HostStopStep> {
    guests.iter().flat_map(|guest| plan_one(now, longest, guest)).collect()
}

fn plan_one(now: Timestamp, longest: Duration, guest: &RunningGuest) -> Vec<HostStopStep> {
    let uuid = guest.uuid;
    let Some(deadline) = guest.deadline else {
        let grace = SignedDuration::try_from(guest.grace.min(longest)).unwrap_or(SignedDuration::MAX);
        let deadline = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
        let first = if grace.is_zero() { HostStopStep::Destroy { uuid } } else { HostStopStep::Shutdown { uuid } };
        return vec![HostStopStep::SetDeadline { uuid, deadline }, first];
    };
    if deadline <= now {
        return vec![HostStopStep::Destroy { uuid }];
    }
    let is_due = guest
        .told
        .is_none_or(|told| Duration::try_from(now.duration_since(told)).is_ok_and(|since| since >= SIGNAL_INTERVAL));
    if is_due { vec![HostStopStep::Shutdown { uuid }] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_mins(5);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn guest(grace: u64) -> RunningGuest {
        RunningGuest { uuid: Uuid::from_u128(1), grace: Duration::from_secs(grace), deadline: None, told: None }
    }

    #[test]
    fn a_guest_is_told_and_has_its_grace_period() {
        let uuid = guest(30).uuid;
        assert_eq!(
            plan_host_stop(at(100), LONGEST, &[guest(30)]),
            [HostStopStep::SetDeadline { uuid, deadline: at(130) }, HostStopStep::Shutdown { uuid }]
        );
        let told = |second| RunningGuest { deadline: Some(at(130)), told: Some(at(second)), ..guest(30) };
        assert_eq!(plan_host_stop(at(105), LONGEST, &[told(100)]), []);
        assert_eq!(plan_host_stop(at(110), LONGEST, &[told(100)]), [HostStopStep::Shutdown { uuid }]);
        assert_eq!(plan_host_stop(at(130), LONGEST, &[told(120)]), [HostStopStep::Destroy { uuid }]);
    }

    #[test]
    fn no_guest_holds_the_host_up_for_longer_than_the_host_waits() {
        let uuid = guest(3600).uuid;
        let steps = plan_host_stop(at(0), LONGEST, &[guest(3600)]);
        assert_eq!(steps.first(), Some(&HostStopStep::SetDeadline { uuid, deadline: at(300) }));
    }

    #[test]
    fn a_guest_without_grace_period_is_ended_at_once() {
        let uuid = guest(0).uuid;
        let steps = plan_host_stop(at(0), LONGEST, &[guest(0)]);
        assert_eq!(steps, [HostStopStep::SetDeadline { uuid, deadline: at(0) }, HostStopStep::Destroy { uuid }]);
    }

    #[test]
    fn one_guest_does_not_wait_for_another() {
        let slow = RunningGuest { deadline: Some(at(500)), told: Some(at(99)), ..guest(400) };
        let late = RunningGuest { uuid: Uuid::from_u128(2), deadline: Some(at(100)), ..guest(1) };
        let steps = plan_host_stop(at(100), LONGEST, &[slow, late.clone()]);
        assert_eq!(steps, [HostStopStep::Destroy { uuid: late.uuid }]);
    }
}

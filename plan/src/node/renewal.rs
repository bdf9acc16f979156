//! When a joined agent's client certificate is renewed, and for how long.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A certificate is renewed after this share of its life, in percent, or a little later: as kubelets do it.
const EARLIEST_PERCENT: i32 = 70;
/// How much later at most, so that hosts that joined together do not all ask at once.
const SPREAD_PERCENT: u32 = 20;
/// Signers date certificates back by this, so that clocks that are a little behind take them.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);
/// A certificate is used for so long at least.
const LEAST_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// Those with a shorter life end as if they were not dated back.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
/// How often the clock is looked at.
const CLOCK_LOOK: Duration = Duration::from_mins(10);
/// Kubernetes signs for no less.
const LEAST: Duration = Duration::from_mins(10);

/// When the certificate of a node is to be renewed: `before` its end if that is given, else after 70 to 90 percent of its life, the same for the same
/// node at each look.
pub fn renewal_time(node: &str, not_before: Timestamp, not_after: Timestamp, before: Option<Duration>) -> Timestamp {
    let life = not_after.duration_since(not_before);
    let spread = node.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let percent = EARLIEST_PERCENT + i32::try_from(spread % (SPREAD_PERCENT + 1)).unwrap_or_default();
    let after = match before {
        Some(before) => life - SignedDuration::try_from(before).unwrap_or(life),
        None => life / 100 * percent,
    };
    // One that is due when it is made would be followed by the next without end.
    not_before.checked_add(after.max(BACKDATED + LEAST_PAUSE)).unwrap_or(not_after)
}

/// How long to sleep until a renewal is due, or until the clock is looked at again: that of a host that has just booted may be years off, until somebody sets
/// it. None: it is due.
pub fn renewal_pause(due: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = Duration::try_from(due.duration_since(now)).ok()?;
    Some(left.min(CLOCK_LOOK)).filter(|pause| !pause.is_zero())
}

/// The life that is asked for a successor: that of the one in force.
pub fn next_lifetime(not_before: Timestamp, not_after: Timestamp) -> Duration {
    let life = not_after.duration_since(not_before);
    let asked = if life <= SHORT + BACKDATED { life - BACKDATED } else { life };
    Duration::try_from(asked).unwrap_or(LEAST).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_late_in_its_life_and_not_by_all_at_once() {
        let time = |node| renewal_time(node, at(1000), at(2000), None).as_second();
        let times = ["n1", "n2", "node-17", "x"].map(time);
        assert!(times.iter().all(|time| (1700..=1900).contains(time)), "{times:?}");
        assert!(times.iter().any(|other| *other != time("n1")), "{times:?}");
        assert_eq!(times.first(), Some(&time("n1")), "the same time at each call");
    }

    #[test]
    fn a_clock_that_is_set_forward_makes_no_renewal_late() {
        assert_eq!(renewal_pause(at(2000), at(1900)), Some(Duration::from_secs(100)));
        assert_eq!((renewal_pause(at(2000), at(2000)), renewal_pause(at(2000), at(3000))), (None, None));
        // The host's battery is dead, and nobody has told it the time yet.
        assert_eq!(renewal_pause(at(1_795_000_000), at(946_684_800)), Some(CLOCK_LOOK));
    }

    #[test]
    fn an_operator_says_when() {
        let before = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(renewal_time("n1", at(1000), at(2000), before(300)), at(1700));
        assert_eq!(renewal_time("n1", at(1000), at(2000), before(5000)), at(1310), "a moment after it was made");
    }

    #[test]
    fn a_successor_lives_as_long() {
        let hour = 3600;
        assert_eq!(next_lifetime(at(0), at(900)), Duration::from_mins(10), "600 s, dated back by 300");
        assert_eq!(next_lifetime(at(0), at(90 * 24 * hour)), Duration::from_hours(90 * 24));
        assert_eq!(next_lifetime(at(0), at(1)), LEAST);
    }
}

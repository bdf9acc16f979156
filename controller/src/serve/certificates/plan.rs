//! When keys and certificates are made anew. Pure: time and what is there are arguments.
//!
//! ```text
//! nothing, or nothing usable ─► MakeEverything
//! authority ends soon ─► AddAuthority ─(OVERLAP: everybody learns of it)─► IssueLeaves ─(OVERLAP: nobody shows the old leaves)─► ForgetAuthorities
//! leaf ends soon ─► IssueLeaves
//! ```
//! So a certificate is only ever shown to peers that have had the time to learn of the authority that signed it.

use jiff::{SignedDuration, Timestamp};

/// Lifetime of an authority.
pub(super) const AUTHORITY_LIFE: SignedDuration = days(365);
/// An authority with less than this left gets a successor. Longer than any leaf lives, so that no leaf outlives its authority.
const AUTHORITY_RENEW: SignedDuration = days(60);
/// Lifetime of the serving and the client certificate.
pub(super) const LEAF_LIFE: SignedDuration = days(30);
/// A leaf with less than this left is issued anew: a controller that was away for less than that finds its certificates valid.
const LEAF_RENEW: SignedDuration = days(10);
/// Certificates are valid from this long before they are made: clocks differ.
pub(super) const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);
/// How long everybody has to learn of a new authority before it signs, and to see new leaves before the old authority goes.
const OVERLAP: SignedDuration = SignedDuration::from_hours(1);
/// A look at least this often, whatever the dates say: clocks jump.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// When a certificate was made and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) made: Timestamp,
    pub(super) ends: Timestamp,
}

/// An authority that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AuthorityFacts {
    /// Its name, which no other authority has.
    pub(super) name: String,
    pub(super) life: Life,
}

/// The serving or the client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeafFacts {
    /// Name of the authority that signed it.
    pub(super) issuer: String,
    pub(super) life: Life,
    /// It is good for what it is for: key and names fit.
    pub(super) fits: bool,
}

/// What there is. Keys fit their certificates, else there would be nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFacts {
    /// The newest first; its key is there, those of the others are not.
    pub(super) newest: AuthorityFacts,
    /// Those that are trusted besides.
    pub(super) older: Vec<AuthorityFacts>,
    pub(super) leaves: [LeafFacts; 2],
}

/// What to do next. One step at a time, each written before the next is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A new authority and leaves by it; what was there is not trusted any more.
    MakeEverything,
    /// A new authority beside those that are trusted. The leaves stay.
    AddAuthority,
    /// Leaves by the newest authority.
    IssueLeaves,
    /// Trust in these authorities, by name, ends.
    ForgetAuthorities(Vec<String>),
}

/// A step if one is due, and when to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificatePlan {
    pub(super) step: Option<Step>,
    pub(super) look_again: SignedDuration,
}

const fn days(count: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * count)
}

impl Life {
    /// Of a certificate made now.
    pub(super) fn starting(now: Timestamp, length: SignedDuration) -> Self {
        Self { made: now, ends: later(now, length) }
    }
}

/// Decides what to do about the certificates that are there; `None`: none are, or they cannot be used.
pub(super) fn plan_certificates(now: Timestamp, facts: Option<&CertificateFacts>) -> CertificatePlan {
    let Some(facts) = facts.filter(|facts| facts.newest.life.ends > now) else {
        return CertificatePlan { step: Some(Step::MakeEverything), look_again: SignedDuration::ZERO };
    };
    let newest = &facts.newest;
    let add_at = earlier(newest.life.ends, AUTHORITY_RENEW);
    let issue_at = facts.leaves.iter().map(|leaf| issue_leaf_at(now, leaf, facts)).min().unwrap_or(now);
    let settled_at = facts.leaves.iter().map(|leaf| later(leaf.life.made, OVERLAP)).max().unwrap_or(now);
    let all_by_newest = facts.leaves.iter().all(|leaf| leaf.issuer == newest.name);
    let forget_at =
        |authority: &AuthorityFacts| if all_by_newest { settled_at } else { Timestamp::MAX }.min(authority.life.ends);
    let forgotten: Vec<_> =
        facts.older.iter().filter(|old| forget_at(old) <= now).map(|old| old.name.clone()).collect();
    let step = if add_at <= now {
        Some(Step::AddAuthority)
    } else if issue_at <= now {
        Some(Step::IssueLeaves)
    } else if !forgotten.is_empty() {
        Some(Step::ForgetAuthorities(forgotten))
    } else {
        None
    };
    let next = facts.older.iter().map(forget_at).chain([add_at, issue_at]).min().unwrap_or(now);
    let look_again = next.duration_since(now).clamp(SignedDuration::ZERO, LONGEST_PAUSE);
    CertificatePlan { step, look_again }
}

/// When a leaf is due to be replaced by one of the newest authority.
fn issue_leaf_at(now: Timestamp, leaf: &LeafFacts, facts: &CertificateFacts) -> Timestamp {
    let is_trusted = facts.older.iter().chain([&facts.newest]).any(|authority| authority.name == leaf.issuer);
    if !leaf.fits || !is_trusted {
        return now;
    }
    if leaf.issuer == facts.newest.name {
        return earlier(leaf.life.ends, LEAF_RENEW);
    }
    // An ended leaf serves nobody: then one that some do not trust yet is better.
    later(facts.newest.life.made, OVERLAP).min(leaf.life.ends)
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn authority(name: &str, made: Timestamp) -> AuthorityFacts {
        AuthorityFacts { name: name.to_owned(), life: Life::starting(made, AUTHORITY_LIFE) }
    }

    fn leaf(issuer: &str, made: Timestamp) -> LeafFacts {
        LeafFacts { issuer: issuer.to_owned(), life: Life::starting(made, LEAF_LIFE), fits: true }
    }

    fn fresh(now: Timestamp) -> CertificateFacts {
        CertificateFacts { newest: authority("a0", now), older: Vec::new(), leaves: [leaf("a0", now), leaf("a0", now)] }
    }

    /// What a step makes of the facts.
    fn apply(now: Timestamp, facts: Option<CertificateFacts>, step: &Step, made: &mut u32) -> CertificateFacts {
        let mut next_name = || {
            *made += 1;
            format!("a{made}")
        };
        match (step, facts) {
            (Step::MakeEverything, _) | (_, None) => {
                let name = next_name();
                CertificateFacts {
                    newest: authority(&name, now),
                    older: Vec::new(),
                    leaves: [leaf(&name, now), leaf(&name, now)],
                }
            }
            (Step::AddAuthority, Some(mut facts)) => {
                facts.older.insert(0, std::mem::replace(&mut facts.newest, authority(&next_name(), now)));
                facts
            }
            (Step::IssueLeaves, Some(mut facts)) => {
                facts.leaves = [leaf(&facts.newest.name, now), leaf(&facts.newest.name, now)];
                facts
            }
            (Step::ForgetAuthorities(names), Some(mut facts)) => {
                facts.older.retain(|old| !names.contains(&old.name));
                facts
            }
        }
    }

    #[test]
    fn fresh_certificates_are_left_alone() {
        let plan = plan_certificates(start(), Some(&fresh(start())));
        assert_eq!(plan, CertificatePlan { step: None, look_again: LONGEST_PAUSE });
    }

    #[test]
    fn nothing_and_what_is_over_are_made_anew() {
        assert_eq!(plan_certificates(start(), None).step, Some(Step::MakeEverything));
        let over = later(start(), AUTHORITY_LIFE);
        assert_eq!(plan_certificates(over, Some(&fresh(start()))).step, Some(Step::MakeEverything));
    }

    #[test]
    fn a_leaf_that_ends_soon_or_does_not_fit_is_issued_anew() {
        let due = later(start(), LEAF_LIFE - LEAF_RENEW);
        assert_eq!(plan_certificates(due, Some(&fresh(start()))).step, Some(Step::IssueLeaves));
        let just_before = due.checked_sub(SignedDuration::from_mins(1)).unwrap();
        let plan = plan_certificates(just_before, Some(&fresh(start())));
        assert_eq!(plan, CertificatePlan { step: None, look_again: SignedDuration::from_mins(1) });
        let mut facts = fresh(start());
        facts.leaves[1].fits = false;
        assert_eq!(plan_certificates(start(), Some(&facts)).step, Some(Step::IssueLeaves));
        facts.leaves[1] = leaf("somebody else", start());
        assert_eq!(plan_certificates(start(), Some(&facts)).step, Some(Step::IssueLeaves));
    }

    #[test]
    fn a_new_authority_signs_only_once_everybody_had_time_to_learn_of_it() {
        let due = later(start(), AUTHORITY_LIFE - AUTHORITY_RENEW);
        let mut facts = fresh(start());
        facts.leaves = [leaf("a0", due), leaf("a0", due)];
        assert_eq!(plan_certificates(due, Some(&facts)).step, Some(Step::AddAuthority));
        let facts = apply(due, Some(facts), &Step::AddAuthority, &mut 0);
        let plan = plan_certificates(due, Some(&facts));
        assert_eq!(plan, CertificatePlan { step: None, look_again: OVERLAP });
        let signs = later(due, OVERLAP);
        assert_eq!(plan_certificates(signs, Some(&facts)).step, Some(Step::IssueLeaves));
        let facts = apply(signs, Some(facts), &Step::IssueLeaves, &mut 0);
        assert_eq!(plan_certificates(signs, Some(&facts)).step, None);
        let plan = plan_certificates(later(signs, OVERLAP), Some(&facts));
        assert_eq!(plan.step, Some(Step::ForgetAuthorities(vec!["a0".to_owned()])));
    }

    /// Ten years, with a controller that looks when it was told to, and one that is away for weeks at a time.
    #[test]
    fn over_years_no_leaf_is_shown_that_somebody_could_not_trust() {
        for away in [SignedDuration::ZERO, days(9), days(29)] {
            let (mut now, mut made) = (start(), 0);
            let mut facts = None;
            let mut trusted_since = std::collections::BTreeMap::new();
            let mut replaced_at = Timestamp::MIN;
            let end = later(start(), days(3650));
            while now < end {
                let plan = plan_certificates(now, facts.as_ref());
                let Some(step) = plan.step else {
                    now = later(now, plan.look_again.max(away).max(SignedDuration::from_secs(1)));
                    continue;
                };
                if let (Step::ForgetAuthorities(names), Some(facts)) = (&step, &facts) {
                    let ended = facts.older.iter().filter(|old| names.contains(&old.name));
                    assert!(now >= later(replaced_at, OVERLAP) || ended.clone().all(|old| old.life.ends <= now));
                }
                if step == Step::IssueLeaves {
                    let facts = facts.as_ref().unwrap();
                    let was_shown = facts.leaves.iter().all(|leaf| leaf.life.ends > now);
                    let known = later(trusted_since[&facts.newest.name], OVERLAP) <= now;
                    assert!(known || !was_shown, "{step:?} at {now}");
                    replaced_at = now;
                }
                let next = apply(now, facts.take(), &step, &mut made);
                trusted_since.entry(next.newest.name.clone()).or_insert(now);
                for leaf in &next.leaves {
                    let issuer = next.older.iter().chain([&next.newest]).find(|known| known.name == leaf.issuer);
                    let issuer = issuer.expect("who signed is trusted");
                    assert!(leaf.life.ends <= issuer.life.ends, "a leaf outlives its authority");
                }
                assert!(next.older.len() <= 1, "{next:?}");
                facts = Some(next);
            }
            assert!((11..=14).contains(&made), "{made} authorities in ten years");
        }
    }
}

//! Which of several controllers acts: election by a Lease.
//!
//! ```text
//!   candidate ──Lease free, or unchanged for `duration`──► take ──► leads ──renewal every `retry`──► leads
//!       ▲                                                            │
//!       └── `deadline` after the last renewal was sent, or another holder ──┘
//! ```
//! Times are of this process's own monotonic clock; those in the Lease are the writer's, are for people, and play no part. A leader counts from
//! when it *sent* its last renewal, the others from when they *saw* it, which is later: with `deadline` shorter than `duration` it has
//! stopped before another may begin, if their clocks run equally fast. The election saves work and conflicts; that no guest is doubled (I1, I2) rests on the
//! preconditions of each write, and holds with two leaders.

use std::time::Duration;

/// How long things last in an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionTerms {
    /// A Lease that has not changed for this long is free.
    pub duration: Duration,
    /// A leader stops this long after it sent its last renewal.
    pub deadline: Duration,
    /// How often a leader renews, and how long after a failed call another is made.
    pub retry: Duration,
}

impl ElectionTerms {
    /// Those of Kubernetes' own controllers.
    pub const KUBERNETES: Self =
        Self { duration: Duration::from_secs(15), deadline: Duration::from_secs(10), retry: Duration::from_secs(2) };
}

/// The Lease as a candidate saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionLease {
    /// Its resourceVersion.
    pub version: String,
    /// Who holds it; none after a release.
    pub holder: Option<String>,
    /// How often it changed hands.
    pub transitions: i32,
}

/// What one process knows of the election. Facts only; what follows from them is derived.
#[derive(Clone, Debug)]
pub struct Candidacy {
    identity: String,
    terms: ElectionTerms,
    known: Known,
    /// When its last successful renewal was sent.
    renewed: Option<Duration>,
    /// No call before this.
    quiet_until: Duration,
}

/// What is known of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Absent,
    /// `since`: when this version was first seen.
    Present {
        lease: ElectionLease,
        since: Duration,
    },
}

/// What a candidate does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionStep {
    /// Nothing before that time, unless the Lease is seen to change.
    Wait(Duration),
    /// Read the Lease.
    Read,
    /// Create the Lease, as its holder.
    Create,
    /// Write itself into the Lease of that version, which was `transitions` times in other hands.
    Take {
        /// Precondition: the resourceVersion.
        version: String,
        /// What to write.
        transitions: i32,
    },
    /// Write the time of renewal into its own Lease of that version.
    Renew {
        /// Precondition: the resourceVersion.
        version: String,
    },
}

impl Candidacy {
    /// A process that knows nothing yet. `identity` is its own: no other process has or had it.
    pub fn new(identity: String, terms: ElectionTerms) -> Self {
        Self { identity, terms, known: Known::Nothing, renewed: None, quiet_until: Duration::ZERO }
    }

    /// Until when it leads; none if it does not. A time that is over counts as none.
    pub fn leads_until(&self, now: Duration) -> Option<Duration> {
        let is_holder =
            !matches!(&self.known, Known::Present { lease, .. } if lease.holder.as_ref() != Some(&self.identity));
        self.renewed.map(|sent| sent + self.terms.deadline).filter(|until| is_holder && *until > now)
    }

    /// What to do at `now`.
    pub fn plan(&self, now: Duration) -> ElectionStep {
        if now < self.quiet_until {
            return ElectionStep::Wait(self.quiet_until);
        }
        match &self.known {
            Known::Nothing => ElectionStep::Read,
            Known::Absent => ElectionStep::Create,
            Known::Present { lease, since } => match &lease.holder {
                Some(holder) if *holder == self.identity => ElectionStep::Renew { version: lease.version.clone() },
                Some(_) if now < *since + self.terms.duration => ElectionStep::Wait(*since + self.terms.duration),
                _ => ElectionStep::Take {
                    version: lease.version.clone(),
                    transitions: lease.transitions.saturating_add(1),
                },
            },
        }
    }

    /// The watch showed the Lease, or that there is none. A leader does not listen: what a watch shows may be older than the answers to its
    /// renewals, and whoever takes the Lease from it makes its next renewal fail.
    pub fn watched(&mut self, lease: Option<ElectionLease>, now: Duration) {
        if self.leads_until(now).is_none() {
            self.read(lease, now);
        }
    }

    /// A read showed the Lease, or that there is none.
    pub fn read(&mut self, lease: Option<ElectionLease>, now: Duration) {
        let Some(lease) = lease else {
            self.known = Known::Absent;
            return;
        };
        let since = match &self.known {
            Known::Present { lease: known, since } if known.version == lease.version => *since,
            Known::Present { .. } | Known::Nothing | Known::Absent => now,
        };
        self.known = Known::Present { lease, since };
    }

    /// A create, take or renewal that was sent at `sent` was answered with this Lease.
    pub fn written(&mut self, lease: ElectionLease, sent: Duration, now: Duration) {
        self.renewed = Some(sent);
        self.read(Some(lease), now);
        self.quiet_until = sent + self.terms.retry;
    }

    /// The API server refused a write because the Lease is another by now: it is read again at once.
    pub fn overtaken(&mut self) {
        self.known = Known::Nothing;
    }

    /// A call came to nothing. A write may have been carried out all the same, so the Lease is read again, after a pause.
    pub fn failed(&mut self, step: &ElectionStep, now: Duration) {
        self.quiet_until = now + self.terms.retry;
        if !matches!(step, ElectionStep::Read) {
            self.known = Known::Nothing;
        }
    }

    /// It stops leading of its own accord: the version of the Lease that it may give up, if it holds it.
    pub fn resign(&mut self, now: Duration) -> Option<String> {
        let leads = self.leads_until(now).is_some();
        self.renewed = None;
        match &self.known {
            Known::Present { lease, .. } if leads => Some(lease.version.clone()),
            Known::Present { .. } | Known::Nothing | Known::Absent => None,
        }
    }
}

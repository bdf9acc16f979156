//! Whether a node's agent lives, judged by the controller's own clock (F1).
//!
//! Facts are stored (which version of the Lease was seen, and since when), the verdict is derived. The times inside the Lease are the
//! node's and play no part.

use std::sync::Arc;
use std::time::Duration;

/// A Lease that has not changed for this long is expired (PROTOCOL F1).
pub const LEASE_EXPIRY: Duration = Duration::from_secs(40);

/// What one controller process has seen of one node's Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFact {
    /// resourceVersion last seen; none where there is no Lease.
    pub version: Option<Arc<str>>,
    /// Monotonic time at which that version was first seen.
    pub since: Duration,
    /// Whether this process has seen the Lease change. Before that, it cannot tell a renewed Lease from an old one.
    pub renewed: bool,
}

/// What follows from a [`LeaseFact`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseVerdict {
    /// Renewed within [`LEASE_EXPIRY`].
    Live,
    /// Not watched long enough to tell.
    Unproven,
    /// Unchanged for [`LEASE_EXPIRY`].
    Expired,
}

impl LeaseFact {
    /// The fact after a look at `monotonic` that found `version`. Looks may be repeated and out of order with the watch: an older or
    /// newer version both prove that somebody wrote.
    #[must_use]
    pub fn seen(previous: Option<&Self>, version: Option<&str>, monotonic: Duration) -> Self {
        match previous {
            None => Self { version: version.map(Arc::from), since: monotonic, renewed: false },
            Some(fact) if fact.version.as_deref() == version => fact.clone(),
            Some(_) => Self { version: version.map(Arc::from), since: monotonic, renewed: version.is_some() },
        }
    }

    /// The verdict at `monotonic`.
    pub fn verdict(&self, monotonic: Duration) -> LeaseVerdict {
        if monotonic.saturating_sub(self.since) >= LEASE_EXPIRY {
            LeaseVerdict::Expired
        } else if self.renewed {
            LeaseVerdict::Live
        } else {
            LeaseVerdict::Unproven
        }
    }

    /// How long until the verdict is [`LeaseVerdict::Expired`], if nothing changes. None once it is.
    pub fn expires_in(&self, monotonic: Duration) -> Option<Duration> {
        LEASE_EXPIRY.checked_sub(monotonic.saturating_sub(self.since)).filter(|left| !left.is_zero())
    }
}

//! libvirt for async code: typed calls with deadlines, events in a channel, a connection that comes back.
//!
//! ```text
//!  async code ── Libvirt ──► Calls: one thread a call, deadline ──► virt, virt-sys ──► libvirtd
//!      ▲                                                                                  │
//!      └── Events ◄── broadcast ◄── callbacks ◄── event loop, one thread a process ◄──────┘
//! ```
//!
//! This is the only module of the workspace with `unsafe`, and in it only `ffi`, `heap`, `start_pages`, `subscription` and `console::stream`. It decides nothing about guests, knows nothing
//! of Kubernetes, and does not order calls: two calls about one domain may overtake each other, so whoever owns the guest makes one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use calls::{Call, NoAnswer};
use connection::Connection;
pub use console::Console;
pub use domain::{DiskError, DomainIdentity, DomainSummary, XmlView};
pub use error::{ConnectError, Error, Failure, Target};
pub use event::{
    CloseReason, CrashedDetail, DefinedDetail, Event, Events, GuestEvent, GuestEventKind, IoError, IoErrorAction,
    Lifecycle, PmSuspendedDetail, ResumedDetail, ShutdownDetail, StartedDetail, StoppedDetail, SuspendedDetail,
    UndefinedDetail, WatchdogAction,
};
pub use heap::share_one_heap;
pub use host::{EmulatorFacts, HostFacts, Usability, Version, VirtType};
use session::Session;

use crate::metrics::LibvirtCalls;
pub use start_pages::give_back_start_pages;
pub use state::{CrashedReason, DomainState, PausedReason, RunningReason, ShutOffReason};

mod calls;
mod connection;
mod console;
mod domain;
mod error;
mod event;
mod event_loop;
mod ffi;
mod heap;
mod host;
mod raw_enum;
mod session;
mod start_pages;
mod state;
mod subscription;
mod threads;

/// How to reach libvirt, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct LibvirtOptions {
    /// A libvirt URI, such as `qemu:///system`.
    pub uri: String,
    /// For calls that only read or write what libvirtd itself holds.
    pub call_deadline: Duration,
    /// For defining and starting a guest: QEMU's own start, 5 s more where the host name does not resolve, and as many for the first call to a fresh
    /// libvirtd, which asks QEMU what it can do.
    pub start_deadline: Duration,
    /// For ending a guest's process: libvirt itself waits up to 15 s for SIGTERM and SIGKILL to take effect.
    pub destroy_deadline: Duration,
    /// How often a silent libvirtd is asked for a sign of life, in whole seconds. After six intervals without one the connection ends, which frees the
    /// threads that wait for it.
    pub keepalive_interval: Duration,
    /// Where calls are counted.
    pub calls: LibvirtCalls,
}

/// A handle on libvirt. Cheap to clone; the connection closes when the last clone is dropped.
///
/// Every call runs on a thread of its own with a deadline. See [`Error`] for what a failure means, and [`Error::is_outcome_unknown`] above all.
#[derive(Clone, Debug)]
pub struct Libvirt {
    session: Arc<Session>,
}

impl LibvirtOptions {
    /// The deadlines that fit a real host.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            call_deadline: Duration::from_secs(10),
            start_deadline: Duration::from_mins(1),
            destroy_deadline: Duration::from_secs(40),
            keepalive_interval: Duration::from_secs(5),
            calls: LibvirtCalls::default(),
        }
    }
}

impl Libvirt {
    /// Opens the first connection. Later ones are opened by themselves, for as long as the handle lives.
    ///
    /// # Errors
    /// What hinders the first connection. There is no retry here: whether to wait for a libvirt that is not up yet is the caller's decision.
    pub async fn connect(options: LibvirtOptions) -> Result<Self, ConnectError> {
        Ok(Self { session: Session::start(options).await? })
    }

    /// The URI that this handle was made with.
    pub fn uri(&self) -> &str {
        self.session.uri()
    }

    /// A receiver of everything that happens from now on. Subscribe before the first list.
    pub fn events(&self) -> Events {
        self.session.events()
    }

    /// Whether there is a connection now. It says nothing about how the daemon feels: that is [`Libvirt::probe`].
    pub fn is_connected(&self) -> bool {
        self.session.connection().is_some()
    }

    /// The operations about `target` that are still under way, past their deadline or not. Empty: nothing that was asked can take effect any more
    /// through this connection; a daemon that had read a call before its connection broke may still act on it.
    pub fn unanswered(&self, target: &Target) -> Vec<&'static str> {
        self.session.calls().unanswered(target)
    }

    /// How many calls are unanswered past their deadline. More than a few, and this libvirtd hangs.
    pub fn parked_calls(&self) -> usize {
        self.session.calls().parked()
    }

    /// Asks the daemon for a sign of life.
    ///
    /// # Errors
    /// [`Error::Deadline`] or [`Error::Stuck`] for a daemon that hangs, [`Error::Disconnected`] without one.
    pub async fn probe(&self) -> Result<(), Error> {
        let answer = self.call("probe", Target::Host, self.options().call_deadline, |connection| {
            // Not one of the calls that libvirtd's reserved workers answer while all others hang.
            connection.connect().free_memory().map(drop).map_err(Failure::from)
        });
        answer.await
    }

    fn options(&self) -> &LibvirtOptions {
        self.session.options()
    }

    /// Runs one blocking call on the present connection.
    async fn call<T, F>(&self, operation: &'static str, target: Target, deadline: Duration, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let disconnected = |target: Target, sent| {
            let uri = Arc::clone(self.session.shared_uri());
            Error::Disconnected { operation, target, uri, sent }
        };
        let Some(connection) = self.session.connection() else {
            return Err(disconnected(target, false));
        };
        let call = Call { operation, target: target.clone(), deadline };
        let work = move || {
            // A failure on a dead connection says nothing about what was asked.
            let answer = work(&connection).map_err(|failure| connection.is_alive().then_some(failure));
            // The last reference may close the connection: that belongs on this thread.
            drop(connection);
            answer
        };
        let begun = Instant::now();
        let answer = self.session.calls().run(call, work).await;
        self.options().calls.note(operation, outcome(&answer), begun.elapsed());
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(None)) => Err(disconnected(target, true)),
            Ok(Err(Some(failure))) if failure.is_no_domain() => Err(Error::NoDomain { operation, target }),
            Ok(Err(Some(source))) => Err(Error::Refused { operation, target, source }),
            Err(NoAnswer::Deadline) => Err(Error::Deadline { operation, target, deadline }),
            Err(NoAnswer::Busy) => Err(Error::Busy { operation, target, deadline }),
            Err(NoAnswer::Stuck) => Err(Error::Stuck { operation, target }),
            Err(NoAnswer::Panicked) => Err(Error::Panicked { operation, target }),
        }
    }
}

/// The word of the metrics.
fn outcome<T>(answer: &Result<T, NoAnswer>) -> &'static str {
    match answer {
        Ok(_) => "answered",
        Err(NoAnswer::Deadline | NoAnswer::Busy) => "deadline",
        Err(NoAnswer::Stuck) => "stuck",
        Err(NoAnswer::Panicked) => "panicked",
    }
}

//! What libvirt tells us unasked: changes of guests, and of the connection itself.
//!
//! Events are hints. They wake whoever then reads the true state; none is ever the only place where something is known.
//! Between [`Event::Disconnected`] and [`Event::Reconnected`] events are lost, and after [`Event::Missed`] some were: list everything again.

use std::fmt;

use tokio::sync::broadcast;
use uuid::Uuid;

use super::raw_enum::raw_enum;

/// One message from libvirt, or about the connection to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something happened to a guest.
    Guest(GuestEvent),
    /// The connection is gone. Calls fail until [`Event::Reconnected`]; guests run on.
    Disconnected(CloseReason),
    /// There is a new connection, and events flow again. Everything must be listed again.
    Reconnected,
    /// The receiver was too slow and this many events are lost. Everything must be listed again.
    Missed(u64),
}

/// Something that happened to one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestEvent {
    /// The domain's UUID.
    pub uuid: Uuid,
    /// The domain's name.
    pub name: String,
    /// What happened.
    pub kind: GuestEventKind,
}

/// What happened to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEventKind {
    /// The domain changed its state or its definition.
    Lifecycle(Lifecycle),
    /// The guest was reset, by itself or by somebody else. It comes twice for one reset.
    Reboot,
    /// The guest's watchdog fired, and this is done about it.
    Watchdog(WatchdogAction),
    /// A disk could not be read or written.
    IoError(IoError),
}

/// A failed read or write of a guest's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoError {
    /// The file or block device on the host; empty when libvirt cannot tell.
    pub path: String,
    /// The disk's alias, such as `ua-disk0`.
    pub alias: String,
    /// What is done about it.
    pub action: IoErrorAction,
    /// `enospc`, or empty: QEMU tells no other reason.
    pub reason: String,
}

/// A change of a domain's state or definition, with libvirt's detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// A definition was added or replaced.
    Defined(DefinedDetail),
    /// The definition was removed.
    Undefined(UndefinedDetail),
    /// The guest started.
    Started(StartedDetail),
    /// The guest's CPUs were stopped.
    Suspended(SuspendedDetail),
    /// The guest's CPUs run again. At a start this comes before [`Lifecycle::Started`].
    Resumed(ResumedDetail),
    /// The guest is over: its process is gone.
    Stopped(StoppedDetail),
    /// The guest has powered off, or its process was told to end; the process still exists.
    Shutdown(ShutdownDetail),
    /// The guest has put itself to sleep.
    PmSuspended(PmSuspendedDetail),
    /// The guest's kernel crashed.
    Crashed(CrashedDetail),
    /// A kind of event that this build does not know, in libvirt's numbers.
    Other {
        /// libvirt's event.
        event: u32,
        /// libvirt's detail.
        detail: u32,
    },
}

raw_enum! {
    /// How a definition came to be.
    pub enum DefinedDetail {
        Added = VIR_DOMAIN_EVENT_DEFINED_ADDED => "added",
        Updated = VIR_DOMAIN_EVENT_DEFINED_UPDATED => "updated",
        Renamed = VIR_DOMAIN_EVENT_DEFINED_RENAMED => "renamed",
        FromSnapshot = VIR_DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT => "from snapshot",
    }
}

raw_enum! {
    /// How a definition went.
    pub enum UndefinedDetail {
        Removed = VIR_DOMAIN_EVENT_UNDEFINED_REMOVED => "removed",
        Renamed = VIR_DOMAIN_EVENT_UNDEFINED_RENAMED => "renamed",
    }
}

raw_enum! {
    /// How a guest started.
    pub enum StartedDetail {
        Booted = VIR_DOMAIN_EVENT_STARTED_BOOTED => "booted",
        Migrated = VIR_DOMAIN_EVENT_STARTED_MIGRATED => "migrated",
        Restored = VIR_DOMAIN_EVENT_STARTED_RESTORED => "restored",
        FromSnapshot = VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT => "from snapshot",
        Wakeup = VIR_DOMAIN_EVENT_STARTED_WAKEUP => "event wakeup",
        Recreated = VIR_DOMAIN_EVENT_STARTED_RECREATED => "recreated",
    }
}

raw_enum! {
    /// Why a guest's CPUs were stopped.
    pub enum SuspendedDetail {
        Paused = VIR_DOMAIN_EVENT_SUSPENDED_PAUSED => "paused",
        Migrated = VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED => "migrated",
        IoError = VIR_DOMAIN_EVENT_SUSPENDED_IOERROR => "I/O error",
        Watchdog = VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG => "watchdog",
        Restored = VIR_DOMAIN_EVENT_SUSPENDED_RESTORED => "restored",
        FromSnapshot = VIR_DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT => "from snapshot",
        ApiError = VIR_DOMAIN_EVENT_SUSPENDED_API_ERROR => "API error",
        PostCopy = VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY => "post-copy",
        PostCopyFailed = VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED => "post-copy failed",
        GuestShutdown = VIR_DOMAIN_EVENT_SUSPENDED_GUEST_SHUTDOWN => "guest shutdown",
    }
}

raw_enum! {
    /// Why a guest's CPUs run again.
    pub enum ResumedDetail {
        Unpaused = VIR_DOMAIN_EVENT_RESUMED_UNPAUSED => "unpaused",
        Migrated = VIR_DOMAIN_EVENT_RESUMED_MIGRATED => "migrated",
        FromSnapshot = VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT => "from snapshot",
        PostCopy = VIR_DOMAIN_EVENT_RESUMED_POSTCOPY => "post-copy",
        PostCopyFailed = VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED => "post-copy failed",
    }
}

raw_enum! {
    /// How a guest ended.
    pub enum StoppedDetail {
        Shutdown = VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => "shutdown",
        Destroyed = VIR_DOMAIN_EVENT_STOPPED_DESTROYED => "destroyed",
        Crashed = VIR_DOMAIN_EVENT_STOPPED_CRASHED => "crashed",
        Migrated = VIR_DOMAIN_EVENT_STOPPED_MIGRATED => "migrated",
        Saved = VIR_DOMAIN_EVENT_STOPPED_SAVED => "saved",
        Failed = VIR_DOMAIN_EVENT_STOPPED_FAILED => "failed",
        FromSnapshot = VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT => "from snapshot",
        Recreated = VIR_DOMAIN_EVENT_STOPPED_RECREATED => "recreated",
    }
}

raw_enum! {
    /// Who ended a guest.
    pub enum ShutdownDetail {
        Finished = VIR_DOMAIN_EVENT_SHUTDOWN_FINISHED => "finished",
        Guest = VIR_DOMAIN_EVENT_SHUTDOWN_GUEST => "finished after guest request",
        Host = VIR_DOMAIN_EVENT_SHUTDOWN_HOST => "finished after host request",
    }
}

raw_enum! {
    /// Where a sleeping guest keeps its state.
    pub enum PmSuspendedDetail {
        Memory = VIR_DOMAIN_EVENT_PMSUSPENDED_MEMORY => "memory",
        Disk = VIR_DOMAIN_EVENT_PMSUSPENDED_DISK => "disk",
    }
}

raw_enum! {
    /// How a guest's kernel crashed.
    pub enum CrashedDetail {
        Panicked = VIR_DOMAIN_EVENT_CRASHED_PANICKED => "panicked",
        CrashLoaded = VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED => "crash loaded",
    }
}

raw_enum! {
    /// What is done about a watchdog that fired.
    pub enum WatchdogAction {
        None = VIR_DOMAIN_EVENT_WATCHDOG_NONE => "none",
        Pause = VIR_DOMAIN_EVENT_WATCHDOG_PAUSE => "pause",
        Reset = VIR_DOMAIN_EVENT_WATCHDOG_RESET => "reset",
        PowerOff = VIR_DOMAIN_EVENT_WATCHDOG_POWEROFF => "poweroff",
        Shutdown = VIR_DOMAIN_EVENT_WATCHDOG_SHUTDOWN => "shutdown",
        Debug = VIR_DOMAIN_EVENT_WATCHDOG_DEBUG => "debug",
        InjectNmi = VIR_DOMAIN_EVENT_WATCHDOG_INJECTNMI => "inject-nmi",
    }
}

raw_enum! {
    /// What is done about a failed read or write.
    pub enum IoErrorAction {
        None = VIR_DOMAIN_EVENT_IO_ERROR_NONE => "none",
        Pause = VIR_DOMAIN_EVENT_IO_ERROR_PAUSE => "pause",
        Report = VIR_DOMAIN_EVENT_IO_ERROR_REPORT => "report",
    }
}

raw_enum! {
    /// Why the connection to libvirt ended.
    pub enum CloseReason {
        Error = VIR_CONNECT_CLOSE_REASON_ERROR => "I/O error",
        EndOfFile = VIR_CONNECT_CLOSE_REASON_EOF => "end of file",
        KeepAlive = VIR_CONNECT_CLOSE_REASON_KEEPALIVE => "keepalive timeout",
        Client = VIR_CONNECT_CLOSE_REASON_CLIENT => "closed by us",
    }
}

/// One receiver of events. It holds the newest 1024 for a slow reader; see [`Event::Missed`].
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

impl Lifecycle {
    /// The value for libvirt's pair of numbers.
    pub(crate) fn from_raw(event: u32, detail: u32) -> Self {
        match event {
            virt_sys::VIR_DOMAIN_EVENT_DEFINED => Self::Defined(DefinedDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_UNDEFINED => Self::Undefined(UndefinedDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_STARTED => Self::Started(StartedDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_SUSPENDED => Self::Suspended(SuspendedDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_RESUMED => Self::Resumed(ResumedDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_STOPPED => Self::Stopped(StoppedDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_SHUTDOWN => Self::Shutdown(ShutdownDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_PMSUSPENDED => Self::PmSuspended(PmSuspendedDetail::from_raw(detail)),
            virt_sys::VIR_DOMAIN_EVENT_CRASHED => Self::Crashed(CrashedDetail::from_raw(detail)),
            _ => Self::Other { event, detail },
        }
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defined(detail) => write!(f, "defined ({detail})"),
            Self::Undefined(detail) => write!(f, "undefined ({detail})"),
            Self::Started(detail) => write!(f, "started ({detail})"),
            Self::Suspended(detail) => write!(f, "suspended ({detail})"),
            Self::Resumed(detail) => write!(f, "resumed ({detail})"),
            Self::Stopped(detail) => write!(f, "stopped ({detail})"),
            Self::Shutdown(detail) => write!(f, "shutdown ({detail})"),
            Self::PmSuspended(detail) => write!(f, "pmsuspended ({detail})"),
            Self::Crashed(detail) => write!(f, "crashed ({detail})"),
            Self::Other { event, detail } => write!(f, "unknown event {event} (detail {detail})"),
        }
    }
}

impl Events {
    /// A receiver of everything sent from now on.
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self { receiver }
    }

    /// The next event, or `None` once the last [`Libvirt`](super::Libvirt) is dropped.
    ///
    /// Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Event::Missed(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_newer_libvirt_are_kept() {
        assert_eq!(Lifecycle::from_raw(42, 3), Lifecycle::Other { event: 42, detail: 3 });
        assert_eq!(Lifecycle::from_raw(5, 77), Lifecycle::Stopped(StoppedDetail::Other(77)));
        assert_eq!(Lifecycle::from_raw(6, 1).to_string(), "shutdown (finished after guest request)");
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_that_it_missed_events() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = Events::new(receiver);
        for _ in 0..5 {
            sender.send(Event::Reconnected).unwrap();
        }
        drop(sender);
        assert_eq!(events.next().await, Some(Event::Missed(3)));
        assert_eq!(events.next().await, Some(Event::Reconnected));
        assert_eq!(events.next().await, Some(Event::Reconnected));
        assert_eq!(events.next().await, None);
    }
}

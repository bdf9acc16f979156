//! A domain's state and the reason for it, typed. Pure: numbers in, values out.
//!
//! libvirt keeps the reason of a stopped domain in memory only: after the daemon's next restart it is `Unknown`.

use std::fmt;

use super::raw_enum::raw_enum;

/// What libvirt says a domain is doing, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainState {
    /// libvirt does not know.
    NoState,
    /// The guest's CPUs run.
    Running(RunningReason),
    /// The guest waits for something on the host.
    Blocked,
    /// There is a process, and its CPUs stand still.
    Paused(PausedReason),
    /// The guest is on its way down; its process still exists.
    ShuttingDown,
    /// There is no process.
    ShutOff(ShutOffReason),
    /// The guest has crashed and is kept for inspection.
    Crashed(CrashedReason),
    /// The guest has put itself to sleep.
    PmSuspended,
    /// A state that this build does not know, in libvirt's numbers.
    Other {
        /// libvirt's state.
        state: u32,
        /// libvirt's reason.
        reason: u32,
    },
}

raw_enum! {
    /// Why a domain runs.
    pub enum RunningReason {
        Unknown = VIR_DOMAIN_RUNNING_UNKNOWN => "unknown",
        Booted = VIR_DOMAIN_RUNNING_BOOTED => "booted",
        Migrated = VIR_DOMAIN_RUNNING_MIGRATED => "migrated",
        Restored = VIR_DOMAIN_RUNNING_RESTORED => "restored",
        FromSnapshot = VIR_DOMAIN_RUNNING_FROM_SNAPSHOT => "from snapshot",
        Unpaused = VIR_DOMAIN_RUNNING_UNPAUSED => "unpaused",
        MigrationCanceled = VIR_DOMAIN_RUNNING_MIGRATION_CANCELED => "migration canceled",
        SaveCanceled = VIR_DOMAIN_RUNNING_SAVE_CANCELED => "save canceled",
        Wakeup = VIR_DOMAIN_RUNNING_WAKEUP => "event wakeup",
        Crashed = VIR_DOMAIN_RUNNING_CRASHED => "crashed",
        PostCopy = VIR_DOMAIN_RUNNING_POSTCOPY => "post-copy",
        PostCopyFailed = VIR_DOMAIN_RUNNING_POSTCOPY_FAILED => "post-copy failed",
    }
}

raw_enum! {
    /// Why a domain is paused.
    pub enum PausedReason {
        Unknown = VIR_DOMAIN_PAUSED_UNKNOWN => "unknown",
        User = VIR_DOMAIN_PAUSED_USER => "user",
        Migration = VIR_DOMAIN_PAUSED_MIGRATION => "migrating",
        Save = VIR_DOMAIN_PAUSED_SAVE => "saving",
        Dump = VIR_DOMAIN_PAUSED_DUMP => "dumping",
        IoError = VIR_DOMAIN_PAUSED_IOERROR => "I/O error",
        Watchdog = VIR_DOMAIN_PAUSED_WATCHDOG => "watchdog",
        FromSnapshot = VIR_DOMAIN_PAUSED_FROM_SNAPSHOT => "from snapshot",
        ShuttingDown = VIR_DOMAIN_PAUSED_SHUTTING_DOWN => "shutting down",
        Snapshot = VIR_DOMAIN_PAUSED_SNAPSHOT => "creating snapshot",
        Crashed = VIR_DOMAIN_PAUSED_CRASHED => "crashed",
        StartingUp = VIR_DOMAIN_PAUSED_STARTING_UP => "starting up",
        PostCopy = VIR_DOMAIN_PAUSED_POSTCOPY => "post-copy",
        PostCopyFailed = VIR_DOMAIN_PAUSED_POSTCOPY_FAILED => "post-copy failed",
        ApiError = VIR_DOMAIN_PAUSED_API_ERROR => "API error",
    }
}

raw_enum! {
    /// Why a domain is shut off.
    pub enum ShutOffReason {
        Unknown = VIR_DOMAIN_SHUTOFF_UNKNOWN => "unknown",
        Shutdown = VIR_DOMAIN_SHUTOFF_SHUTDOWN => "shutdown",
        Destroyed = VIR_DOMAIN_SHUTOFF_DESTROYED => "destroyed",
        Crashed = VIR_DOMAIN_SHUTOFF_CRASHED => "crashed",
        Migrated = VIR_DOMAIN_SHUTOFF_MIGRATED => "migrated",
        Saved = VIR_DOMAIN_SHUTOFF_SAVED => "saved",
        Failed = VIR_DOMAIN_SHUTOFF_FAILED => "failed",
        FromSnapshot = VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT => "from snapshot",
        Daemon = VIR_DOMAIN_SHUTOFF_DAEMON => "daemon",
    }
}

raw_enum! {
    /// Why a domain counts as crashed.
    pub enum CrashedReason {
        Unknown = VIR_DOMAIN_CRASHED_UNKNOWN => "unknown",
        Panicked = VIR_DOMAIN_CRASHED_PANICKED => "panicked",
    }
}

impl DomainState {
    /// The value for libvirt's pair of numbers.
    pub(crate) fn from_raw(state: u32, reason: u32) -> Self {
        match state {
            virt_sys::VIR_DOMAIN_NOSTATE => Self::NoState,
            virt_sys::VIR_DOMAIN_RUNNING => Self::Running(RunningReason::from_raw(reason)),
            virt_sys::VIR_DOMAIN_BLOCKED => Self::Blocked,
            virt_sys::VIR_DOMAIN_PAUSED => Self::Paused(PausedReason::from_raw(reason)),
            virt_sys::VIR_DOMAIN_SHUTDOWN => Self::ShuttingDown,
            virt_sys::VIR_DOMAIN_SHUTOFF => Self::ShutOff(ShutOffReason::from_raw(reason)),
            virt_sys::VIR_DOMAIN_CRASHED => Self::Crashed(CrashedReason::from_raw(reason)),
            virt_sys::VIR_DOMAIN_PMSUSPENDED => Self::PmSuspended,
            _ => Self::Other { state, reason },
        }
    }

    /// Whether libvirt has a process for this domain. An unknown state counts as having one.
    pub fn is_active(&self) -> bool {
        !matches!(self, Self::ShutOff(_))
    }
}

impl fmt::Display for DomainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoState => f.write_str("no state"),
            Self::Running(reason) => write!(f, "running ({reason})"),
            Self::Blocked => f.write_str("blocked"),
            Self::Paused(reason) => write!(f, "paused ({reason})"),
            Self::ShuttingDown => f.write_str("in shutdown"),
            Self::ShutOff(reason) => write!(f, "shut off ({reason})"),
            Self::Crashed(reason) => write!(f, "crashed ({reason})"),
            Self::PmSuspended => f.write_str("pmsuspended"),
            Self::Other { state, reason } => write!(f, "unknown state {state} (reason {reason})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_newer_libvirt_are_kept_and_count_as_active() {
        let state = DomainState::from_raw(99, 7);
        assert_eq!(state, DomainState::Other { state: 99, reason: 7 });
        assert!(state.is_active());
        let reason = DomainState::from_raw(virt_sys::VIR_DOMAIN_SHUTOFF, 4711);
        assert_eq!(reason, DomainState::ShutOff(ShutOffReason::Other(4711)));
        assert!(!reason.is_active());
        assert_eq!(reason.to_string(), "shut off (unknown value 4711)");
    }

    #[test]
    fn libvirts_documented_numbers_map_to_their_names() {
        // https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainShutoffReason
        let shut_off = |reason| DomainState::from_raw(5, reason);
        assert_eq!(shut_off(0), DomainState::ShutOff(ShutOffReason::Unknown));
        assert_eq!(shut_off(1), DomainState::ShutOff(ShutOffReason::Shutdown));
        assert_eq!(shut_off(2), DomainState::ShutOff(ShutOffReason::Destroyed));
        assert_eq!(shut_off(3), DomainState::ShutOff(ShutOffReason::Crashed));
        assert_eq!(shut_off(6), DomainState::ShutOff(ShutOffReason::Failed));
        assert_eq!(shut_off(8), DomainState::ShutOff(ShutOffReason::Daemon));
        assert_eq!(DomainState::from_raw(1, 1), DomainState::Running(RunningReason::Booted));
        assert_eq!(DomainState::from_raw(3, 5), DomainState::Paused(PausedReason::IoError));
    }
}

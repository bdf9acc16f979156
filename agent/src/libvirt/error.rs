//! What can go wrong with libvirt: connecting to it, and calling it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The host as a whole.
    Host,
    /// The domain with this UUID.
    Domain(Uuid),
    /// The domain with this name.
    Name(String),
}

/// libvirt's own words about a failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// libvirt's error number, a `VIR_ERR_*`.
    pub code: u32,
    /// libvirt's message: English, one line or more.
    pub message: String,
}

/// A failed call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection now. The next one is being tried for; wait for [`Event::Reconnected`](super::Event::Reconnected).
    #[error("{operation} {target}: no connection to libvirt at {uri}")]
    Disconnected {
        /// What was asked.
        operation: &'static str,
        /// About what.
        target: Target,
        /// The URI of the lost connection.
        uri: Arc<str>,
        /// The connection broke under the call; else it was never made.
        sent: bool,
    },
    /// libvirt did not answer in time. **The call may still take effect later**; [`Libvirt::unanswered`](super::Libvirt::unanswered) tells when not
    /// any more.
    #[error("{operation} {target}: libvirt did not answer within {} s", deadline.as_secs_f32())]
    Deadline {
        /// What was asked.
        operation: &'static str,
        /// About what.
        target: Target,
        /// How long we waited.
        deadline: Duration,
    },
    /// So many other calls are unanswered that there was no thread for this one before its deadline. It was not sent.
    #[error("{operation} {target}: libvirt has answered none of its other calls within {} s", deadline.as_secs_f32())]
    Busy {
        /// What was asked.
        operation: &'static str,
        /// About what.
        target: Target,
        /// How long we waited.
        deadline: Duration,
    },
    /// The same call about the same thing is unanswered past its deadline, so it was not sent again.
    #[error("{operation} {target}: an earlier call is still unanswered")]
    Stuck {
        /// What was asked.
        operation: &'static str,
        /// About what.
        target: Target,
    },
    /// There is no such domain.
    #[error("{operation} {target}: no such domain")]
    NoDomain {
        /// What was asked.
        operation: &'static str,
        /// About which domain.
        target: Target,
    },
    /// libvirt refused, or failed.
    #[error("{operation} {target}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// About what.
        target: Target,
        /// What libvirt said.
        #[source]
        source: Failure,
    },
    /// Our code for this call panicked. Only in builds that unwind.
    #[error("{operation} {target}: the call panicked")]
    Panicked {
        /// What was asked.
        operation: &'static str,
        /// About what.
        target: Target,
    },
}

/// Why there is no connection to libvirt. Each message names the URI and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error(
        "no libvirt answers at {uri}: install it, start it (systemctl start libvirtd), or name another with --libvirt-uri"
    )]
    NotRunning {
        /// What was tried.
        uri: Arc<str>,
        /// What libvirt's client library said.
        #[source]
        source: Failure,
    },
    /// The socket is not ours to use.
    #[error("no permission to use libvirt at {uri}: run as root, or as a member of group libvirt")]
    PermissionDenied {
        /// What was tried.
        uri: Arc<str>,
        /// What libvirt's client library said.
        #[source]
        source: Failure,
    },
    /// libvirt wants to know who we are, and nobody vouches for us.
    #[error(
        "libvirt at {uri} refused to let us in: run as root, or allow org.libvirt.unix.manage to this user in polkit"
    )]
    AuthenticationFailed {
        /// What was tried.
        uri: Arc<str>,
        /// What libvirt's client library said.
        #[source]
        source: Failure,
    },
    /// The URI is not one that this libvirt can open.
    #[error("{uri:?} is not a libvirt URI that this host can open: try --libvirt-uri qemu:///system")]
    BadUri {
        /// What was tried.
        uri: Arc<str>,
        /// What libvirt's client library said.
        #[source]
        source: Failure,
    },
    /// Somebody listens there and does not answer.
    #[error("libvirt at {uri} accepts connections but did not answer within {} s: restart it (systemctl restart libvirtd), guests run on", deadline.as_secs_f32())]
    Deadline {
        /// What was tried.
        uri: Arc<str>,
        /// How long we waited.
        deadline: Duration,
    },
    /// Anything else.
    #[error("cannot connect to libvirt at {uri}: see `virsh -c {uri} version`")]
    Failed {
        /// What was tried.
        uri: Arc<str>,
        /// What went wrong.
        #[source]
        source: Failure,
    },
}

impl Failure {
    /// A failure found on our side of the connection.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { code: virt_sys::VIR_ERR_INTERNAL_ERROR, message: message.into() }
    }

    /// Whether the domain is not in the state that the call needs, such as starting one that runs.
    pub fn is_wrong_state(&self) -> bool {
        self.code == virt_sys::VIR_ERR_OPERATION_INVALID
    }

    /// Whether this is about a domain that does not exist.
    pub(crate) fn is_no_domain(&self) -> bool {
        self.code == virt_sys::VIR_ERR_NO_DOMAIN
    }

    /// Whether libvirt says that what was asked for is impossible here, as it does for KVM on a host without.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(
            self.code,
            virt_sys::VIR_ERR_INVALID_ARG | virt_sys::VIR_ERR_CONFIG_UNSUPPORTED | virt_sys::VIR_ERR_NO_SUPPORT
        )
    }
}

impl From<virt::error::Error> for Failure {
    fn from(error: virt::error::Error) -> Self {
        Self { code: error.code().to_raw(), message: error.message().to_owned() }
    }
}

impl Error {
    /// A word for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Disconnected { .. } => "LibvirtDisconnected",
            Self::Deadline { .. } | Self::Busy { .. } => "LibvirtDeadline",
            Self::Stuck { .. } => "LibvirtStuck",
            Self::NoDomain { .. } => "NoDomain",
            Self::Refused { .. } => "LibvirtRefused",
            Self::Panicked { .. } => "LibvirtCallPanicked",
        }
    }

    /// Whether the call may have taken effect, or may do so later, though it failed.
    pub fn is_outcome_unknown(&self) -> bool {
        // A connection that breaks under a call turns its failure into `Disconnected`, whether libvirt had read it or not.
        matches!(self, Self::Deadline { .. } | Self::Disconnected { sent: true, .. } | Self::Panicked { .. })
    }

    /// Whether the domain does not exist.
    pub fn is_no_domain(&self) -> bool {
        matches!(self, Self::NoDomain { .. })
    }

    /// Whether the domain was not in the state that the call needs, such as starting one that runs.
    pub fn is_wrong_state(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.is_wrong_state())
    }
}

impl ConnectError {
    /// Sorts what libvirt's client library said. `errno` is the system's error number behind it, if there is one.
    pub(crate) fn classify(uri: Arc<str>, source: Failure, errno: Option<i32>) -> Self {
        match (source.code, errno) {
            (_, Some(libc::EACCES | libc::EPERM)) => Self::PermissionDenied { uri, source },
            (_, Some(libc::ENOENT | libc::ECONNREFUSED)) => Self::NotRunning { uri, source },
            (
                virt_sys::VIR_ERR_AUTH_FAILED
                | virt_sys::VIR_ERR_AUTH_CANCELLED
                | virt_sys::VIR_ERR_AUTH_UNAVAILABLE
                | virt_sys::VIR_ERR_ACCESS_DENIED,
                _,
            ) => Self::AuthenticationFailed { uri, source },
            (
                virt_sys::VIR_ERR_NO_CONNECT
                | virt_sys::VIR_ERR_INVALID_ARG
                | virt_sys::VIR_ERR_CONFIG_UNSUPPORTED
                | virt_sys::VIR_ERR_NO_SUPPORT,
                _,
            ) => Self::BadUri { uri, source },
            _ => Self::Failed { uri, source },
        }
    }

    /// A word for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotRunning { .. } => "LibvirtNotRunning",
            Self::PermissionDenied { .. } => "LibvirtPermissionDenied",
            Self::AuthenticationFailed { .. } => "LibvirtAuthenticationFailed",
            Self::BadUri { .. } => "LibvirtBadUri",
            Self::Deadline { .. } => "LibvirtDeadline",
            Self::Failed { .. } => "LibvirtConnectFailed",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Domain(uuid) => write!(f, "domain {uuid}"),
            Self::Name(name) => write!(f, "domain {name:?}"),
        }
    }
}

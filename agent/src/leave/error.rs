//! Why a host does not leave. Each says what to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::credentials::IdentityFileError;
use crate::hostfs::FileError;
use crate::join::JoinError;
use crate::libvirt::{ConnectError, Error};
use crate::node::{IdentityError, LockError};
use crate::objects::ApiError;
use crate::proc::ProcError;

/// Why a host does not leave.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {}", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// It is not a joined agent's.
    #[error("kubeconfig {} is not what `ovm-agent join` wrote: this host has not joined by it", .0.display())]
    NotJoined(PathBuf),
    /// The certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] IdentityFileError),
    /// The client cannot be made.
    #[error("connect to the cluster")]
    Client(#[source] kube::Error),
    /// The cluster does not say who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster refuses or does not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// libvirt cannot be asked what runs here.
    #[error("ask libvirt what runs here")]
    Connect(#[from] ConnectError),
    /// libvirt does not say what runs here.
    #[error("ask libvirt what runs here")]
    Libvirt(#[from] Error),
    /// Guests are here.
    #[error("node {node} has guests: {guests}; stop them, or leave with --stop-guests")]
    Guests {
        /// The node.
        node: String,
        /// `NAMESPACE/NAME` of each.
        guests: String,
    },
    /// Guests came while the node was being closed. It stays closed: an agent may not open it.
    #[error(
        "node {node} takes no more guests, but meanwhile got {guests}; leave with --stop-guests, or stop them and run the same again (to stay: `kubectl uncordon {node}`)"
    )]
    CameMeanwhile {
        /// The node.
        node: String,
        /// `NAMESPACE/NAME` of each.
        guests: String,
    },
    /// The agent was stopped, and had to be started again.
    #[error(
        "node {node} is closed, and its agent runs again; run the same again to go on (to stay: `kubectl uncordon {node}`)"
    )]
    NotEmpty {
        /// The node.
        node: String,
        /// What is in the way.
        #[source]
        source: Box<LeaveError>,
    },
    /// The agent was stopped, and could not be started again.
    #[error(
        "node {node} is closed, and its agent is stopped; start it again (`systemctl enable --now ovm-agent`), then run the same again to go on (to stay: `kubectl uncordon {node}`)"
    )]
    AgentIsOff {
        /// The node.
        node: String,
        /// What is in the way.
        #[source]
        source: Box<LeaveError>,
    },
    /// The agent is stopped, and not everything was done that comes after.
    #[error(
        "node {node} is closed and has no guest, and its agent is stopped; run the same again to go on (to stay: `systemctl enable --now ovm-agent`, `kubectl uncordon {node}`)"
    )]
    HalfWay {
        /// The node.
        node: String,
        /// What failed.
        #[source]
        source: Box<LeaveError>,
    },
    /// Guests did not stop.
    #[error(
        "node {node} still has guests after {} s: {guests}; do agent and ovm-controller run, and do the guests tolerate every taint? The node stays closed; run the same again to go on waiting",
        waited.as_secs()
    )]
    StillThere {
        /// The node.
        node: String,
        /// `NAMESPACE/NAME` of each.
        guests: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The agent runs, and could start guests.
    #[error("stop the agent of this host, then run the same again")]
    AgentRuns(#[source] LockError),
    /// A QEMU that libvirt does not know of.
    #[error("process {pid} is the QEMU of guest {domain}, which libvirt has lost: end it, then run the same again")]
    Process {
        /// Process id.
        pid: u32,
        /// Name of its domain.
        domain: String,
    },
    /// The host's processes are not to be seen.
    #[error("look for running guests")]
    Processes(#[from] ProcError),
    /// The unit was not stopped.
    #[error(transparent)]
    Unit(#[from] Box<JoinError>),
    /// A file cannot be removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nobody reads what was done.
    #[error("print what was done")]
    Print(#[source] std::io::Error),
}

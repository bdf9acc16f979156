//! Why a server does not start. Each message is one line that names object, value and fix.

use std::net::SocketAddr;
use std::path::PathBuf;

/// A failed start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be made, or a file in it cannot be written.
    #[error("use data directory {}: make it writable for this user, or choose another with --data-dir", path.display())]
    DataDir {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another server holds the lock.
    #[error("data directory {} is in use by another process{}: stop that process, or choose another directory with --data-dir", path.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, where its lock file tells.
        pid: Option<u32>,
    },
    /// The listen address cannot be bound.
    #[error("listen on {address}: stop what uses the port (`ss -ltnp` shows it), or choose another with --listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl StartError {
    /// Machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DataDir { .. } => "DataDirUnusable",
            Self::InUse { .. } => "DataDirInUse",
            Self::Bind { .. } => "ListenFailed",
        }
    }
}

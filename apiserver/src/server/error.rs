//! Why a server does not start. Each message is one line that names object, value and fix.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::registry::CrdError;
use crate::store::{StoreError, WriteError};

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
    /// A file for the members of a group cannot be given to the group.
    #[error(
        "give {} to group {group}: this process may not; choose its own group with --kubeconfig-group, or give its unit SupplementaryGroups= and SystemCallFilter=@chown",
        path.display()
    )]
    Group {
        /// The file.
        path: PathBuf,
        /// The group's id.
        group: u32,
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
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// Namespaces and definitions cannot be written.
    #[error("write namespaces and custom resource definitions")]
    Bootstrap(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A custom resource definition cannot be served.
    #[error(transparent)]
    Definition(#[from] CrdError),
    /// A custom resource definition cannot be written as JSON.
    #[error("encode custom resource definition {name}")]
    EncodeDefinition {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A key or certificate cannot be made or read.
    #[error("{operation} {}: remove the file, then start again to have it made anew", path.display())]
    Certificate {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
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
    pub(crate) fn store(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }

    pub(crate) fn bootstrap(error: WriteError) -> Self {
        Self::Bootstrap(Box::new(error))
    }

    /// Machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DataDir { .. } => "DataDirUnusable",
            Self::Group { .. } => "GroupUnusable",
            Self::InUse { .. } => "DataDirInUse",
            Self::Store(_) => "StoreUnusable",
            Self::Bootstrap(_) => "BootstrapFailed",
            Self::Definition(_) | Self::EncodeDefinition { .. } => "DefinitionInvalid",
            Self::Certificate { .. } => "CertificateFailed",
            Self::Bind { .. } => "ListenFailed",
        }
    }
}

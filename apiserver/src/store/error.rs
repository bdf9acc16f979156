//! What can go wrong in the store.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// The store itself fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{operation}: no space left in data directory {}: free some, then try again", directory.display())]
    Full { operation: &'static str, directory: PathBuf },
    #[error("{operation} in store {}", path.display())]
    Sqlite {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("store {} has schema {found}, this program knows up to {known}: use the newer program again", path.display())]
    TooNew { path: PathBuf, found: i64, known: i64 },
    #[error("object {resource} {namespace}/{name} in the store is no JSON object")]
    Corrupt {
        resource: String,
        namespace: String,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("start the store's writer thread")]
    Thread {
        #[source]
        source: std::io::Error,
    },
    #[error("the server is shutting down")]
    Closed,
}

impl StoreError {
    pub(super) fn sqlite(operation: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { operation, directory: path.parent().unwrap_or(path).to_owned() },
            _ => Self::Sqlite { operation, path: path.to_owned(), source },
        }
    }
}

/// A mutation is refused, or the store fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Create: the key is taken.
    #[error("the object exists")]
    Exists,
    /// Update, delete: there is no such object.
    #[error("the object does not exist")]
    Missing,
    /// Update, delete: the stored version is another one.
    #[error("the object has changed")]
    Changed,
    /// Create: its namespace is not there.
    #[error("namespace {0} does not exist")]
    NamespaceMissing(String),
    /// Create: its namespace is going away.
    #[error("namespace {0} is being terminated")]
    NamespaceTerminating(String),
    /// Delete of a namespace: something is still in it.
    #[error("the namespace is not empty")]
    NamespaceNotEmpty,
    #[error(transparent)]
    Store(#[from] StoreError),
}

//! The embedded store: objects and the watch log in one SQLite file.
//!
//! One thread writes, and commits what has queued up in one transaction (one fsync); readers have their own
//! connections and see a snapshot (WAL). Every change takes the next version of one global counter; the log keeps the
//! newest changes, so that a list followed by a watch misses nothing and repeats nothing.
//!
//! The store knows keys, versions, owners and JSON text. What is in the JSON is decided before it comes here.

mod error;
mod log;
mod mutation;
mod notify;
mod read;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

pub(crate) use error::{StoreError, WriteError};
pub(crate) use log::{LogEntry, LogKind, LogPage};
pub(crate) use mutation::{Change, ChangeKind, Committed, Mutation};

use notify::Notifier;
use writer::Job;

/// Idle read connections that are kept; more are opened while more reads run at once.
const KEPT_READERS: usize = 4;

/// Which object: resource (`plural.group`, or `plural` for the core group), namespace (empty: cluster-scoped) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) resource: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A stored object: its version, and its JSON with that version in it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) json: Bytes,
}

/// An open store.
pub(crate) struct Store {
    path: PathBuf,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    notifier: Arc<Notifier>,
}

impl Store {
    /// Opens the file, making or upgrading its tables, and starts the writer. `changes` hears of every committed change.
    pub(crate) fn open(path: &Path, changes: tokio::sync::mpsc::UnboundedSender<Change>) -> Result<Self, StoreError> {
        let mut connection = schema::open_writer(path)?;
        let version = schema::migrate(&mut connection, path)?;
        let notifier = Arc::new(Notifier::new(version));
        let (jobs, queue) = mpsc::channel();
        let writer = writer::Writer::new(connection, path, Arc::clone(&notifier), changes);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self {
            path: path.to_owned(),
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(thread)),
            readers: Arc::default(),
            notifier,
        })
    }

    /// Applies all mutations or none, and returns once they are on disk.
    pub(crate) async fn write(&self, mutations: Vec<Mutation>) -> Result<Vec<Committed>, WriteError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.lock().expect("no holder panics").clone().ok_or(StoreError::Closed)?;
        jobs.send(Job { mutations, reply }).map_err(|_| StoreError::Closed)?;
        drop(jobs);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// [`write`](Self::write) of a single mutation.
    pub(crate) async fn write_one(&self, mutation: Mutation) -> Result<Committed, WriteError> {
        let mut committed = self.write(vec![mutation]).await?;
        committed.pop().ok_or(WriteError::Store(StoreError::Closed))
    }

    /// Runs `read` on a connection of its own, off the async threads.
    async fn read<R: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&mut Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        let readers = Arc::clone(&self.readers);
        let path = self.path.clone();
        let task = tokio::task::spawn_blocking(move || {
            let pooled = readers.lock().expect("no holder panics").pop();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => schema::open_reader(&path)?,
            };
            let result = read(&mut connection).map_err(|source| StoreError::sqlite(operation, &path, source));
            let mut readers = readers.lock().expect("no holder panics");
            if readers.len() < KEPT_READERS {
                readers.push(connection);
            }
            result
        });
        task.await.map_err(|_| StoreError::Closed)?
    }

    /// The version of the newest change.
    pub(crate) fn version(&self) -> u64 {
        self.notifier.version()
    }

    /// Wakes whenever an object of the resource changes.
    pub(crate) fn subscribe(&self, resource: &str) -> watch::Receiver<u64> {
        self.notifier.subscribe(resource)
    }

    /// Finishes queued writes and closes the file; later writes fail with [`StoreError::Closed`].
    pub(crate) async fn close(&self) {
        self.jobs.lock().expect("no holder panics").take();
        let thread = self.writer.lock().expect("no holder panics").take();
        if let Some(thread) = thread {
            // Join off the async threads: the last commit may take a while on a slow disk.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.readers.lock().expect("no holder panics").clear();
    }
}

#[cfg(test)]
mod tests;

//! The one thread that writes.
//!
//! It takes what has queued up, applies each job within one transaction, and commits once: many callers share one
//! fsync. A job is applied as a whole or not at all; a job that is refused does not disturb the others. If the commit
//! fails, nobody is told that anything was written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::log::{LOG_WINDOW, LogKind};
use super::notify::Notifier;
use super::{Change, ChangeKind, Committed, Key, Mutation, StoreError, Stored, WriteError, schema};
use crate::object::Object;

/// Jobs that share one commit at most.
const MAX_BATCH: usize = 128;

/// How often a commit also sweeps out expired objects. No write, no sweep: an idle server does nothing.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// Expired objects that one sweep removes at most, so that no caller waits long for it.
const SWEEP_LIMIT: i64 = 512;

/// The answer to a job.
type JobResult = Result<Vec<Committed>, WriteError>;

/// Mutations that are applied together.
pub(super) struct Job {
    pub(super) mutations: Vec<Mutation>,
    pub(super) reply: oneshot::Sender<JobResult>,
}

pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
    notifier: Arc<Notifier>,
    changes: UnboundedSender<Change>,
    last_sweep: Option<Instant>,
}

/// What a transaction did so far.
struct Progress {
    version: u64,
    changes: Vec<Change>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        path: &Path,
        notifier: Arc<Notifier>,
        changes: UnboundedSender<Change>,
    ) -> Self {
        Self { connection, path: path.to_owned(), notifier, changes, last_sweep: None }
    }

    /// Works until all senders are gone.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(MAX_BATCH - 1));
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Job>) {
        let (mutations, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.mutations, job.reply)).unzip();
        match self.apply(mutations) {
            Ok((results, progress)) => {
                let resources: BTreeSet<&str> = progress.changes.iter().map(|change| &*change.key.resource).collect();
                self.notifier.announce(progress.version, resources.into_iter());
                for change in progress.changes {
                    // Nobody listens during shutdown; the next start looks at everything anyway.
                    let _ = self.changes.send(change);
                }
                for (reply, result) in replies.into_iter().zip(results) {
                    // A caller that went away does not want to know.
                    let _ = reply.send(result);
                }
            }
            Err(source) => {
                for reply in replies {
                    let error = StoreError::sqlite("write", &self.path, clone_sqlite_error(&source));
                    let _ = reply.send(Err(error.into()));
                }
            }
        }
    }

    /// Applies all jobs in one transaction. An error of SQLite undoes all of it.
    fn apply(&mut self, jobs: Vec<Vec<Mutation>>) -> rusqlite::Result<(Vec<JobResult>, Progress)> {
        let sweep = self.last_sweep.is_none_or(|last| last.elapsed() >= SWEEP_INTERVAL);
        let mut transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let start = schema::meta(&transaction, "version")?;
        let mut progress = Progress { version: start, changes: Vec::new() };
        let mut results = Vec::with_capacity(jobs.len());
        for mutations in jobs {
            results.push(apply_job(&mut transaction, mutations, &mut progress)?);
        }
        if sweep {
            sweep_expired(&transaction, &mut progress)?;
        }
        if progress.version > start {
            set_meta(&transaction, "version", progress.version)?;
            trim_log(&transaction, progress.version)?;
            transaction.commit()?;
        }
        if sweep {
            self.last_sweep = Some(Instant::now());
        }
        Ok((results, progress))
    }
}

/// An answer for each waiting caller needs an error of its own.
fn clone_sqlite_error(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => rusqlite::Error::SqliteFailure(*code, message.clone()),
        other => rusqlite::Error::ToSqlConversionFailure(other.to_string().into()),
    }
}

fn apply_job(
    transaction: &mut Transaction<'_>,
    mutations: Vec<Mutation>,
    progress: &mut Progress,
) -> rusqlite::Result<JobResult> {
    let (version, change_count) = (progress.version, progress.changes.len());
    let savepoint = transaction.savepoint()?;
    let mut committed = Vec::with_capacity(mutations.len());
    for mutation in mutations {
        match apply_mutation(&savepoint, mutation, progress) {
            Ok(stored) => committed.push(stored),
            Err(Refusal::Sqlite(error)) => return Err(error),
            Err(Refusal::Write(error)) => {
                // Dropping the savepoint rolls it back.
                progress.version = version;
                progress.changes.truncate(change_count);
                return Ok(Err(error));
            }
        }
    }
    savepoint.commit()?;
    Ok(Ok(committed))
}

enum Refusal {
    Write(WriteError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

fn apply_mutation(connection: &Connection, mutation: Mutation, progress: &mut Progress) -> Result<Stored, Refusal> {
    match mutation {
        Mutation::Create { key, object, expires } => {
            check_namespace(connection, &key)?;
            if find_version(connection, &key)?.is_some() {
                return Err(WriteError::Exists.into());
            }
            put(connection, key, object, LogKind::Added, None, expires, progress)
        }
        Mutation::Update { key, version, object, before, expires } => {
            check_version(connection, &key, version)?;
            put(connection, key, object, LogKind::Modified, before.as_ref(), expires, progress)
        }
        Mutation::Delete { key, version, object, before } => {
            check_version(connection, &key, version)?;
            remove(connection, key, object, before.as_ref(), progress)
        }
        Mutation::DeleteNamespace { key, version, object } => {
            check_version(connection, &key, version)?;
            let occupied: Option<i64> = connection
                .prepare_cached("SELECT 1 FROM objects WHERE namespace = ?1 AND namespace <> '' LIMIT 1")?
                .query_row([&key.name], |row| row.get(0))
                .optional()?;
            if occupied.is_some() {
                return Err(WriteError::NamespaceNotEmpty.into());
            }
            remove(connection, key, object, None, progress)
        }
    }
}

fn find_version(connection: &Connection, key: &Key) -> rusqlite::Result<Option<u64>> {
    let version: Option<i64> = connection
        .prepare_cached("SELECT version FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")?
        .query_row(params![&*key.resource, key.namespace, key.name], |row| row.get(0))
        .optional()?;
    Ok(version.map(i64::unsigned_abs))
}

fn check_version(connection: &Connection, key: &Key, expected: u64) -> Result<(), Refusal> {
    match find_version(connection, key)? {
        None => Err(WriteError::Missing.into()),
        Some(found) if found != expected => Err(WriteError::Changed.into()),
        Some(_) => Ok(()),
    }
}

/// Nothing new in a namespace that is missing or going away; checked here, so that no create slips past its deletion.
fn check_namespace(connection: &Connection, key: &Key) -> Result<(), Refusal> {
    if key.namespace.is_empty() {
        return Ok(());
    }
    let terminating: Option<bool> = connection
        .prepare_cached(
            "SELECT json_extract(json, '$.metadata.deletionTimestamp') IS NOT NULL FROM objects
             WHERE resource = 'namespaces' AND namespace = '' AND name = ?1",
        )?
        .query_row([&key.namespace], |row| row.get(0))
        .optional()?;
    match terminating {
        None => Err(WriteError::NamespaceMissing(key.namespace.clone()).into()),
        Some(true) => Err(WriteError::NamespaceTerminating(key.namespace.clone()).into()),
        Some(false) => Ok(()),
    }
}

/// Gives the object the next version and writes its text.
fn stamp(object: &mut Object, progress: &mut Progress) -> (i64, String) {
    progress.version += 1;
    object.metadata_mut().insert("resourceVersion".to_owned(), progress.version.to_string().into());
    (i64::try_from(progress.version).unwrap_or(i64::MAX), object.value().to_string())
}

fn put(
    connection: &Connection,
    key: Key,
    mut object: Object,
    kind: LogKind,
    before: Option<&Bytes>,
    expires: Option<i64>,
    progress: &mut Progress,
) -> Result<Stored, Refusal> {
    let (version, json) = stamp(&mut object, progress);
    connection
        .prepare_cached(
            "INSERT INTO objects (resource, namespace, name, uid, version, expires, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (resource, namespace, name)
             DO UPDATE SET uid = ?4, version = ?5, expires = COALESCE(?6, expires), json = ?7",
        )?
        .execute(params![&*key.resource, key.namespace, key.name, object.uid(), version, expires, json])?;
    let (former_owners, owners_changed) = replace_owners(connection, &object)?;
    append_log(connection, &key, version, kind, &json, before)?;
    let what = ChangeKind::Written { owners_changed, deleting: object.is_deleting() };
    progress.changes.push(Change { key, uid: object.uid().to_owned(), what, former_owners });
    Ok(Stored { version: progress.version, json: Bytes::from(json) })
}

fn remove(
    connection: &Connection,
    key: Key,
    mut object: Object,
    before: Option<&Bytes>,
    progress: &mut Progress,
) -> Result<Stored, Refusal> {
    let (version, json) = stamp(&mut object, progress);
    connection
        .prepare_cached("DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")?
        .execute(params![&*key.resource, key.namespace, key.name])?;
    let former_owners = owners_of(connection, object.uid())?;
    connection.prepare_cached("DELETE FROM owners WHERE uid = ?1")?.execute([object.uid()])?;
    append_log(connection, &key, version, LogKind::Deleted, &json, before)?;
    progress.changes.push(Change { key, uid: object.uid().to_owned(), what: ChangeKind::Gone, former_owners });
    Ok(Stored { version: progress.version, json: Bytes::from(json) })
}

fn owners_of(connection: &Connection, uid: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT owner FROM owners WHERE uid = ?1 ORDER BY owner")?;
    statement.query_map([uid], |row| row.get(0))?.collect()
}

/// Files the object under its owners. Returns the former owners, and whether the new ones are others.
fn replace_owners(connection: &Connection, object: &Object) -> rusqlite::Result<(Vec<String>, bool)> {
    let former = owners_of(connection, object.uid())?;
    let owners: BTreeSet<String> = object.owner_references().into_iter().map(|owner| owner.uid).collect();
    if owners.iter().eq(former.iter()) {
        return Ok((Vec::new(), false));
    }
    connection.prepare_cached("DELETE FROM owners WHERE uid = ?1")?.execute([object.uid()])?;
    for owner in &owners {
        connection
            .prepare_cached("INSERT INTO owners (owner, uid) VALUES (?1, ?2)")?
            .execute([owner.as_str(), object.uid()])?;
    }
    Ok((former, true))
}

fn append_log(
    connection: &Connection,
    key: &Key,
    version: i64,
    kind: LogKind,
    json: &str,
    before: Option<&Bytes>,
) -> rusqlite::Result<()> {
    let before = before.and_then(|json| std::str::from_utf8(json).ok());
    connection
        .prepare_cached(
            "INSERT INTO log (version, resource, namespace, name, kind, json, before)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![version, &*key.resource, key.namespace, key.name, kind as i64, json, before])?;
    Ok(())
}

fn set_meta(connection: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    connection.prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")?.execute(params![key, value])?;
    Ok(())
}

/// Removes objects whose time is over (events), as watchers see it: deleted.
fn sweep_expired(connection: &Connection, progress: &mut Progress) -> rusqlite::Result<()> {
    let now = jiff::Timestamp::now().as_second();
    let expired: Vec<(Key, String)> = connection
        .prepare_cached(
            "SELECT resource, namespace, name, json FROM objects WHERE expires IS NOT NULL AND expires < ?1
             ORDER BY expires LIMIT ?2",
        )?
        .query_map(params![now, SWEEP_LIMIT], |row| {
            let resource: String = row.get(0)?;
            let key = Key { resource: Arc::from(resource), namespace: row.get(1)?, name: row.get(2)? };
            Ok((key, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (key, json) in expired {
        let Ok(object) = Object::parse(json.as_bytes()) else { continue };
        match remove(connection, key, object, None, progress) {
            Err(Refusal::Sqlite(error)) => return Err(error),
            Err(Refusal::Write(_)) | Ok(_) => {}
        }
    }
    Ok(())
}

/// Forgets changes beyond the window; in steps, because each commit would otherwise delete one row.
fn trim_log(connection: &Connection, version: u64) -> rusqlite::Result<()> {
    let trimmed = schema::meta(connection, "trimmed")?;
    if version < trimmed + LOG_WINDOW + LOG_WINDOW / 8 {
        return Ok(());
    }
    let trimmed = version - LOG_WINDOW;
    let column = i64::try_from(trimmed).unwrap_or(i64::MAX);
    connection.prepare_cached("DELETE FROM log WHERE version <= ?1")?.execute([column])?;
    set_meta(connection, "trimmed", trimmed)
}

//! The watch log: the newest changes, in order.

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::{Store, StoreError, schema};

/// Changes that are kept. At a change a second this is more than two hours; a client that was away for longer lists anew.
pub(super) const LOG_WINDOW: u64 = 8192;

/// Entries of one page.
const PAGE: i64 = 256;

/// How an object changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    Added = 1,
    Modified = 2,
    Deleted = 3,
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct LogEntry {
    pub(crate) kind: LogKind,
    /// The object after the change; for a deletion its last state.
    pub(crate) json: Bytes,
    /// The object before the change; `None`: no selector can tell it from `json`.
    pub(crate) before: Option<Bytes>,
}

/// A part of the log.
#[derive(Clone, Debug)]
pub(crate) enum LogPage {
    /// The log no longer reaches back that far, or not yet on: the version is of a time before the store was put back from a copy. `oldest` is what it has.
    Expired { oldest: u64 },
    /// Everything of the resource that happened after the asked version, up to and including `up_to`.
    Entries { entries: Vec<LogEntry>, up_to: u64 },
}

impl Store {
    /// What happened to objects of a resource (in a namespace, or in all) after version `after`.
    pub(crate) async fn log_after(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: u64,
    ) -> Result<LogPage, StoreError> {
        let resource = resource.to_owned();
        let namespace = namespace.map(str::to_owned);
        self.read("read the watch log", move |connection| {
            let snapshot = connection.transaction()?;
            page(&snapshot, &resource, namespace.as_deref(), after)
        })
        .await
    }
}

fn page(connection: &Connection, resource: &str, namespace: Option<&str>, after: u64) -> rusqlite::Result<LogPage> {
    let trimmed = schema::meta(connection, "trimmed")?;
    if after < trimmed {
        return Ok(LogPage::Expired { oldest: trimmed });
    }
    let newest = schema::meta(connection, "version")?;
    if after > newest {
        return Ok(LogPage::Expired { oldest: newest });
    }
    let mut statement = connection.prepare_cached(
        "SELECT version, kind, json, before FROM log
         WHERE resource = ?1 AND version > ?2 AND (?3 IS NULL OR namespace = ?3) ORDER BY version LIMIT ?4",
    )?;
    let after_column = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![resource, after_column, namespace, PAGE], |row| {
        let version: i64 = row.get(0)?;
        let kind = match row.get(1)? {
            1 => LogKind::Added,
            3 => LogKind::Deleted,
            _ => LogKind::Modified,
        };
        let json: String = row.get(2)?;
        let before: Option<String> = row.get(3)?;
        Ok((version.unsigned_abs(), LogEntry { kind, json: Bytes::from(json), before: before.map(Bytes::from) }))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|count| count == PAGE);
    let up_to = match rows.last() {
        Some((version, _)) if is_full => *version,
        _ => newest,
    };
    Ok(LogPage::Entries { entries: rows.into_iter().map(|(_, entry)| entry).collect(), up_to })
}

//! Tables of the store, and how a file gets them.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// One entry per schema version, applied in order; `PRAGMA user_version` counts those applied. Entries never change.
const MIGRATIONS: &[&str] = &["
    -- What is. `expires` (seconds since 1970) is set on events only.
    CREATE TABLE objects (
        resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        uid TEXT NOT NULL, version INTEGER NOT NULL, expires INTEGER, json TEXT NOT NULL,
        UNIQUE (resource, namespace, name)
    );
    CREATE UNIQUE INDEX objects_uid ON objects (uid);
    CREATE INDEX objects_namespace ON objects (namespace) WHERE namespace <> '';
    CREATE INDEX objects_expires ON objects (expires) WHERE expires IS NOT NULL;
    -- Who is owned by whom: one row per owner reference.
    CREATE TABLE owners (owner TEXT NOT NULL, uid TEXT NOT NULL, PRIMARY KEY (owner, uid)) WITHOUT ROWID;
    CREATE INDEX owners_uid ON owners (uid);
    -- What happened: kind 1 added, 2 modified, 3 deleted. `before` is the object before the change, where labels or
    -- selectable fields differ.
    CREATE TABLE log (
        version INTEGER PRIMARY KEY, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        kind INTEGER NOT NULL, json TEXT NOT NULL, before TEXT
    );
    CREATE INDEX log_resource ON log (resource, version);
    -- version: of the newest change. trimmed: of the newest change that the log has forgotten.
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('version', 0), ('trimmed', 0);
"];

/// Opens the file for the writer, making it where it is missing.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    // Made here, for it holds secrets, and SQLite gives the files beside it the same mode. Where this fails SQLite fails too, and says why.
    let _made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let open = || {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Pages are small objects here: half a MiB of cache holds what is hot (negative: KiB).
        connection.pragma_update(None, "cache_size", -512)?;
        connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    };
    open().map_err(|source| StoreError::sqlite("open", path, source))
}

/// Opens the file for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.pragma_update(None, "cache_size", -256)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(connection)
    };
    open().map_err(|source| StoreError::sqlite("open for reading", path, source))
}

/// Brings the tables up to date and returns the version of the newest change.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<u64, StoreError> {
    let wrap = |source| StoreError::sqlite("migrate", path, source);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(wrap)?;
    if found > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known });
    }
    let applied = usize::try_from(found).unwrap_or_default();
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(applied) {
        let transaction = connection.transaction().map_err(wrap)?;
        transaction.execute_batch(migration).map_err(wrap)?;
        transaction.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX)).map_err(wrap)?;
        transaction.commit().map_err(wrap)?;
    }
    meta(connection, "version").map_err(wrap)
}

/// A counter of table `meta`.
pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<u64> {
    let value: i64 =
        connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0))?;
    Ok(value.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_store_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let connection = open_writer(&path).unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
        }
    }
}

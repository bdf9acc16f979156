//! Reads, each of one snapshot.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};

use super::{Key, Store, StoreError, Stored, schema};

/// All objects of a resource, and the version at which that was so.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) version: u64,
    /// In order of namespace and name.
    pub(crate) items: Vec<Bytes>,
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let version: i64 = row.get("version")?;
    let json: String = row.get("json")?;
    Ok(Stored { version: version.unsigned_abs(), json: Bytes::from(json) })
}

fn keyed(row: &Row<'_>) -> rusqlite::Result<(Key, Stored)> {
    let resource: String = row.get("resource")?;
    let key = Key { resource: Arc::from(resource), namespace: row.get("namespace")?, name: row.get("name")? };
    Ok((key, stored(row)?))
}

impl Store {
    /// One object.
    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        let key = key.clone();
        self.read("read an object", move |connection| {
            connection
                .prepare_cached(
                    "SELECT version, json FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3",
                )?
                .query_row(params![&*key.resource, key.namespace, key.name], stored)
                .optional()
        })
        .await
    }

    /// All objects of a resource, in a namespace or in all.
    pub(crate) async fn list(&self, resource: &str, namespace: Option<&str>) -> Result<Listing, StoreError> {
        let resource = resource.to_owned();
        let namespace = namespace.map(str::to_owned);
        self.read("list objects", move |connection| {
            let snapshot = connection.transaction()?;
            let version = schema::meta(&snapshot, "version")?;
            let mut statement = snapshot.prepare_cached(
                "SELECT json FROM objects WHERE resource = ?1 AND (?2 IS NULL OR namespace = ?2)
                 ORDER BY namespace, name",
            )?;
            let rows = statement.query_map(params![resource, namespace], |row| row.get(0).map(|json: String| json))?;
            let items = rows.map(|row| row.map(Bytes::from)).collect::<rusqlite::Result<_>>()?;
            Ok(Listing { version, items })
        })
        .await
    }

    /// Everything in a namespace, of all resources.
    pub(crate) async fn in_namespace(&self, namespace: &str) -> Result<Vec<(Key, Stored)>, StoreError> {
        let namespace = namespace.to_owned();
        self.read("list a namespace", move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT resource, namespace, name, version, json FROM objects WHERE namespace = ?1 AND namespace <> ''",
            )?;
            statement.query_map([namespace], keyed)?.collect()
        })
        .await
    }

    /// The object with a UID.
    pub(crate) async fn by_uid(&self, uid: &str) -> Result<Option<(Key, Stored)>, StoreError> {
        let uid = uid.to_owned();
        self.read("find an object by its UID", move |connection| {
            connection
                .prepare_cached("SELECT resource, namespace, name, version, json FROM objects WHERE uid = ?1")?
                .query_row([uid], keyed)
                .optional()
        })
        .await
    }

    /// The objects that name `owner` in their owner references.
    pub(crate) async fn dependents(&self, owner: &str) -> Result<Vec<(Key, Stored)>, StoreError> {
        let owner = owner.to_owned();
        self.read("list dependents", move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT resource, namespace, name, version, json FROM owners JOIN objects USING (uid)
                 WHERE owner = ?1 ORDER BY resource, namespace, name",
            )?;
            statement.query_map([owner], keyed)?.collect()
        })
        .await
    }

    /// UIDs of all objects that garbage collection may owe something: owned ones, and those that wait for finalizers.
    pub(crate) async fn collectable(&self) -> Result<Vec<String>, StoreError> {
        self.read("list objects with owners", move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT DISTINCT uid FROM owners
                 UNION SELECT uid FROM objects WHERE json_extract(json, '$.metadata.deletionTimestamp') IS NOT NULL",
            )?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
        .await
    }
}

//! The newest version that was seen of each object of a kind, by watch, GET or the answer to a write.
//!
//! Between lists a version never goes back: what a write answered is newer than the watch events that were on their way meanwhile. A list is taken
//! as it is: after a restore of the API server's store, versions are lower than what was known, and where a list is older than an answer, the
//! watch that follows it says so.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plan::cluster::ObjectKey;

/// Objects of one kind, reduced to a value.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    entries: BTreeMap<ObjectKey, Entry<V>>,
    /// Keys seen in the list that is being read; none outside of a list.
    listed: Option<BTreeSet<ObjectKey>>,
    /// Version of the newest deletion that the watch told of.
    deleted: Option<u64>,
}

#[derive(Debug)]
struct Entry<V> {
    uid: Option<Box<str>>,
    /// resourceVersion as the number that it has been in all of Kubernetes' history; none where it is not.
    version: Option<u64>,
    value: V,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), listed: None, deleted: None }
    }
}

/// Namespace and name from metadata.
pub(crate) fn key_of(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

impl<V> Cache<V> {
    /// Notes an object, unless a newer version of it is known. Gives whether it was noted, and what was there before.
    pub(crate) fn put(&mut self, meta: &ObjectMeta, value: V) -> Put<V> {
        if self.knows(meta) {
            return Put::Known;
        }
        let entry = Entry { uid: meta.uid.as_deref().map(Box::from), version: version_of(meta), value };
        Put::Noted(self.entries.insert(key_of(meta), entry).map(|entry| entry.value))
    }

    /// Whether this version of an object is known, or a newer one. In a list, notes that the object is there.
    pub(crate) fn knows(&mut self, meta: &ObjectMeta) -> bool {
        let key = key_of(meta);
        let (version, known) = (version_of(meta), self.entries.get(&key));
        // An answer that a deletion has overtaken: no event would ever take the object out again.
        let is_gone = self.listed.is_none() && known.is_none() && version.is_some() && version <= self.deleted;
        let is_old = match (known.and_then(|entry| entry.version), version) {
            (Some(known), Some(new)) => known == new || known > new && self.listed.is_none(),
            _ => false,
        };
        if let Some(listed) = self.listed.as_mut() {
            listed.insert(key);
        }
        is_gone || is_old
    }

    /// Forgets an object, unless another one has its name by now.
    pub(crate) fn remove(&mut self, meta: &ObjectMeta) -> Option<V> {
        let key = key_of(meta);
        self.deleted = self.deleted.max(version_of(meta));
        if self.entries.get(&key)?.uid.as_deref() != meta.uid.as_deref() {
            return None;
        }
        self.entries.remove(&key).map(|entry| entry.value)
    }

    /// A list begins.
    pub(crate) fn begin_list(&mut self) {
        self.listed = Some(BTreeSet::new());
        self.deleted = None;
    }

    /// A list is over: forgets what was not in it.
    pub(crate) fn end_list(&mut self) -> Vec<(ObjectKey, V)> {
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let gone: Vec<_> = self.entries.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.into_iter()
            .filter_map(|key| self.entries.remove_entry(&key))
            .map(|(key, entry)| (key, entry.value))
            .collect()
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(crate) fn get_mut(&mut self, key: &ObjectKey) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }
}

fn version_of(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok())
}

/// What became of [`Cache::put`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put<V> {
    /// This version, or a newer one, was known.
    Known,
    /// It is noted, in place of that.
    Noted(Option<V>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some("vm".to_owned()),
            namespace: Some("ns".to_owned()),
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_version_never_goes_back() {
        let mut cache = Cache::default();
        assert_eq!(cache.put(&meta("u", "9"), "answer"), Put::Noted(None));
        assert_eq!(cache.put(&meta("u", "8"), "late event"), Put::Known);
        assert_eq!(cache.put(&meta("u", "10"), "next"), Put::Noted(Some("answer")));
    }

    #[test]
    fn the_delete_of_a_predecessor_leaves_the_successor() {
        let mut cache = Cache::default();
        cache.put(&meta("new", "9"), "new");
        assert_eq!(cache.remove(&meta("old", "8")), None);
        assert_eq!(cache.get(&key_of(&meta("new", "9"))), Some(&"new"));
    }

    #[test]
    fn an_answer_that_a_deletion_overtook_brings_nothing_back() {
        let mut cache = Cache::default();
        cache.put(&meta("u", "9"), "vm");
        assert_eq!(cache.remove(&meta("u", "10")), Some("vm"));
        assert_eq!(cache.put(&meta("u", "9"), "late answer"), Put::Known);
        assert_eq!(cache.get(&key_of(&meta("u", "9"))), None);
        assert_eq!(cache.put(&meta("next", "11"), "successor"), Put::Noted(None));
    }

    #[test]
    fn a_list_is_taken_as_it_is() {
        let mut cache = Cache::default();
        cache.put(&meta("u", "900"), "before the restore");
        cache.begin_list();
        assert_eq!(cache.put(&meta("u", "5"), "restored"), Put::Noted(Some("before the restore")));
        cache.end_list();
        assert_eq!(cache.put(&meta("u", "6"), "and changed"), Put::Noted(Some("restored")));
    }

    #[test]
    fn a_list_forgets_what_is_not_in_it() {
        let mut cache = Cache::default();
        cache.put(&meta("u", "9"), "vm");
        cache.begin_list();
        assert_eq!(cache.end_list(), [(key_of(&meta("u", "9")), "vm")]);
        cache.put(&meta("u", "9"), "vm");
        cache.begin_list();
        cache.put(&meta("u", "9"), "vm");
        assert!(cache.end_list().is_empty());
    }
}

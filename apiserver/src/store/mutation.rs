//! What the writer is asked to do, and what it reports.

use bytes::Bytes;

use super::{Key, Stored};
use crate::object::Object;

/// One change of one object. Versions are preconditions: whoever asks has read the object and decided by what it read.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    /// Adds an object.
    Create {
        key: Key,
        object: Object,
        /// When the object goes by itself, in seconds since 1970.
        expires: Option<i64>,
    },
    /// Replaces an object.
    Update {
        key: Key,
        /// The version that `object` was made from.
        version: u64,
        object: Object,
        /// The replaced object, where a selector could tell the two apart.
        before: Option<Bytes>,
        /// When the object goes by itself; `None`: as it was.
        expires: Option<i64>,
    },
    /// Removes an object.
    Delete {
        key: Key,
        /// The version that the decision was made on.
        version: u64,
        /// The last state, as watchers are told.
        object: Object,
        /// The stored object, where a selector could tell it from the last state.
        before: Option<Bytes>,
    },
    /// Removes a namespace, if nothing is in it.
    DeleteNamespace { key: Key, version: u64, object: Object },
}

/// A mutation that is on disk; for deletions the last state.
pub(crate) type Committed = Stored;

/// A committed change, as garbage collection hears of it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) what: ChangeKind,
    /// UIDs of the owners that the object had, if they are others now, or if the object is gone.
    pub(crate) former_owners: Vec<String>,
}

/// What garbage collection may have to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// The object is there.
    Written {
        /// It has other owner references than before.
        owners_changed: bool,
        /// It is being deleted.
        deleting: bool,
    },
    /// The object is gone.
    Gone,
}

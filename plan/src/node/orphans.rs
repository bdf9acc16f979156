//! E6: which of the guests without an object may go, judged together.
//!
//! One orphan is a leftover. Most of a node's guests at once is a mistake somewhere else (a restored backup, a deleted CRD, the wrong
//! API server), and ending them could not be undone.

use super::GuestKey;

/// As many may go in one pass, whatever share of the node's guests they are.
const ALWAYS_ALLOWED: usize = 3;

/// A domain of ours whose VM is gone: an uncached GET answered 404, or another UID, while the kind is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanFacts {
    /// The guest.
    pub key: GuestKey,
    /// The VM UID that the domain was defined for.
    pub vm_uid: String,
    /// QEMU lives.
    pub active: bool,
    /// A VM of that name with another UID exists.
    pub has_successor: bool,
}

/// What may go, and what may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrphanVerdict {
    /// Orphans that may go.
    pub clear: Vec<OrphanFacts>,
    /// Orphans that stay until an administrator has looked.
    pub held: Vec<OrphanFacts>,
    /// For the administrator, if some are held.
    pub message: Option<String>,
}

/// Judges all orphans of a node; `running` is the number of all running domains of ours on it, orphans included.
pub fn plan_orphans(orphans: &[OrphanFacts], running: usize) -> OrphanVerdict {
    let (guarded, free): (Vec<_>, Vec<_>) =
        orphans.iter().cloned().partition(|orphan| orphan.active && !orphan.has_successor);
    if guarded.len() <= ALWAYS_ALLOWED || guarded.len() * 2 <= running {
        return OrphanVerdict { clear: orphans.to_vec(), ..OrphanVerdict::default() };
    }
    let message = format!(
        "{} of {running} running guests have no VirtualMachine object; none of them is stopped. If their objects are gone for good, end the guests \
         with `virsh destroy` and `virsh undefine`; if not, restore the objects",
        guarded.len()
    );
    OrphanVerdict { clear: free, held: guarded, message: Some(message) }
}

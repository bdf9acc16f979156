//! What the last pass over all orphans decided, for their workers to read (E6).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use plan::node::{GuestKey, OrphanGuard, OrphanVerdict};

/// The verdicts of the last pass, by guest and VM UID.
#[derive(Debug, Default)]
pub(crate) struct GuardBoard {
    verdicts: Mutex<BTreeMap<(GuestKey, String), OrphanGuard>>,
}

impl GuardBoard {
    /// The verdict over one domain.
    pub(crate) fn verdict(&self, key: &GuestKey, vm_uid: &str) -> OrphanGuard {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(&(key.clone(), vm_uid.to_owned())).cloned().unwrap_or_default()
    }

    /// Replaces all verdicts.
    pub(crate) fn post(&self, verdict: &OrphanVerdict) {
        let held = OrphanGuard::Held(verdict.message.clone().unwrap_or_default());
        let clear = verdict.clear.iter().map(|orphan| (orphan, OrphanGuard::Clear));
        let all = clear.chain(verdict.held.iter().map(|orphan| (orphan, held.clone())));
        let new = all.map(|(orphan, guard)| ((orphan.key.clone(), orphan.vm_uid.clone()), guard)).collect();
        *self.verdicts.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

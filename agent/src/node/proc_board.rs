//! What the last passes found of /proc itself, for every look of the workers to heed (S5, E1).

use std::sync::{Mutex, PoisonError};

/// Whether /proc may be believed.
#[derive(Debug, Default)]
pub(crate) struct ProcBoard {
    doubt: Mutex<Option<String>>,
}

impl ProcBoard {
    /// Why no look may be believed, if it may not.
    pub(crate) fn doubt(&self) -> Option<String> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up a verdict; says whether it is news.
    pub(crate) fn post(&self, believed: Result<(), String>) -> bool {
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        let new = believed.err();
        let is_news = *doubt != new;
        *doubt = new;
        is_news
    }
}

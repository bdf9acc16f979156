//! Words that many objects have in common, such as names of nodes: each is kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The words.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeSet<Arc<str>>);

impl Names {
    /// The one copy of a word.
    pub(crate) fn get(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.0.get(word) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(word);
        self.0.insert(Arc::clone(&new));
        new
    }

    /// Forgets what nobody else holds.
    pub(crate) fn forget_unused(&mut self) {
        self.0.retain(|word| Arc::strong_count(word) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_once_and_for_as_long_as_it_is_held() {
        let mut names = Names::default();
        let (first, again) = (names.get("node-1"), names.get("node-1"));
        assert!(Arc::ptr_eq(&first, &again));
        names.forget_unused();
        assert_eq!(names.0.len(), 1);
        drop((first, again));
        names.forget_unused();
        assert!(names.0.is_empty());
    }
}

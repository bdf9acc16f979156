//! What is taken from each node, kept up to date: adding it up anew for each decision would take as long as there are guests.

use std::collections::BTreeMap;
use std::sync::Arc;

use plan::cluster::Requests;

/// Sums by node.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<Arc<str>, Sum>);

#[derive(Debug, Default)]
struct Sum {
    /// How many entries there are. Without any the sum is zero and forgotten.
    entries: usize,
    requests: Requests,
}

/// One entry: what is taken, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The node; none while it is taken from nowhere.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) requests: Requests,
}

impl Ledger {
    /// Puts an entry in place of another.
    pub(crate) fn replace(&mut self, old: &Entry, new: &Entry) {
        if old != new {
            self.remove(old);
            self.add(new);
        }
    }

    pub(crate) fn add(&mut self, entry: &Entry) {
        let Some(node) = &entry.node else { return };
        let sum = self.0.entry(Arc::clone(node)).or_default();
        sum.entries += 1;
        sum.requests = sum.requests + entry.requests;
    }

    pub(crate) fn remove(&mut self, entry: &Entry) {
        let Some(node) = &entry.node else { return };
        let Some(sum) = self.0.get_mut(node) else { return };
        sum.entries = sum.entries.saturating_sub(1);
        sum.requests.memory_kib = sum.requests.memory_kib.saturating_sub(entry.requests.memory_kib);
        sum.requests.cpu_millis = sum.requests.cpu_millis.saturating_sub(entry.requests.cpu_millis);
        if sum.entries == 0 {
            self.0.remove(node);
        }
    }

    /// What is taken from a node.
    pub(crate) fn taken_from(&self, node: &str) -> Requests {
        self.0.get(node).map(|sum| sum.requests).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: Option<&str>, memory_kib: u64) -> Entry {
        Entry { node: node.map(Arc::from), requests: Requests { memory_kib, cpu_millis: 100 } }
    }

    #[test]
    fn what_is_taken_follows_each_change() {
        let mut ledger = Ledger::default();
        let (nowhere, one, two) = (entry(None, 5), entry(Some("a"), 5), entry(Some("a"), 7));
        ledger.add(&nowhere);
        ledger.replace(&nowhere, &one);
        ledger.add(&two);
        assert_eq!(ledger.taken_from("a"), Requests { memory_kib: 12, cpu_millis: 200 });
        ledger.replace(&one, &entry(Some("b"), 5));
        assert_eq!(ledger.taken_from("a"), Requests { memory_kib: 7, cpu_millis: 100 });
        assert_eq!(ledger.taken_from("b"), Requests { memory_kib: 5, cpu_millis: 100 });
        ledger.remove(&two);
        assert_eq!(ledger.taken_from("a"), Requests::default());
        assert_eq!(ledger.0.len(), 1, "a node without entries is forgotten");
    }
}

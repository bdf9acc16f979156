//! What garbage collection still has to look at; each thing once.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    /// The object with this UID: its owners, or its finalizers.
    Object(String),
    /// The dependents of an object that is gone.
    Dependents(String),
    /// A namespace that is going away.
    Namespace(String),
}

/// First in, first out; work that is queued already is not queued again.
#[derive(Default)]
pub(super) struct Queue {
    order: VecDeque<Work>,
    queued: HashSet<Work>,
    delayed: Vec<(Instant, Work)>,
    terminating: HashSet<String>,
}

impl Queue {
    pub(super) fn push(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.order.push_back(work);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Work> {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.delayed.drain(..).partition(|(at, _)| *at <= now);
        self.delayed = later;
        for (_, work) in due {
            self.push(work);
        }
        let work = self.order.pop_front()?;
        self.queued.remove(&work);
        Some(work)
    }

    /// Queues work again after a while.
    pub(super) fn retry(&mut self, work: Work, delay: Duration) {
        self.delayed.push((Instant::now() + delay, work));
    }

    /// Returns when delayed work is due; never, if there is none.
    pub(super) async fn wait_for_retry(&self) {
        match self.delayed.iter().map(|(at, _)| *at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Notes that a namespace waits for its content to go.
    pub(super) fn set_terminating(&mut self, namespace: &str, is_terminating: bool) {
        if is_terminating {
            self.terminating.insert(namespace.to_owned());
        } else {
            self.terminating.remove(namespace);
        }
    }

    pub(super) fn is_terminating(&self, namespace: &str) -> bool {
        self.terminating.contains(namespace)
    }
}

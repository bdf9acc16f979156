//! Which namespaces and names to look at, and when. A key that is due while it is being worked on waits until that is over, so that one
//! task at a time owns a guest; a key that is told twice is looked at once. Nothing is delayed that is due now.
//!
//! Our own, because kube's `Controller` reconciles only keys whose object of one kind is in its store: a VirtualMachine without an
//! OfflineVirtualMachine, and one of two objects that is gone, would not be looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plan::cluster::ObjectKey;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Keys by when they are due.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    due: BTreeMap<ObjectKey, Instant>,
    busy: BTreeSet<ObjectKey>,
}

impl Queue {
    /// The key is due now.
    pub(crate) fn wake(&self, key: ObjectKey) {
        self.wake_in(key, Duration::ZERO);
    }

    /// The key is due after `delay`, or before that if it already is.
    pub(crate) fn wake_in(&self, key: ObjectKey, delay: Duration) {
        let at = Instant::now() + delay;
        self.lock().due.entry(key).and_modify(|due| *due = at.min(*due)).or_insert(at);
        self.changed.notify_one();
    }

    /// The next key that is due and not being worked on; it counts as being worked on until [`Queue::finish`].
    pub(crate) async fn next(&self) -> ObjectKey {
        loop {
            let changed = self.changed.notified();
            let wait = match self.take(Instant::now()) {
                Ok(key) => return key,
                Err(until) => until,
            };
            match wait {
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// The key is no longer being worked on, and due again after `again`.
    pub(crate) fn finish(&self, key: ObjectKey, again: Option<Duration>) {
        self.lock().busy.remove(&key);
        match again {
            Some(delay) => self.wake_in(key, delay),
            None => self.changed.notify_one(),
        }
    }

    /// A key that is due, or when the next will be.
    fn take(&self, now: Instant) -> Result<ObjectKey, Option<Instant>> {
        let mut state = self.lock();
        let free = state.due.iter().filter(|(key, _)| !state.busy.contains(key));
        let Some((key, at)) = free.min_by_key(|(_, at)| **at).map(|(key, at)| (key.clone(), *at)) else {
            return Err(None);
        };
        if at > now {
            return Err(Some(at));
        }
        state.due.remove(&key);
        state.busy.insert(key.clone());
        Ok(key)
    }

    /// A panic elsewhere leaves the state whole: it is used on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "ns".to_owned(), name: name.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_told_twice_comes_once() {
        let queue = Queue::default();
        queue.wake(key("a"));
        queue.wake(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.finish(key("a"), None);
        assert!(tokio::time::timeout(Duration::from_mins(1), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_key_waits_and_others_do_not() {
        let queue = Queue::default();
        queue.wake(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.wake(key("a"));
        queue.wake(key("b"));
        assert_eq!(queue.next().await, key("b"));
        assert!(tokio::time::timeout(Duration::from_mins(1), queue.next()).await.is_err());
        queue.finish(key("a"), None);
        assert_eq!(queue.next().await, key("a"), "what it was told meanwhile is not lost");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_time_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.wake_in(key("a"), Duration::from_secs(30));
        queue.wake_in(key("a"), Duration::from_secs(5));
        queue.wake_in(key("a"), Duration::from_mins(1));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn finish_asks_again_later() {
        let queue = Queue::default();
        queue.wake(key("a"));
        let start = Instant::now();
        let a = queue.next().await;
        queue.finish(a, Some(Duration::from_secs(3)));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }
}

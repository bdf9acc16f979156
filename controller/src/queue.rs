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

/// A key that is due later than this is looked at then, and waits on: no clock holds what users may write.
const LONGEST_DELAY: Duration = Duration::from_hours(24);

/// Keys by when they are due. Takes none while it is closed.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    due: BTreeMap<ObjectKey, Instant>,
    /// Those of `due` that nobody works on, the first one first: a burst of ten thousand keys is not searched for each.
    order: BTreeSet<(Instant, ObjectKey)>,
    busy: BTreeSet<ObjectKey>,
}

/// What waits in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Keys that are due and not being worked on.
    pub(crate) depth: usize,
    /// How long the oldest of them has been due.
    pub(crate) oldest: Duration,
}

impl Queue {
    /// Begins anew: nothing is due, nothing is being worked on, and keys are taken.
    pub(crate) fn open(&self) {
        *self.lock() = State { is_open: true, ..State::default() };
    }

    /// Forgets everything, and takes nothing: nobody works here.
    pub(crate) fn close(&self) {
        *self.lock() = State::default();
    }

    /// What waits now.
    pub(crate) fn backlog(&self) -> Backlog {
        let (now, state) = (Instant::now(), self.lock());
        let oldest = state.order.first().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at));
        Backlog { depth: state.order.iter().take_while(|(at, _)| *at <= now).count(), oldest }
    }

    /// The key is due now.
    pub(crate) fn wake(&self, key: ObjectKey) {
        self.wake_in(key, Duration::ZERO);
    }

    /// The key is due after `delay`, or before that if it already is.
    pub(crate) fn wake_in(&self, key: ObjectKey, delay: Duration) {
        let at = Instant::now() + delay.min(LONGEST_DELAY);
        let mut state = self.lock();
        if !state.is_open {
            return;
        }
        state.wake_at(key, at);
        drop(state);
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
        self.lock().free(&key);
        match again {
            Some(delay) => self.wake_in(key, delay),
            None => self.changed.notify_one(),
        }
    }

    /// A key that is due, or when the next will be.
    fn take(&self, now: Instant) -> Result<ObjectKey, Option<Instant>> {
        let mut state = self.lock();
        match state.order.first() {
            None => return Err(None),
            Some((at, _)) if *at > now => return Err(Some(*at)),
            Some(_) => {}
        }
        let Some((_, key)) = state.order.pop_first() else { return Err(None) };
        state.due.remove(&key);
        state.busy.insert(key.clone());
        Ok(key)
    }

    /// A panic elsewhere leaves the state whole: it is used on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The key is due at a time, or before that if it already is.
    fn wake_at(&mut self, key: ObjectKey, at: Instant) {
        if let Some(due) = self.due.get(&key).copied() {
            if due <= at {
                return;
            }
            self.order.remove(&(due, key.clone()));
        }
        self.due.insert(key.clone(), at);
        if !self.busy.contains(&key) {
            self.order.insert((at, key));
        }
    }

    /// Nobody works on the key any more.
    fn free(&mut self, key: &ObjectKey) {
        self.busy.remove(key);
        if let Some(at) = self.due.get(key) {
            self.order.insert((*at, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Queue {
        let queue = Queue::default();
        queue.open();
        queue
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "ns".to_owned(), name: name.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_told_twice_comes_once() {
        let queue = open();
        queue.wake(key("a"));
        queue.wake(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.finish(key("a"), None);
        assert!(tokio::time::timeout(Duration::from_mins(1), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_key_waits_and_others_do_not() {
        let queue = open();
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
        let queue = open();
        let start = Instant::now();
        queue.wake_in(key("a"), Duration::from_secs(30));
        queue.wake_in(key("a"), Duration::from_secs(5));
        queue.wake_in(key("a"), Duration::from_mins(1));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_beyond_all_clocks_is_looked_at_before_it_comes() {
        let queue = open();
        // A toleration says how many seconds, and may say 2^63-1.
        queue.wake_in(key("a"), Duration::from_secs(i64::MAX.unsigned_abs()));
        let begun = Instant::now();
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(begun.elapsed(), LONGEST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn finish_asks_again_later() {
        let queue = open();
        queue.wake(key("a"));
        let start = Instant::now();
        let a = queue.next().await;
        queue.finish(a, Some(Duration::from_secs(3)));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_is_what_is_due_now() {
        let queue = open();
        queue.wake(key("a"));
        queue.wake_in(key("later"), Duration::from_mins(1));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(queue.backlog(), Backlog { depth: 1, oldest: Duration::from_secs(7) });
        queue.next().await;
        assert_eq!(queue.backlog(), Backlog::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_queue_takes_nothing_and_opens_empty() {
        let queue = open();
        queue.wake(key("a"));
        let busy = queue.next().await;
        queue.wake(key("b"));
        queue.close();
        queue.wake(key("c"));
        queue.open();
        assert_eq!(queue.backlog().depth, 0);
        queue.wake(busy.clone());
        assert_eq!(queue.next().await, busy, "who worked on it before does not hold it any more");
    }
}

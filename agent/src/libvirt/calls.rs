//! Blocking calls with a deadline.
//!
//! A libvirt call cannot be cancelled: when libvirtd or one guest's QEMU hangs, the thread in the call hangs with it. So each call runs on its own thread, and
//! the caller stops waiting at the deadline while the thread stays parked until libvirt answers or the connection breaks. Two rules keep that bounded: at most
//! [`MAX_CALLS`] calls at a time, and a call that is unanswered past its deadline is not sent again for the same target.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::error::Target;
use super::threads::Threads;

/// How many calls may be under way at a time. libvirtd runs 20 at a time by default (`max_workers`), and QEMU's starts wait in between.
const MAX_CALLS: usize = 48;

/// Threads beside those of calls: opening and closing connections.
const SPARE_THREADS: usize = 8;

/// Which call about what: what may hang only once at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    pub(crate) target: Target,
    pub(crate) deadline: Duration,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The deadline passed.
    Deadline,
    /// The deadline passed before there was a thread: the work was not begun.
    Busy,
    /// The same call is parked already.
    Stuck,
    /// The work panicked.
    Panicked,
}

/// The threads that call libvirt.
#[derive(Debug)]
pub(crate) struct Calls {
    threads: Threads,
    slots: Arc<Semaphore>,
    pending: Arc<Pending>,
}

/// The calls that are under way.
#[derive(Debug, Default)]
struct Pending {
    calls: Mutex<Vec<PendingCall>>,
}

#[derive(Debug)]
struct PendingCall {
    operation: &'static str,
    target: Target,
    expires: Instant,
}

/// Takes a call off the list when its work is over, however it ends.
struct PendingGuard {
    pending: Arc<Pending>,
    operation: &'static str,
    target: Target,
    expires: Instant,
}

impl Calls {
    /// A pool without threads: they come with the calls.
    ///
    /// # Errors
    /// When the system refuses what a runtime needs, such as file descriptors.
    pub(crate) fn new() -> std::io::Result<Self> {
        let threads = Threads::new("libvirt-call", MAX_CALLS + SPARE_THREADS)?;
        Ok(Self { threads, slots: Arc::new(Semaphore::new(MAX_CALLS)), pending: Arc::default() })
    }

    /// Runs `work` on a thread of its own and waits for it until the deadline, which counts from now.
    ///
    /// When the future is dropped, work that has begun goes on all the same.
    pub(crate) async fn run<T, F>(&self, call: Call, work: F) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let expires = Instant::now() + call.deadline;
        if self.pending.is_stuck(&call) {
            return Err(NoAnswer::Stuck);
        }
        let Ok(Ok(slot)) = timeout_at(expires, Arc::clone(&self.slots).acquire_owned()).await else {
            return Err(NoAnswer::Busy);
        };
        let guard = Pending::add(&self.pending, &call, expires);
        let (answer, answered) = oneshot::channel();
        self.detach(move || {
            let value = work();
            // The list and the slot come first, so that a caller with an answer finds the call gone from both.
            drop(guard);
            drop(slot);
            // The caller may have given up: then the value is dropped here, on this thread.
            drop(answer.send(value));
        });
        match timeout_at(expires, answered).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(NoAnswer::Panicked),
            Err(_) => Err(NoAnswer::Deadline),
        }
    }

    /// Runs `work` on a thread of its own, without a deadline and beside the limit on calls.
    pub(crate) fn detach<F: FnOnce() + Send + 'static>(&self, work: F) {
        self.threads.run(work);
    }

    /// The operations about this target that are under way, past their deadline or not.
    pub(crate) fn unanswered(&self, target: &Target) -> Vec<&'static str> {
        self.pending.lock().iter().filter(|call| call.target == *target).map(|call| call.operation).collect()
    }

    /// How many calls are unanswered past their deadline.
    pub(crate) fn parked(&self) -> usize {
        let now = Instant::now();
        self.pending.lock().iter().filter(|call| call.expires <= now).count()
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Vec<PendingCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stuck(&self, call: &Call) -> bool {
        let now = Instant::now();
        self.lock()
            .iter()
            .any(|other| other.operation == call.operation && other.target == call.target && other.expires <= now)
    }

    fn add(pending: &Arc<Self>, call: &Call, expires: Instant) -> PendingGuard {
        pending.lock().push(PendingCall { operation: call.operation, target: call.target.clone(), expires });
        PendingGuard { pending: Arc::clone(pending), operation: call.operation, target: call.target.clone(), expires }
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        let mut calls = self.pending.lock();
        let found = calls.iter().position(|call| {
            call.operation == self.operation && call.target == self.target && call.expires == self.expires
        });
        if let Some(found) = found {
            calls.swap_remove(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn call(operation: &'static str, deadline_ms: u64) -> Call {
        Call { operation, target: Target::Host, deadline: Duration::from_millis(deadline_ms) }
    }

    #[tokio::test]
    async fn a_hanging_call_ends_at_its_deadline_and_is_not_repeated_until_it_returns() {
        let calls = Calls::new().unwrap();
        let (release, hang) = mpsc::channel::<()>();
        let answer = calls.run(call("list", 50), move || hang.recv().is_ok()).await;
        assert_eq!(answer, Err(NoAnswer::Deadline));
        assert_eq!(calls.parked(), 1);
        assert_eq!(calls.unanswered(&Target::Host), ["list"]);
        assert_eq!(calls.run(call("list", 50), || true).await, Err(NoAnswer::Stuck));
        assert_eq!(calls.run(call("probe", 5_000), || true).await, Ok(true), "another operation goes through");

        release.send(()).unwrap();
        while calls.parked() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(calls.run(call("list", 5_000), || true).await, Ok(true));
    }

    #[tokio::test]
    async fn the_same_call_may_run_twice_at_a_time_while_within_its_deadline() {
        let calls = Calls::new().unwrap();
        let (one, two) = tokio::join!(calls.run(call("list", 5_000), || 1), calls.run(call("list", 5_000), || 2));
        assert_eq!((one, two), (Ok(1), Ok(2)));
    }

    #[tokio::test]
    async fn parked_calls_leave_no_more_than_the_limit_of_threads() {
        let calls = Calls::new().unwrap();
        let mut releases = Vec::new();
        for number in 0..MAX_CALLS {
            let (release, hang) = mpsc::channel::<()>();
            releases.push(release);
            let target = Target::Name(number.to_string());
            let hanging = Call { operation: "state", target, deadline: Duration::from_millis(1) };
            assert_eq!(calls.run(hanging, move || hang.recv().is_ok()).await, Err(NoAnswer::Deadline));
        }
        let ran = calls.run(call("probe", 50), || true).await;
        assert_eq!(ran, Err(NoAnswer::Busy), "no thread is left");
        drop(releases);
        assert_eq!(calls.run(call("probe", 5_000), || true).await, Ok(true));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_leaves_nothing_behind() {
        let calls = Calls::new().unwrap();
        let answer: Result<(), _> = calls.run(call("list", 5_000), || panic!("on purpose")).await;
        assert_eq!(answer, Err(NoAnswer::Panicked));
        assert_eq!(calls.unanswered(&Target::Host), Vec::<&str>::new());
        assert_eq!(calls.run(call("list", 5_000), || true).await, Ok(true));
    }
}

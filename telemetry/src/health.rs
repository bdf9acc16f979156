//! Whether the loops of a process live, and whether it is ready. A loop that waits for something to do lives; one that has been busy with the same turn for
//! longer than it ever should, or has panicked, does not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The health of a process. Cheap to clone; all clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

/// Held by a loop, which says when a turn begins and when it is over. Dropped by a panic, it says so; otherwise the loop was meant to end.
#[derive(Debug)]
pub struct LoopGuard {
    health: Health,
    key: Key,
}

/// A loop's name, and a number of its own: there is one for each guest.
type Key = (&'static str, u64);

#[derive(Default)]
struct State {
    loops: BTreeMap<Key, Loop>,
    next_loop: u64,
    conditions: BTreeMap<&'static str, Result<(), String>>,
    checks: BTreeMap<&'static str, Check>,
}

/// Asked at each probe; must not block.
type Check = Box<dyn Fn() -> Result<(), String> + Send>;

/// A loop: how long a turn may take, and since when it is in one.
#[derive(Debug)]
struct Loop {
    limit: Duration,
    busy_since: Option<Instant>,
    has_panicked: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("loops", &self.loops)
            .field("conditions", &self.conditions)
            .finish_non_exhaustive()
    }
}

impl Health {
    /// Watches over a loop, no turn of which takes longer than `limit`. There may be several of one name; a new one stands in for those that panicked.
    pub fn watch_loop(&self, name: &'static str, limit: Duration) -> LoopGuard {
        let mut state = self.lock();
        state.loops.retain(|key, one| key.0 != name || !one.has_panicked);
        let key = (name, state.next_loop);
        state.next_loop += 1;
        state.loops.insert(key, Loop { limit, busy_since: None, has_panicked: false });
        LoopGuard { health: self.clone(), key }
    }

    /// What is still missing before the process is ready, or that it is not missing any more.
    pub fn set(&self, what: &'static str, state: Result<(), String>) {
        self.lock().conditions.insert(what, state);
    }

    /// Asks `check` at each probe of readiness. It must not block.
    pub fn check(&self, what: &'static str, check: impl Fn() -> Result<(), String> + Send + 'static) {
        self.lock().checks.insert(what, Box::new(check));
    }

    /// A line for each loop that does not live.
    pub fn stuck(&self) -> Vec<String> {
        let state = self.lock();
        let lines = state.loops.iter().filter_map(|((name, _), one)| {
            if one.has_panicked {
                return Some(format!("{name}: has panicked"));
            }
            let busy = one.busy_since?.elapsed();
            (busy > one.limit).then(|| format!("{name}: busy with one turn for {} s", busy.as_secs()))
        });
        lines.collect()
    }

    /// A line for each thing that is missing.
    pub fn missing(&self) -> Vec<String> {
        let state = self.lock();
        let line = |what: &str, state: Result<(), String>| state.err().map(|why| format!("{what}: {why}"));
        let conditions = state.conditions.iter().filter_map(|(what, state)| line(what, state.clone()));
        conditions.chain(state.checks.iter().filter_map(|(what, check)| line(what, check()))).collect()
    }

    /// A panic elsewhere leaves the state whole: it is used on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoopGuard {
    /// A turn begins.
    pub fn busy(&self) {
        self.change(|one| one.busy_since = Some(Instant::now()));
    }

    /// The turn is over: the loop waits.
    pub fn idle(&self) {
        self.change(|one| one.busy_since = None);
    }

    fn change(&self, change: impl FnOnce(&mut Loop)) {
        if let Some(one) = self.health.lock().loops.get_mut(&self.key) {
            change(one);
        }
    }
}

impl Drop for LoopGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.change(|one| one.has_panicked = true);
        } else {
            self.health.lock().loops.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_waits_lives_and_one_that_hangs_does_not() {
        let health = Health::default();
        let one = health.watch_loop("reconcile", Duration::ZERO);
        assert!(health.stuck().is_empty());
        one.busy();
        std::thread::yield_now();
        assert!(health.stuck()[0].starts_with("reconcile: busy"), "{:?}", health.stuck());
        one.idle();
        assert!(health.stuck().is_empty());
        one.busy();
        drop(one);
        assert!(health.stuck().is_empty(), "it was meant to end");
        let guard = health.watch_loop("reconcile", Duration::ZERO);
        let panicked = std::thread::spawn(move || {
            let _guard = guard;
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert_eq!(health.stuck(), ["reconcile: has panicked"]);
        let _again = health.watch_loop("reconcile", Duration::ZERO);
        assert!(health.stuck().is_empty(), "it was started anew");
    }

    #[test]
    fn each_of_several_loops_of_one_name_is_watched() {
        let health = Health::default();
        let (idle, busy) = (health.watch_loop("guest", Duration::ZERO), health.watch_loop("guest", Duration::ZERO));
        busy.busy();
        idle.busy();
        idle.idle();
        std::thread::yield_now();
        assert_eq!(health.stuck().len(), 1);
        drop(idle);
        assert_eq!(health.stuck().len(), 1);
    }

    #[test]
    fn readiness_names_what_is_missing() {
        let health = Health::default();
        health.set("watches", Err("not listed yet".to_owned()));
        health.check("libvirt", || Err("not connected".to_owned()));
        assert_eq!(health.missing(), ["watches: not listed yet", "libvirt: not connected"]);
        health.set("watches", Ok(()));
        health.check("libvirt", || Ok(()));
        assert!(health.missing().is_empty());
    }
}

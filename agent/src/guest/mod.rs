//! One guest's worker: observe, plan, execute, until there is nothing to do; then wait to be woken.
//!
//! One task owns one guest, so that no two steps for it ever run at once and no guest waits for another. What the worker remembers
//! (`memory`) only saves work: it can be killed at any point and starts again from what it observes.

mod disks;
mod execute;
mod fetch;
mod look;
mod memory;
mod observe;
mod render;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use plan::node::{GuestKey, Look, NodePlan, Step, plan_guest};
use telemetry::LoopGuard;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

pub use disks::{DiskTrouble, GuestDisks, NodeDisks, Prepared, ReadyVolumes};
pub use fetch::Fetch;
pub(crate) use memory::Hints;

use crate::node::NodeContext;
use execute::Outcome;
use look::{Looker, Reads};
use memory::Memory;

/// So many rounds without rest, and the guest's plans are going in circles: pause, and say so.
const MAX_ROUNDS: usize = 32;
/// That pause.
const CIRCLE_PAUSE: Duration = Duration::from_secs(5);

/// A round that takes longer is stuck: each of its calls has a deadline. Preparing disks, which may copy for an hour, is no part of it.
const STUCK: Duration = Duration::from_mins(10);

/// What the supervisor holds of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell {
    /// Wakes the worker.
    pub(crate) wake: Arc<Notify>,
    /// What libvirt's events said of the guest.
    pub(crate) hints: Arc<Hints>,
    /// The worker has nothing left to do for this guest.
    pub(crate) is_done: Arc<AtomicBool>,
}

/// The worker of one guest.
pub(crate) struct GuestWorker {
    looker: Looker,
    memory: Memory,
    bell: Bell,
    alive: LoopGuard,
}

impl GuestWorker {
    /// A worker that knows nothing yet.
    pub(crate) fn new(context: Arc<NodeContext>, key: GuestKey, bell: Bell) -> Self {
        let domain_name = domain_xml::DomainName::new(&key.namespace, &key.name).to_string();
        let memory = Memory::new(Arc::clone(&bell.hints));
        let alive = context.telemetry.health().watch_loop("guest", STUCK);
        Self { looker: Looker { context, key, domain_name }, memory, bell, alive }
    }

    /// Works until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            self.bell.is_done.store(false, Ordering::Relaxed);
            let requeue = self.pass().await;
            self.alive.idle();
            let woken = self.bell.wake.notified();
            match requeue {
                Some(delay) => drop(tokio::time::timeout(delay, woken).await),
                None => woken.await,
            }
        }
    }

    /// Observes, plans and executes until the plan has nothing more to do at once. Returns when to look again.
    pub(crate) async fn pass(&mut self) -> Option<Duration> {
        let mut reads = Reads::default();
        for _ in 0..MAX_ROUNDS {
            self.alive.busy();
            let seen = self.observe(reads).await;
            let plan = plan_guest(Timestamp::now(), &seen.desired, &seen.observed);
            self.log(&plan);
            if plan.look == Some(Look::Orphans) {
                self.looker.context.request_pass();
                return plan.requeue;
            }
            let (outcome, next_reads) = self.execute_and_read(&seen, &plan).await;
            reads = next_reads;
            let goes_on = match outcome {
                Outcome::Done => plan.look.is_some() || plan.requeue == Some(Duration::ZERO),
                Outcome::Again => true,
            };
            if !goes_on {
                self.bell.is_done.store(plan.report.state == "Gone", Ordering::Relaxed);
                return plan.requeue;
            }
        }
        warn!(state = self.memory.last_state, "plans go in circles; pausing");
        Some(CIRCLE_PAUSE)
    }

    /// A step that a guest notices is worth a line for operators; the rest is for those who look closely.
    fn log(&mut self, plan: &NodePlan) {
        let report = &plan.report;
        let is_new = self.memory.last_state != report.state;
        self.memory.last_state = report.state;
        let is_felt = plan
            .steps
            .iter()
            .any(|step| step.is_destructive() || matches!(step, Step::Start { .. } | Step::Shutdown { .. }));
        if is_new && (is_felt || !report.because.is_empty()) {
            info!(state = report.state, because = report.because, "guest");
        }
        debug!(state = report.state, because = report.because, steps = ?plan.steps, look = ?plan.look, "plan");
    }
}

#[cfg(test)]
mod tests;

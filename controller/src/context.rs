//! What the controller's tasks share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use events::Recorder;
use jiff::Timestamp;
use kube::Client;
use plan::cluster::{Installation, Now, ObjectKey, StepFailure};
use telemetry::Health;
use tokio::time::Instant;

use crate::index::Index;
use crate::metrics::Metrics;
use crate::queue::Queue;

/// What the controller's tasks share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) queue: Arc<Queue>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) installation: Arc<Installation>,
    index: Arc<Mutex<Index>>,
    troubles: Arc<Mutex<BTreeMap<ObjectKey, Trouble>>>,
    started: Instant,
}

/// Failures of one key since something last worked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble {
    /// Failed calls in a row.
    pub(crate) attempts: u32,
    /// The last create or delete that failed.
    pub(crate) step: Option<StepFailure>,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        installation: Arc<Installation>,
        recorder: Recorder,
        metrics: Metrics,
        health: Health,
    ) -> Self {
        Self {
            client,
            queue: Arc::default(),
            recorder,
            metrics,
            health,
            installation,
            index: Arc::default(),
            troubles: Arc::default(),
            started: Instant::now(),
        }
    }

    /// The time, on both clocks.
    pub(crate) fn now(&self) -> Now {
        Now { wall: Timestamp::now(), monotonic: self.started.elapsed() }
    }

    /// The caches. Never held across an await.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failures by key. Never held across an await.
    pub(crate) fn troubles(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process acts from now on: everything is due, and nothing that it decided before counts.
    pub(crate) fn begin_term(&self) {
        self.troubles().clear();
        let keys = {
            let mut index = self.index();
            index.forget_claims();
            index.keys()
        };
        self.queue.open();
        self.wake_all(keys);
    }

    pub(crate) fn wake_all(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        for key in keys {
            self.queue.wake(key);
        }
    }
}

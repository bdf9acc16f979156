//! What the controller's tasks share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::names::CONTROLLER_COMPONENT;
use events::{Recorder, Source};
use jiff::Timestamp;
use kube::Client;
use plan::cluster::{Installation, Now, ObjectKey, StepFailure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::index::Index;
use crate::queue::Queue;

/// What the controller's tasks share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) queue: Arc<Queue>,
    pub(crate) recorder: Recorder,
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
    pub(crate) fn new(client: Client, installation: Arc<Installation>, cancel: CancellationToken) -> Self {
        let source = Source { component: CONTROLLER_COMPONENT.to_owned(), host: None };
        let recorder = Recorder::start(client.clone(), source, cancel);
        Self {
            client,
            queue: Arc::default(),
            recorder,
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

    pub(crate) fn wake_all(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        for key in keys {
            self.queue.wake(key);
        }
    }
}

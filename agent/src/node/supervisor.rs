//! Wakes the guests' workers: on events of libvirt and of the API, and all of them after each full pass. Never waits for anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain_xml::DomainName;
use plan::node::GuestKey;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument as _, error, info_span, warn};

use super::NodeContext;
use crate::guest::{Bell, GuestWorker};
use crate::libvirt::{CrashedDetail, Event, Events, GuestEvent, GuestEventKind, Lifecycle};

/// A turn only sends and wakes; one that takes longer is stuck.
const STUCK: Duration = Duration::from_mins(1);

/// The supervisor of all workers.
pub(crate) struct Supervisor {
    context: Arc<NodeContext>,
    workers: BTreeMap<GuestKey, Worker>,
    by_domain: BTreeMap<String, GuestKey>,
    tasks: JoinSet<()>,
}

/// What wakes workers.
pub(crate) struct Inputs {
    /// libvirt's events.
    pub(crate) events: Events,
    /// Guests whose VM changed.
    pub(crate) changed: mpsc::UnboundedReceiver<GuestKey>,
    /// The guests that a full pass found.
    pub(crate) surveys: mpsc::Receiver<BTreeSet<GuestKey>>,
}

/// One of them.
enum Input {
    Event(Event),
    Changed(GuestKey),
    Survey(BTreeSet<GuestKey>),
    End(Result<(), tokio::task::JoinError>),
}

struct Worker {
    bell: Bell,
    task: tokio::task::AbortHandle,
}

impl Supervisor {
    pub(crate) fn new(context: Arc<NodeContext>) -> Self {
        Self { context, workers: BTreeMap::new(), by_domain: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Supervises until it is dropped, which ends the workers wherever they are.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        let alive = self.context.telemetry.health().watch_loop("supervisor", STUCK);
        loop {
            let input = tokio::select! {
                Some(event) = inputs.events.next() => Input::Event(event),
                Some(key) = inputs.changed.recv() => Input::Changed(key),
                Some(keys) = inputs.surveys.recv() => Input::Survey(keys),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => Input::End(ended),
            };
            alive.busy();
            match input {
                Input::Event(event) => self.take_event(event),
                Input::Changed(key) => self.wake(&key),
                Input::Survey(keys) => self.take_survey(keys),
                Input::End(ended) => self.take_end(ended),
            }
            alive.idle();
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Guest(event) => self.take_guest_event(&event),
            Event::Reconnected => {
                self.context.capabilities.forget();
                self.context.request_pass();
            }
            Event::Missed(_) => self.context.request_pass(),
            Event::Disconnected(reason) => warn!(%reason, "the connection to libvirt is lost; guests run on"),
        }
    }

    fn take_guest_event(&mut self, event: &GuestEvent) {
        let Some(key) = self.by_domain.get(&event.name).cloned() else {
            // Somebody else's domain, or one that appeared without a VM: a pass tells.
            if matches!(event.kind, GuestEventKind::Lifecycle(Lifecycle::Started(_))) {
                self.context.request_pass();
            }
            return;
        };
        if let Some(worker) = self.workers.get(&key) {
            match event.kind {
                GuestEventKind::Lifecycle(Lifecycle::Crashed(CrashedDetail::Panicked)) => {
                    worker.bell.hints.panicked.store(true, Ordering::Relaxed);
                }
                GuestEventKind::Lifecycle(Lifecycle::Defined(_)) => {
                    worker.bell.hints.redefined.store(true, Ordering::Relaxed);
                    // Our own define comes back as an event; another's matters at the next look.
                    return;
                }
                _ => {}
            }
        }
        self.wake(&key);
    }

    fn wake(&mut self, key: &GuestKey) {
        let worker = self.workers.entry(key.clone()).or_insert_with(|| {
            let bell = Bell::default();
            let worker = GuestWorker::new(Arc::clone(&self.context), key.clone(), bell.clone());
            let span = info_span!("guest", namespace = key.namespace, name = key.name);
            let task = self.tasks.spawn(worker.run().instrument(span));
            self.by_domain.insert(DomainName::new(&key.namespace, &key.name).to_string(), key.clone());
            Worker { bell, task }
        });
        worker.bell.wake.notify_one();
    }

    /// A worker never ends by itself: one that did has a bug, and is started anew at its next wake.
    fn take_end(&mut self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended
            && !error.is_cancelled()
        {
            error!(%error, "a guest's worker failed; it is started anew");
        }
        self.workers.retain(|_, worker| !worker.task.is_finished());
    }

    /// Wakes everybody, and lets go of workers without a guest.
    fn take_survey(&mut self, mut keys: BTreeSet<GuestKey>) {
        // The survey may be older than the cache, and a worker that was just woken for a new VM still counts as done.
        let is_known = |key: &GuestKey| keys.contains(key) || self.context.vms.get(key).is_some();
        let done = |key: &GuestKey, worker: &Worker| worker.bell.is_done.load(Ordering::Relaxed) && !is_known(key);
        let gone: Vec<GuestKey> =
            self.workers.iter().filter(|(key, worker)| done(key, worker)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.by_domain.retain(|_, owner| *owner != key);
            self.workers.remove(&key).inspect(|worker| worker.task.abort());
        }
        keys.extend(self.workers.keys().cloned());
        for key in &keys {
            self.wake(key);
        }
    }
}

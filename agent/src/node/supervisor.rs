//! Wakes the guests' workers: on events of libvirt and of the API, and all of them in a full pass every 30 s, which repairs what an event missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain_xml::DomainName;
use kube::ResourceExt;
use plan::node::{GuestKey, OrphanFacts, plan_orphans};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{Instrument as _, error, info_span, warn};

use super::{NodeContext, garbage};
use crate::guest::{Bell, GuestWorker};
use crate::libvirt::{CrashedDetail, Event, Events, GuestEvent, GuestEventKind, Lifecycle};
use api::chain;

/// How often every guest is looked at.
const FULL_PASS: Duration = Duration::from_secs(30);
/// Passes asked for by events come no closer than this.
const SHORTEST_PASS: Duration = Duration::from_secs(1);
/// Every so many passes, placements that were never released are searched for, and disks that nobody needs.
const SEARCH_EVERY: u32 = 10;

/// The supervisor of all workers.
pub(crate) struct Supervisor {
    context: Arc<NodeContext>,
    workers: BTreeMap<GuestKey, Worker>,
    by_domain: BTreeMap<String, GuestKey>,
    tasks: JoinSet<()>,
    passes: u32,
}

struct Worker {
    bell: Bell,
    task: tokio::task::AbortHandle,
}

impl Supervisor {
    pub(crate) fn new(context: Arc<NodeContext>) -> Self {
        Self { context, workers: BTreeMap::new(), by_domain: BTreeMap::new(), tasks: JoinSet::new(), passes: 0 }
    }

    /// Supervises until it is dropped, which ends the workers wherever they are.
    pub(crate) async fn run(mut self, mut events: Events, mut changed: mpsc::UnboundedReceiver<GuestKey>) {
        let mut passes = tokio::time::interval(FULL_PASS);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let context = Arc::clone(&self.context);
        let mut last_pass = Instant::now();
        loop {
            tokio::select! {
                _ = passes.tick() => self.full_pass().await,
                () = context.pass_wanted.notified() => {
                    tokio::time::sleep_until(last_pass + SHORTEST_PASS).await;
                    self.full_pass().await;
                    last_pass = Instant::now();
                }
                Some(event) = events.next() => self.take_event(event),
                Some(key) = changed.recv() => self.wake(&key),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.take_end(ended),
            }
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

    /// Lists everything, judges orphans, wakes everybody, and lets go of workers without a guest.
    async fn full_pass(&mut self) {
        self.passes = self.passes.wrapping_add(1);
        self.context.capabilities.forget_refusals();
        let mut keys: BTreeSet<GuestKey> = self.context.vms.keys().into_iter().collect();
        keys.extend(self.context.journal.guests());
        match self.own_domains().await {
            Ok(domains) => {
                self.judge_orphans(&domains).await;
                if self.passes % SEARCH_EVERY == 1 {
                    keys.extend(self.search(&domains).await);
                }
                keys.extend(domains.into_iter().map(|domain| domain.key));
            }
            Err(error) => warn!(error = chain(&error), "cannot list domains"),
        }
        let done = |key: &GuestKey, worker: &Worker| worker.bell.is_done.load(Ordering::Relaxed) && !keys.contains(key);
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

    async fn own_domains(&self) -> Result<Vec<OwnDomain>, crate::libvirt::Error> {
        let domains = self.context.hypervisor.list().await?;
        let own = domains.iter().filter_map(|domain| {
            let metadata = self.context.identity.own_metadata(domain).ok()?;
            let key = GuestKey { namespace: metadata.namespace, name: metadata.name };
            Some(OwnDomain { key, vm_uid: metadata.uid, active: domain.state.is_active() })
        });
        Ok(own.collect())
    }

    /// E6: finds the domains without their VM, by uncached reads, and posts what may become of them.
    async fn judge_orphans(&self, domains: &[OwnDomain]) {
        let mut orphans = Vec::new();
        for domain in domains {
            let cached = self.context.vms.get(&domain.key).and_then(|vm| vm.uid());
            if cached.as_ref() == Some(&domain.vm_uid) {
                continue;
            }
            let has_successor = match self.context.guests.read_vm(&domain.key).await {
                Ok(Some(vm)) if vm.uid().as_ref() == Some(&domain.vm_uid) => continue,
                Ok(vm) => vm.is_some(),
                // Nothing is an orphan that the API was not asked about.
                Err(_) => continue,
            };
            let (key, vm_uid) = (domain.key.clone(), domain.vm_uid.clone());
            orphans.push(OrphanFacts { key, vm_uid, active: domain.active, has_successor });
        }
        let running = domains.iter().filter(|domain| domain.active).count();
        let verdict = plan_orphans(&orphans, running);
        if let Some(message) = &verdict.message {
            warn!(message, "orphans held back");
            self.context.warn_on_node("OrphansHeld", message);
        }
        self.context.guard.post(&verdict);
    }

    /// Placements that were never released (E4), and disks that nobody needs.
    async fn search(&self, domains: &[OwnDomain]) -> Vec<GuestKey> {
        let found = self.context.node_objects.list_unreleased().await.unwrap_or_default();
        let mut known: BTreeSet<String> = self.context.vms.uids().into_iter().collect();
        known.extend(domains.iter().map(|domain| domain.vm_uid.clone()));
        known.extend(self.context.journal.vm_uids());
        let candidates = garbage::unexplained(&self.context.disks.list().await.unwrap_or_default(), &known);
        if !candidates.is_empty()
            && let Ok(alive) = self.context.node_objects.list_vm_uids().await
        {
            for uid in garbage::unexplained(&candidates, &alive) {
                if let Err(trouble) = self.context.disks.clean(uid).await {
                    warn!(%uid, error = trouble.message, "cannot remove disks that nobody needs");
                }
            }
        }
        found.into_iter().filter(|key| self.context.vms.get(key).is_none()).collect()
    }
}

/// A domain of ours, as the list shows it.
#[derive(Clone, Debug)]
struct OwnDomain {
    key: GuestKey,
    vm_uid: String,
    active: bool,
}

//! The full pass: lists what the node has every 30 s, which repairs whatever an event missed, and judges all orphans together (E6), and /proc itself.
//!
//! Its reads may hang with libvirt or the API, so it has a task of its own, beside the one that wakes workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::chain;
use kube::ResourceExt;
use plan::node::{GuestKey, GuestRun, OrphanFacts, OrphanVerdict, judge_processes, plan_orphans};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;
use uuid::Uuid;

use super::{NodeContext, garbage};
use crate::proc::{self, look_for_qemu};

/// How often every guest is looked at.
const INTERVAL: Duration = Duration::from_secs(30);
/// Passes that are asked for come no closer than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// Every so many passes, placements that were never released are searched for, and disks that nobody needs.
const SEARCH_EVERY: u32 = 10;
/// A pass that takes longer is stuck: each of its calls has a deadline, and many may run into it.
const STUCK: Duration = Duration::from_mins(15);

/// Surveys the node again and again.
pub(crate) struct Surveyor {
    context: Arc<NodeContext>,
    passes: u32,
    /// Runs that /proc did not show in the last pass.
    unseen: BTreeSet<GuestRun>,
}

/// A domain of ours, as the list shows it.
#[derive(Clone, Debug)]
struct OwnDomain {
    key: GuestKey,
    vm_uid: String,
    active: bool,
    run: Option<GuestRun>,
}

impl Surveyor {
    pub(crate) fn new(context: Arc<NodeContext>) -> Self {
        Self { context, passes: 0, unseen: BTreeSet::new() }
    }

    /// Surveys until it is dropped; after each pass it sends the guests that there are.
    pub(crate) async fn run(mut self, found: mpsc::Sender<BTreeSet<GuestKey>>) {
        let telemetry = self.context.telemetry.clone();
        let alive = telemetry.health.watch_loop("full pass", STUCK);
        loop {
            let begun = Instant::now();
            alive.busy();
            let found_now = self.pass().await;
            alive.idle();
            telemetry.passes.inc();
            telemetry.pass_seconds.observe(begun.elapsed().as_secs_f64());
            // Nobody listens only while the agent ends.
            drop(found.send(found_now).await);
            sleep_until(begun + SHORTEST_INTERVAL).await;
            drop(timeout(INTERVAL, self.context.pass_wanted.notified()).await);
        }
    }

    /// Every guest that has a VM, a domain, a journal entry or an unreleased placement here.
    async fn pass(&mut self) -> BTreeSet<GuestKey> {
        self.passes = self.passes.wrapping_add(1);
        self.context.capabilities.forget_refusals();
        let mut keys: BTreeSet<GuestKey> = self.context.vms.keys().into_iter().collect();
        keys.extend(self.context.journal.guests());
        match self.own_domains().await {
            Ok(domains) => {
                self.judge_processes(&domains).await;
                let active = domains.iter().filter(|domain| domain.active).count();
                self.context.telemetry.surveyed(active, domains.len() - active);
                self.judge_orphans(&domains).await;
                if self.passes % SEARCH_EVERY == 1 {
                    keys.extend(self.search(&domains).await);
                }
                keys.extend(domains.into_iter().map(|domain| domain.key));
            }
            Err(error) => warn!(error = chain(&error), "cannot list domains"),
        }
        keys
    }

    async fn own_domains(&self) -> Result<Vec<OwnDomain>, crate::libvirt::Error> {
        let domains = self.context.hypervisor.list().await?;
        let own = domains.iter().filter_map(|domain| {
            let metadata = self.context.identity.own_metadata(domain).ok()?;
            let key = GuestKey { namespace: metadata.namespace, name: metadata.name };
            let run = domain.id.map(|run_id| GuestRun { uuid: domain.uuid, run_id });
            Some(OwnDomain { key, vm_uid: metadata.uid, active: domain.state.is_active(), run })
        });
        Ok(own.collect())
    }

    /// Compares /proc with what libvirt says runs.
    async fn judge_processes(&mut self, domains: &[OwnDomain]) {
        let running: BTreeSet<GuestRun> = domains.iter().filter_map(|domain| domain.run).collect();
        let uuids: Vec<Uuid> = running.iter().map(|run| run.uuid).collect();
        // A look that fails tells its worker so.
        let Ok(found) = look_for_qemu(&self.context.proc_dir, uuids, proc::DEADLINE).await else { return };
        let shown = found.into_iter().map(|process| process.uuid).collect();
        let verdict = judge_processes(&running, &shown, &self.unseen);
        self.unseen = verdict.unseen;
        if let Some(believed) = verdict.believed
            && self.context.processes.post(believed.clone())
            && let Err(message) = believed
        {
            warn!(message, "no guest is started or let go");
            self.context.warn_on_node("ProcessesHidden", &message);
        }
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
                // The orphans are judged all together: some of many would pass for a few. The API would not answer for the next one either.
                Err(_) => return self.context.guard.post(&OrphanVerdict::default()),
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

//! Carries the election out: reads and writes the Lease as [`Candidacy`] says, and runs a term of office for as long as it is won.
//!
//! ```text
//! elect: Lease ◄─read, write─ Candidacy ──leads until──► serve_terms: term runs, or is dropped where it stands
//! ```
//! A term is dropped when its time is over, also while a call of the election hangs. A write of its that is on the way then may still land: it carries UID
//! and resourceVersion of what it was decided from, and fails if anybody has written since.

use std::time::Duration;

use api::chain;
use api::names::{LEADER_LEASE, SYSTEM_NAMESPACE};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use plan::cluster::{Candidacy, ElectionLease, ElectionStep, ElectionTerms};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::watch::{Pauses, WATCH_SECONDS};

/// A call of the election that takes longer has failed.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Field manager of our writes, and what the Lease says of its maker.
const FIELD_MANAGER: &str = "ovm-controller";

/// Until when this process leads; none while it does not.
pub(crate) type Office = Option<Instant>;

/// A process that wants to lead.
pub(crate) struct Election {
    leases: Api<Lease>,
    identity: String,
    terms: ElectionTerms,
    candidacy: Candidacy,
    /// Zero of the candidacy's clock.
    started: Instant,
    office: watch::Sender<Office>,
    /// What was logged last, so that a long absence is not logged again and again.
    last_error: Option<String>,
}

/// Why a call of the election came to nothing.
enum Failure {
    /// The Lease is another by now.
    Overtaken,
    /// No usable answer.
    NoAnswer(String),
}

impl Election {
    /// A candidate, and where it says until when it leads. `host` is for people: what makes the identity unique is added.
    pub(crate) fn new(client: Client, host: &str, terms: ElectionTerms) -> (Self, watch::Receiver<Office>) {
        let identity = format!("{host}_{}", uuid::Uuid::new_v4());
        let (office, held) = watch::channel(None);
        let candidacy = Candidacy::new(identity.clone(), terms);
        let leases = Api::namespaced(client, SYSTEM_NAMESPACE);
        (Self { leases, identity, terms, candidacy, started: Instant::now(), office, last_error: None }, held)
    }

    /// Stands for election until it is dropped.
    pub(crate) async fn run(&mut self) {
        let config = Config::default().fields(&format!("metadata.name={LEADER_LEASE}")).timeout(WATCH_SECONDS);
        let mut changes = watcher(self.leases.clone(), config).backoff(Pauses::default()).boxed();
        loop {
            let now = self.now();
            self.publish(now);
            match self.candidacy.plan(now) {
                ElectionStep::Wait(until) => {
                    let wake = self.started + until;
                    if let Ok(Some(Ok(event))) = timeout_at(wake, changes.next()).await {
                        self.take_in(event);
                    }
                }
                step => self.act(step).await,
            }
        }
    }

    /// Gives the Lease up, so that another need not wait for it to lapse. To be called when the term is over.
    pub(crate) async fn resign(&mut self) {
        let Some(version) = self.candidacy.resign(self.now()) else { return };
        let spec = json!({"holderIdentity": "", "renewTime": MicroTime(Timestamp::now()), "leaseDurationSeconds": 1});
        match self.patch(&version, spec).await {
            Ok(_) => tracing::info!("gave the Lease up"),
            Err(Failure::Overtaken) => {}
            Err(Failure::NoAnswer(error)) => tracing::warn!(error, "cannot give the Lease up; it lapses by itself"),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn publish(&self, now: Duration) {
        let office = self.candidacy.leads_until(now).map(|until| self.started + until);
        self.office.send_if_modified(|known| std::mem::replace(known, office) != office);
    }

    fn take_in(&mut self, event: Event<Lease>) {
        let now = self.now();
        match event {
            Event::Apply(lease) | Event::InitApply(lease) => self.candidacy.watched(Some(facts(&lease)), now),
            Event::Delete(_) => self.candidacy.watched(None, now),
            // That the first list shows none is found out by the first read.
            Event::Init | Event::InitDone => {}
        }
    }

    async fn act(&mut self, step: ElectionStep) {
        let sent = self.now();
        let answer = match &step {
            ElectionStep::Wait(_) => return,
            ElectionStep::Read => self.read().await,
            ElectionStep::Create => self.create().await.map(Some),
            ElectionStep::Take { version, transitions } => {
                let spec = self.spec(Some(*transitions));
                self.patch(version, json!(spec)).await.map(Some)
            }
            ElectionStep::Renew { version } => self.patch(version, json!(self.spec(None))).await.map(Some),
        };
        let now = self.now();
        match answer {
            Ok(lease) if step == ElectionStep::Read => self.candidacy.read(lease, now),
            Ok(Some(lease)) => self.candidacy.written(lease, sent, now),
            Ok(None) | Err(Failure::Overtaken) => self.candidacy.overtaken(),
            Err(Failure::NoAnswer(error)) => {
                if self.last_error.as_ref() != Some(&error) {
                    tracing::warn!(error, "cannot reach the Lease {SYSTEM_NAMESPACE}/{LEADER_LEASE}; trying again");
                }
                self.last_error = Some(error);
                self.candidacy.failed(&step, now);
                return;
            }
        }
        self.last_error = None;
    }

    async fn read(&self) -> Result<Option<ElectionLease>, Failure> {
        let lease = within(self.leases.get_opt(LEADER_LEASE)).await?;
        Ok(lease.as_ref().map(facts))
    }

    async fn create(&self) -> Result<ElectionLease, Failure> {
        let metadata = ObjectMeta { name: Some(LEADER_LEASE.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(self.spec(Some(0))) };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = self.leases.create(&params, &lease);
        match timeout(CALL_DEADLINE, created).await {
            // Not overtaken: the namespace is missing, and another look would not bring it back.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Failure::NoAnswer(status.message)),
            answer => sort(answer).map(|lease| facts(&lease)),
        }
    }

    /// `resourceVersion` in a patch is a precondition: the API server answers 409 if it differs.
    async fn patch(&self, version: &str, spec: serde_json::Value) -> Result<ElectionLease, Failure> {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": spec}));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        within(self.leases.patch(LEADER_LEASE, &params, &patch)).await.map(|lease| facts(&lease))
    }

    /// What the Lease says from now on. `transitions`: it changes hands, for the so manieth time.
    fn spec(&self, transitions: Option<i32>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.terms.duration.as_secs()).ok(),
            acquire_time: transitions.map(|_| now.clone()),
            renew_time: Some(now),
            lease_transitions: transitions,
            ..LeaseSpec::default()
        }
    }
}

/// Runs a term whenever this process leads, and drops it when it does not any more. Ends when nobody says any more whether it leads.
pub(crate) async fn serve_terms<T>(mut office: watch::Receiver<Office>, mut term: impl FnMut() -> T)
where
    T: Future<Output = ()>,
{
    loop {
        if office.wait_for(|until| until.is_some_and(|until| until > Instant::now())).await.is_err() {
            return;
        }
        tracing::info!("this controller leads");
        tokio::select! {
            () = over(&mut office) => tracing::warn!("this controller leads no more"),
            () = term() => return,
        }
    }
}

/// Returns when the office is lost.
async fn over(office: &mut watch::Receiver<Office>) {
    loop {
        let Some(until) = *office.borrow_and_update() else { return };
        tokio::select! {
            () = sleep_until(until) => return,
            changed = office.changed() => if changed.is_err() { return },
        }
    }
}

fn facts(lease: &Lease) -> ElectionLease {
    let spec = lease.spec.as_ref();
    ElectionLease {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
        transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
    }
}

/// Waits for an answer, and tells a Lease that changed from a server that gives none.
async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    sort(timeout(CALL_DEADLINE, call).await)
}

fn sort<T>(answer: Result<Result<T, kube::Error>, Elapsed>) -> Result<T, Failure> {
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(Failure::Overtaken),
        Ok(Err(error)) => Err(Failure::NoAnswer(chain(&error))),
        Err(_) => Err(Failure::NoAnswer(format!("no answer within {} s", CALL_DEADLINE.as_secs()))),
    }
}

//! Carries out a plan's steps, in order, until one fails. Nothing is decided here: a step that finds the world changed ends the pass, and the
//! next observation shows what became of it.

use std::sync::Arc;
use std::time::Duration;

use api::v1alpha1::AbiStatus;
use domain_xml::{Metadata, render_metadata};
use events::Notice;
use jiff::Timestamp;
use kube::ResourceExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plan::node::{
    EventType, GuestEvent, Look, NodePlan, Resumes, StartAnswer, StartNote, StatusWrite, Step, Trouble, note_of_start,
};
use tracing::{info, warn};
use uuid::Uuid;

use super::GuestWorker;
use super::disks::Prepared;
use super::look::Reads;
use super::memory::{Images, ImagesState, ReadyDisks};
use super::observe::Seen;
use super::render::GuestSpec;
use crate::hypervisor::DomainChange;
use crate::libvirt::{self, XmlView};
use crate::objects::ApiError;
use crate::proc::{is_own_proc, read_qemu};
use api::chain;

/// S4's reads are good for a start for so long. The disks are prepared meanwhile, which may take minutes, and a node whose Lease is 40 s old may
/// have been fenced since.
const LOOK_LIFE: Duration = Duration::from_secs(20);
/// How long a killed process may take to go.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// The step that goes on after it was executed.
const FETCH_IMAGES: &str = "FetchImages";

/// What became of a plan's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All were carried out.
    Done,
    /// One was not: observe and plan again at once. The planner itself keeps what failed from being tried too soon.
    Again,
}

/// A plan was not carried out to its end.
enum Interrupted {
    /// The VM has to be read first.
    Conflict,
    /// Observing again is enough.
    Other,
}

/// Why a step was not carried out.
#[derive(Debug)]
pub(super) enum StepError {
    /// The VM has changed since it was read.
    Conflict,
    /// What was observed does not hold any more.
    Changed,
    /// It failed: reason and message.
    Failed { reason: String, message: String },
}

impl From<ApiError> for StepError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Conflict { .. } | ApiError::Missing { .. } => Self::Conflict,
            ApiError::Refused { .. } | ApiError::Away { .. } => failed(error.reason(), &error),
        }
    }
}

impl From<libvirt::Error> for StepError {
    fn from(error: libvirt::Error) -> Self {
        failed(error.reason(), &error)
    }
}

impl From<crate::journal::JournalError> for StepError {
    fn from(error: crate::journal::JournalError) -> Self {
        failed("JournalFailed", &error)
    }
}

impl GuestWorker {
    /// Carries out the steps, and makes the look that the next plan needs: meanwhile, if the plan wants one, or after a conflict.
    pub(super) async fn execute_and_read(&mut self, seen: &Seen, plan: &NodePlan) -> (Outcome, Reads) {
        let (looker, uuids) = (self.looker.clone(), self.uuids_of(seen));
        // Only the preparation of disks comes with a look; it touches nothing that the look reads.
        let look = async {
            match plan.look {
                Some(look) => looker.read(look, uuids.clone()).await,
                None => Reads::default(),
            }
        };
        match tokio::join!(self.execute(seen, plan), look) {
            (Ok(()), reads) => (Outcome::Done, reads),
            (Err(Interrupted::Conflict), _) => (Outcome::Again, looker.read(Look::End, uuids.clone()).await),
            (Err(Interrupted::Other), _) => (Outcome::Again, Reads::default()),
        }
    }

    async fn execute(&mut self, seen: &Seen, plan: &NodePlan) -> Result<(), Interrupted> {
        for step in &plan.steps {
            match self.execute_step(seen, step).await {
                Ok(()) => self.note_success(step),
                Err(StepError::Changed) => return Err(Interrupted::Other),
                Err(StepError::Conflict) => return Err(Interrupted::Conflict),
                Err(StepError::Failed { reason, message }) => {
                    self.note_failure(step, reason, message);
                    return Err(Interrupted::Other);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn execute_step(&mut self, seen: &Seen, step: &Step) -> Result<(), StepError> {
        match step {
            Step::PrepareDisks { uid } => self.prepare_disks(seen, uid).await,
            Step::FetchImages { uid } => self.fetch_images(seen, uid),
            Step::CancelFetch => {
                self.memory.images = None;
                Ok(())
            }
            Step::Define { uid, expect } => self.define(seen, uid, expect).await,
            Step::WriteStatus(write) => self.write_status(seen, write).await,
            Step::JournalStart { uid, running } => self.journal_start(seen, uid, *running).await,
            Step::JournalEnd { uid, end } => Ok(self.looker.context.journal.end(&self.looker.key, uid, end).await?),
            Step::ForgetJournal { uid } => Ok(self.looker.context.journal.forget(uid).await?),
            Step::Start { uid } => self.start(seen, uid).await,
            Step::SettleStart { uid } => self.settle_start(seen, uid).await,
            Step::SetDeadline { uid, deadline } => self.set_deadline(seen, uid, *deadline).await,
            Step::Resume { uid } => self.resume(seen, uid).await,
            Step::Shutdown { uid } => self.shut_down(seen, uid).await,
            Step::Destroy { uid } => self.end_domain(seen, uid, DomainChange::Destroy).await,
            Step::Undefine { uid } => self.end_domain(seen, uid, DomainChange::Undefine).await,
            Step::KillProcess { pid } => self.kill_process(seen, *pid).await,
            Step::CleanDisks { uid } => self.clean_disks(uid).await,
            Step::GiveVolumesBack { uid } => self.give_volumes_back(uid).await,
            Step::DropFinalizer { uid, resource_version } => {
                let vm = vm_at(seen, uid, Some(resource_version))?;
                Ok(self.looker.context.guests.drop_finalizer(&vm).await?)
            }
            Step::ReleasePlacement { ovm_uid, resource_version } => {
                Ok(self.looker.context.guests.release_placement(&self.looker.key, ovm_uid, resource_version).await?)
            }
            Step::SetNodeLabel { uid } => {
                let vm = vm_at(seen, uid, None)?;
                let labelled = self.looker.context.guests.label_node(&vm, &self.looker.context.node).await?;
                self.memory.latest = Some(Arc::new(labelled));
                Ok(())
            }
            Step::Record(event) => {
                self.record(event);
                Ok(())
            }
        }
    }

    async fn prepare_disks(&mut self, seen: &Seen, uid: &str) -> Result<(), StepError> {
        let spec = spec_of(seen)?;
        // What was pulled has been told by now.
        let images = self.memory.images.as_mut().filter(|images| images.vm_uid == uid);
        let fetched = match images.map(|images| &mut images.state) {
            Some(ImagesState::Fetched(told)) => {
                told.clear();
                true
            }
            _ => false,
        };
        let disks = &self.looker.context.disks;
        self.alive.idle();
        let prepared = disks.prepare(&self.looker.key, parse_uid(uid)?, &spec.spec, &spec.volumes, fetched).await;
        self.alive.busy();
        let prepared = prepared.map_err(|trouble| {
            // Until they are claimed, images may go again: what was fetched is looked at anew.
            self.memory.images = None;
            StepError::Failed { reason: trouble.reason.to_owned(), message: trouble.message }
        })?;
        match prepared {
            Prepared::Ready(volumes) => {
                self.memory.disks = Some(ReadyDisks { vm_uid: uid.to_owned(), volumes, are_defined: false });
                self.memory.images = None;
            }
            Prepared::NeedsImages => {
                self.memory.images = Some(Images { vm_uid: uid.to_owned(), state: ImagesState::Missing });
            }
        }
        Ok(())
    }

    fn fetch_images(&mut self, seen: &Seen, uid: &str) -> Result<(), StepError> {
        let spec = spec_of(seen)?;
        let wake = Arc::clone(&self.bell.wake);
        let fetch = self.looker.context.disks.fetch(&self.looker.key, parse_uid(uid)?, &spec.spec, wake);
        self.memory.images = Some(Images { vm_uid: uid.to_owned(), state: ImagesState::OnTheirWay(fetch) });
        Ok(())
    }

    async fn define(&mut self, seen: &Seen, uid: &str, expect: &AbiStatus) -> Result<(), StepError> {
        let spec = spec_of(seen)?;
        let disks = self.memory.disks.as_mut().filter(|disks| disks.vm_uid == uid).ok_or(StepError::Changed)?;
        let metadata = Metadata {
            installation: self.looker.context.identity.installation(),
            node: self.looker.context.node.clone(),
            namespace: self.looker.key.namespace.clone(),
            name: self.looker.key.name.clone(),
            uid: uid.to_owned(),
            grace_period_seconds: spec.spec.grace_period_seconds,
            deletion_deadline: None,
        };
        let console_log = self.looker.context.disks.console_log(parse_uid(uid)?);
        let xml = spec
            .render(&self.looker.context, &metadata, &disks.volumes.sources, &console_log)
            .await
            .map_err(|(reason, message)| StepError::Failed { reason: reason.to_owned(), message })?;
        self.memory.description = None;
        self.looker.context.hypervisor.define(spec.firmware_uuid, xml).await?;
        disks.are_defined = true;
        let settled = self.looker.context.hypervisor.describe(spec.firmware_uuid, XmlView::Defined).await?;
        let settled = domain_xml::parse(&settled).map_err(|error| failed(error.reason(), &error))?;
        let as_expected = self.memory.keep_description(&settled, &metadata).abi == *expect;
        // Metadata is for the next observation, which a change of ABI brings about now.
        if as_expected { Ok(()) } else { Err(StepError::Changed) }
    }

    async fn write_status(&mut self, seen: &Seen, write: &StatusWrite) -> Result<(), StepError> {
        let mut vm = (*vm_at(seen, &write.uid, Some(&write.resource_version))?).clone();
        vm.status = Some((*write.status).clone());
        let written = self.looker.context.guests.write_status(&vm).await?;
        self.memory.latest = Some(Arc::new(written));
        Ok(())
    }

    async fn journal_start(&mut self, seen: &Seen, uid: &str, running: bool) -> Result<(), StepError> {
        if !has_fresh_look(seen) {
            return Err(StepError::Changed);
        }
        let known = self.memory.description.as_ref().filter(|known| known.vm_uid == uid).ok_or(StepError::Changed)?;
        Ok(self.looker.context.journal.start(&self.looker.key, uid, known.uuid, running).await?)
    }

    async fn start(&mut self, seen: &Seen, uid: &str) -> Result<(), StepError> {
        let uuid = self.memory.description.as_ref().map(|known| known.uuid).ok_or(StepError::Changed)?;
        // The look once more: the journal may have waited for a slow disk.
        let permit = self.looker.context.host_stop.permit().filter(|_| has_fresh_look(seen));
        let Some(permit) = permit else {
            self.note_start(uid, StartAnswer::NotMade, None).await?;
            return Err(StepError::Changed);
        };
        let started = self.looker.context.hypervisor.change(uuid, DomainChange::Start).await;
        drop(permit);
        let answer = match &started {
            Ok(()) => StartAnswer::Started,
            Err(error) if error.is_outcome_unknown() => {
                warn!(error = chain(error), "the start has no known outcome");
                StartAnswer::Unknown
            }
            Err(error) if error.is_wrong_state() => StartAnswer::NotOff,
            Err(_) => StartAnswer::Refused,
        };
        if answer != StartAnswer::Unknown {
            let found = self.looker.context.hypervisor.find(&self.looker.domain_name).await.ok().flatten();
            self.note_start(uid, answer, found.and_then(|domain| domain.id)).await?;
            self.memory.panic_seen = false;
            self.looker.context.started.notify_one();
        }
        Ok(started?)
    }

    /// Writes to the journal what a start call left. `run_id`: the run of the domain that was seen after it.
    async fn note_start(&self, uid: &str, answer: StartAnswer, run_id: Option<u32>) -> Result<(), StepError> {
        let journal = &self.looker.context.journal;
        match note_of_start(answer, run_id.is_some()) {
            StartNote::Settle => Ok(journal.settle(uid, run_id).await?),
            StartNote::Forget => Ok(journal.forget(uid).await?),
            StartNote::Keep => Ok(()),
        }
    }

    /// S6: after this no earlier start call can take effect.
    async fn settle_start(&mut self, seen: &Seen, uid: &str) -> Result<(), StepError> {
        if seen.domain.as_ref().is_some_and(|domain| domain.metadata.uid == uid) {
            self.end_domain(seen, uid, DomainChange::Destroy).await?;
        }
        if self.uuids_of(seen).into_iter().any(|uuid| !self.looker.context.hypervisor.is_quiet(uuid)) {
            let message = "libvirt has not answered an earlier start yet".to_owned();
            return Err(StepError::Failed { reason: "StartUnsettled".to_owned(), message });
        }
        Ok(self.looker.context.journal.settle(uid, None).await?)
    }

    async fn set_deadline(&mut self, seen: &Seen, uid: &str, deadline: Timestamp) -> Result<(), StepError> {
        let domain = seen.domain.as_ref().filter(|domain| domain.metadata.uid == uid).ok_or(StepError::Changed)?;
        let metadata = Metadata { deletion_deadline: Some(deadline), ..domain.metadata.clone() };
        let element = render_metadata(&metadata).map_err(|error| failed(error.reason(), &error))?;
        match self.looker.context.hypervisor.set_metadata(domain.uuid, element).await {
            Err(error) if error.is_no_domain() => Err(StepError::Changed),
            other => Ok(other?),
        }
    }

    async fn resume(&mut self, seen: &Seen, uid: &str) -> Result<(), StepError> {
        let domain = seen.domain.as_ref().filter(|domain| domain.metadata.uid == uid).ok_or(StepError::Changed)?;
        self.memory.resumes = Some(Resumes::after(self.memory.resumes, Timestamp::now()));
        match self.looker.context.hypervisor.change(domain.uuid, DomainChange::Resume).await {
            Err(error) if error.is_wrong_state() || error.is_no_domain() => Err(StepError::Changed),
            other => Ok(other?),
        }
    }

    async fn shut_down(&mut self, seen: &Seen, uid: &str) -> Result<(), StepError> {
        let domain = seen.domain.as_ref().filter(|domain| domain.metadata.uid == uid).ok_or(StepError::Changed)?;
        let pressed = self.looker.context.hypervisor.change(domain.uuid, DomainChange::ShutDown).await;
        self.memory.last_signal = Some(Timestamp::now());
        match pressed {
            Err(error) if error.is_wrong_state() || error.is_no_domain() => Err(StepError::Changed),
            other => Ok(other?),
        }
    }

    /// Destroys or undefines; a domain that is there no more, or off already, is what was wanted.
    async fn end_domain(&mut self, seen: &Seen, uid: &str, change: DomainChange) -> Result<(), StepError> {
        let domain = seen.domain.as_ref().filter(|domain| domain.metadata.uid == uid).ok_or(StepError::Changed)?;
        match self.looker.context.hypervisor.change(domain.uuid, change).await {
            Err(error) if error.is_no_domain() || (error.is_wrong_state() && change == DomainChange::Destroy) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Kills a QEMU that libvirt has lost, if it still is the process that was seen.
    async fn kill_process(&mut self, seen: &Seen, pid: u32) -> Result<(), StepError> {
        let uuids = self.uuids_of(seen);
        let directory = self.looker.context.proc_dir.clone();
        let is_there = || {
            read_qemu(&directory, pid)
                .is_some_and(|process| uuids.contains(&process.uuid) && process.domain == self.looker.domain_name)
        };
        if !is_there() {
            return Err(StepError::Changed);
        }
        if !is_own_proc(&directory) {
            let message = format!(
                "QEMU process {pid} on node {} runs this guest, libvirt has lost it, and the agent in its pod cannot end it; \
                 there: kill -KILL {pid}",
                self.looker.context.node
            );
            return Err(StepError::Failed { reason: "ProcessOutOfReach".to_owned(), message });
        }
        let raw = i32::try_from(pid).map_err(|_| StepError::Changed)?;
        kill(Pid::from_raw(raw), Signal::SIGKILL).map_err(|error| failed("KillFailed", &error))?;
        info!(pid, "killed a QEMU that libvirt had lost");
        let until = tokio::time::Instant::now() + KILL_PATIENCE;
        while is_there() {
            if tokio::time::Instant::now() >= until {
                let message = format!("QEMU process {pid} is still there after SIGKILL");
                return Err(StepError::Failed { reason: "KillFailed".to_owned(), message });
            }
            tokio::time::sleep(KILL_INTERVAL).await;
        }
        Ok(())
    }

    async fn clean_disks(&mut self, uid: &str) -> Result<(), StepError> {
        let cleaned = self.looker.context.disks.clean(parse_uid(uid)?).await;
        cleaned.map_err(|trouble| StepError::Failed { reason: trouble.reason.to_owned(), message: trouble.message })?;
        self.memory.disks = self.memory.disks.take().filter(|disks| disks.vm_uid != uid);
        Ok(())
    }

    async fn give_volumes_back(&mut self, uid: &str) -> Result<(), StepError> {
        let given = self.looker.context.disks.give_volumes_back(parse_uid(uid)?).await;
        given.map_err(|trouble| StepError::Failed { reason: trouble.reason.to_owned(), message: trouble.message })?;
        self.memory.given_back = Some(uid.to_owned());
        Ok(())
    }

    fn record(&self, event: &GuestEvent) {
        let about = k8s_openapi::api::core::v1::ObjectReference {
            api_version: Some(api::names::API_VERSION.to_owned()),
            kind: Some("VirtualMachine".to_owned()),
            namespace: Some(self.looker.key.namespace.clone()),
            name: Some(self.looker.key.name.clone()),
            uid: Some(event.uid.clone()),
            ..Default::default()
        };
        let type_ = match event.type_ {
            EventType::Normal => events::EventType::Normal,
            EventType::Warning => events::EventType::Warning,
        };
        self.looker.context.recorder.record(Notice {
            about,
            type_,
            reason: event.reason.to_owned(),
            message: event.message.clone(),
        });
    }

    pub(super) fn note_failure(&mut self, step: &Step, reason: String, message: String) {
        let kind = kind_of(step);
        let again = self.memory.troubled_step == Some(kind);
        let failures =
            self.memory.trouble.as_ref().filter(|_| again).map_or(1, |trouble| trouble.failures.saturating_add(1));
        warn!(step = kind, failures, error = message, "step failed");
        self.looker.context.telemetry.step_failed(kind, &reason);
        self.memory.troubled_step = Some(kind);
        self.memory.trouble =
            Some(Trouble { reason, message, at: Timestamp::now(), failures, bringing_up: step.is_bringing_up() });
    }

    /// What registries could not give is there now.
    pub(super) fn note_fetched(&mut self) {
        if self.memory.troubled_step == Some(FETCH_IMAGES) {
            self.memory.troubled_step = None;
            self.memory.trouble = None;
        }
    }

    /// A trouble is over when what failed succeeds, or when the guest starts.
    fn note_success(&mut self, step: &Step) {
        // That one has only begun.
        if matches!(step, Step::FetchImages { .. }) {
            return;
        }
        if self.memory.troubled_step == Some(kind_of(step)) || matches!(step, Step::Start { .. }) {
            self.memory.troubled_step = None;
            self.memory.trouble = None;
        }
    }
}

/// The VM object that a step is about, as newest known in this pass.
fn vm_at(
    seen: &Seen,
    uid: &str,
    resource_version: Option<&str>,
) -> Result<Arc<api::v1alpha1::VirtualMachine>, StepError> {
    let vm = seen.vm.clone().filter(|vm| vm.uid().as_deref() == Some(uid)).ok_or(StepError::Conflict)?;
    match resource_version {
        Some(version) if vm.resource_version().as_deref() != Some(version) => Err(StepError::Conflict),
        _ => Ok(vm),
    }
}

fn spec_of(seen: &Seen) -> Result<&GuestSpec, StepError> {
    seen.spec.as_ref().ok_or(StepError::Changed)
}

fn parse_uid(uid: &str) -> Result<Uuid, StepError> {
    Uuid::parse_str(uid).map_err(|error| failed("InvalidUid", &error))
}

fn failed(reason: &str, error: &(dyn std::error::Error + 'static)) -> StepError {
    StepError::Failed { reason: reason.to_owned(), message: chain(error) }
}

/// Whether S4's reads are good for a start still.
fn has_fresh_look(seen: &Seen) -> bool {
    seen.look_begun.is_some_and(|begun| begun.elapsed() <= LOOK_LIFE)
}

/// The step's name, for logs and for telling troubles apart.
fn kind_of(step: &Step) -> &'static str {
    match step {
        Step::PrepareDisks { .. } => "PrepareDisks",
        Step::FetchImages { .. } => FETCH_IMAGES,
        Step::CancelFetch => "CancelFetch",
        Step::Define { .. } => "Define",
        Step::WriteStatus(_) => "WriteStatus",
        Step::JournalStart { .. } => "JournalStart",
        Step::JournalEnd { .. } => "JournalEnd",
        Step::Start { .. } => "Start",
        Step::SettleStart { .. } => "SettleStart",
        Step::SetDeadline { .. } => "SetDeadline",
        Step::Resume { .. } => "Resume",
        Step::Shutdown { .. } => "Shutdown",
        Step::Destroy { .. } => "Destroy",
        Step::KillProcess { .. } => "KillProcess",
        Step::Undefine { .. } => "Undefine",
        Step::CleanDisks { .. } => "CleanDisks",
        Step::GiveVolumesBack { .. } => "GiveVolumesBack",
        Step::DropFinalizer { .. } => "DropFinalizer",
        Step::ForgetJournal { .. } => "ForgetJournal",
        Step::ReleasePlacement { .. } => "ReleasePlacement",
        Step::SetNodeLabel { .. } => "SetNodeLabel",
        Step::Record(_) => "Record",
    }
}

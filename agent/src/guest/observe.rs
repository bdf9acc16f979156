//! What there is to see of a guest: libvirt, the journal and the watch each time; the API and /proc where the plan asked for a look.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::v1alpha1::{Phase, VirtualMachine};
use domain_xml::Metadata;
use jiff::Timestamp;
use kube::ResourceExt;
use plan::node::{
    DesiredGuest, DiskFault, DisksState, DomainFacts, DomainSlot, DomainState, FetchState, FreshVm, ImageFetch,
    ObservedGuest, PausedReason, ShutOffReason, Step, Trouble, VmFacts,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::warn;
use uuid::Uuid;

use super::GuestWorker;
use super::disks::DiskTrouble;
use super::look::Reads;
use super::memory::ImagesState;
use super::render::{GuestSpec, firmware_uuid_of};
use crate::blocking::blocking;
use crate::libvirt::{self, DomainSummary, XmlView};
use api::chain;

/// What the aliases of our disks begin with.
const DISK_ALIAS: &str = "ua-disk-";
/// A file system that says how full it is does so at once.
const ROOM_DEADLINE: Duration = Duration::from_secs(2);
/// Threads that may wait for file systems that do not.
const MOST_LOOKS_AT_ROOM: usize = 4;

/// One observation: the planner's view, and the objects behind it, which the steps need.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) desired: DesiredGuest,
    pub(super) observed: ObservedGuest,
    /// The VM that the planner was shown.
    pub(super) vm: Option<Arc<VirtualMachine>>,
    /// The domain of the guest's name, if it is ours.
    pub(super) domain: Option<OwnDomain>,
    /// How the VM would be rendered here.
    pub(super) spec: Option<GuestSpec>,
    /// When the look for a start began, if one was made.
    pub(super) look_begun: Option<Instant>,
}

/// A domain of ours.
#[derive(Clone, Debug)]
pub(super) struct OwnDomain {
    pub(super) uuid: Uuid,
    pub(super) metadata: Metadata,
}

impl GuestWorker {
    /// Observes the guest, with what the look before found.
    pub(super) async fn observe(&mut self, reads: Reads) -> Seen {
        self.memory.take_hints();
        let cached = self.memory.newest(self.looker.context.vms.get(&self.looker.key));
        let vm = match &reads.vm {
            Some(Ok(fresh)) => fresh.clone(),
            Some(Err(_)) | None => cached.clone(),
        };
        let (slot, domain) = self.observe_domain().await;
        if let Some(uid) =
            vm.as_ref().and_then(|vm| vm.uid()).or_else(|| domain.as_ref().map(|domain| domain.metadata.uid.clone()))
        {
            self.memory.turn_to(&uid);
        }
        let fetch = self.observe_fetch();
        let spec = self.observe_spec(vm.as_deref()).await;
        let wanted_abi = spec.as_ref().map(|spec| spec.as_ref().map(GuestSpec::abi).map_err(Clone::clone));
        let desired = DesiredGuest {
            cached: cached.as_deref().map(VmFacts::from_object),
            fresh: reads.vm.as_ref().map(|answer| match answer {
                Ok(Some(vm)) => FreshVm::Present(Box::new(VmFacts::from_object(vm))),
                Ok(None) => FreshVm::Absent,
                Err(error) => FreshVm::Unreachable(error.to_string()),
            }),
            start_check: reads.start_check,
            ovm: reads.ovm,
        };
        let guard = domain
            .as_ref()
            .map(|domain| self.looker.context.guard.verdict(&self.looker.key, &domain.metadata.uid))
            .unwrap_or_default();
        let observed = ObservedGuest {
            node_name: self.looker.context.node.clone(),
            proc: reads.proc,
            journal: self.looker.context.journal.of_guest(&self.looker.key),
            disks: DisksState {
                ready_for: self.memory.disks.as_ref().map(|disks| disks.vm_uid.clone()),
                present: match reads.files {
                    None => Ok(Vec::new()),
                    Some(files) => files.map(|files| self.files_of_guest(&files, vm.as_deref(), domain.as_ref())),
                },
                given_back: self.memory.given_back.clone(),
                images: self.memory.disks.as_ref().map(|disks| disks.volumes.images.clone()).unwrap_or_default(),
                fetch,
            },
            is_defined_from_disks: self.memory.disks.as_ref().is_some_and(|disks| disks.are_defined),
            wanted_abi,
            trouble: self.memory.trouble.clone(),
            disk_faults: self.observe_disk_faults(&slot, domain.as_ref()).await,
            resumes: self.memory.resumes,
            last_signal: self.memory.last_signal,
            panic_seen: self.memory.panic_seen,
            guard,
            slot,
            host_stops: self.looker.context.host_stop.is_announced(),
        };
        Seen { desired, observed, vm, domain, spec: spec.and_then(Result::ok), look_begun: reads.begun }
    }

    /// What holds the guest's domain name.
    async fn observe_domain(&mut self) -> (DomainSlot, Option<OwnDomain>) {
        let summary = match self.looker.context.hypervisor.find(&self.looker.domain_name).await {
            Ok(Some(summary)) => summary,
            Ok(None) => return (DomainSlot::Free, None),
            Err(error) => {
                warn!(error = chain(&error), "cannot read the domain");
                return (DomainSlot::Unknown, None);
            }
        };
        let metadata = match self.looker.context.identity.own_metadata(&summary) {
            Ok(metadata)
                if metadata.namespace == self.looker.key.namespace && metadata.name == self.looker.key.name =>
            {
                metadata
            }
            Ok(metadata) => {
                let whose = format!("domain {} belongs to {}/{}", summary.name, metadata.namespace, metadata.name);
                return (DomainSlot::Foreign(whose), None);
            }
            Err(whose) => return (DomainSlot::Foreign(whose), None),
        };
        let Some(description) = self.describe(&summary, &metadata).await else { return (DomainSlot::Unknown, None) };
        let facts = DomainFacts {
            vm_uid: metadata.uid.clone(),
            state: to_plan(summary.state),
            run_id: summary.id,
            grace: std::time::Duration::from_secs(metadata.grace_period_seconds),
            deadline: metadata.deletion_deadline,
            abi: description.abi,
            interfaces: description.interfaces,
        };
        (DomainSlot::Ours(Box::new(facts)), Some(OwnDomain { uuid: summary.uuid, metadata }))
    }

    /// Which disks failed under a guest that is paused for it, and what room their file systems have.
    async fn observe_disk_faults(&self, slot: &DomainSlot, domain: Option<&OwnDomain>) -> Vec<DiskFault> {
        let (DomainSlot::Ours(facts), Some(domain)) = (slot, domain) else { return Vec::new() };
        if facts.state != DomainState::Paused(PausedReason::IoError) {
            return Vec::new();
        }
        let hypervisor = &self.looker.context.hypervisor;
        let (errors, xml) =
            tokio::join!(hypervisor.disk_errors(domain.uuid), hypervisor.describe(domain.uuid, XmlView::Live));
        let disks = xml.ok().and_then(|xml| domain_xml::parse(&xml).ok()).map(|known| known.disks).unwrap_or_default();
        let errors = errors.unwrap_or_else(|error| {
            warn!(error = chain(&error), "cannot read which disk failed");
            Vec::new()
        });
        let mut faults = Vec::with_capacity(errors.len());
        for error in errors {
            let disk = disks.iter().find(|disk| disk.target == error.target);
            let path = disk.and_then(|disk| disk.layers.first());
            let name = disk.and_then(|disk| disk.alias.as_deref()?.strip_prefix(DISK_ALIAS));
            let free_bytes = match path {
                Some(path) => free_bytes(path.clone()).await,
                None => None,
            };
            faults.push(DiskFault {
                disk: name.unwrap_or(&error.target).to_owned(),
                path: path.map(|path| path.display().to_string()).unwrap_or_default(),
                no_space: error.no_space,
                free_bytes,
            });
        }
        faults
    }

    /// How far the images are. One that failed is noted as the failed step that it is.
    fn observe_fetch(&mut self) -> Option<ImageFetch> {
        let images = self.memory.images.as_mut()?;
        let vm_uid = images.vm_uid.clone();
        let state = match &images.state {
            ImagesState::Missing => FetchState::Missing,
            ImagesState::Fetched(told) => FetchState::Fetched(told.clone()),
            ImagesState::OnTheirWay(fetch) => match fetch.state() {
                Ok(FetchState::Fetched(told)) => {
                    images.state = ImagesState::Fetched(told.clone());
                    self.note_fetched();
                    FetchState::Fetched(told)
                }
                Ok(state) => state,
                Err(DiskTrouble { reason, message }) => {
                    images.state = ImagesState::Missing;
                    self.note_failure(&Step::FetchImages { uid: vm_uid.clone() }, reason.to_owned(), message);
                    FetchState::Missing
                }
            },
        };
        Some(ImageFetch { vm_uid, state })
    }

    /// What libvirt settled for the domain; read once a definition.
    async fn describe(&mut self, summary: &DomainSummary, metadata: &Metadata) -> Option<super::memory::Description> {
        if let Some(known) = &self.memory.description
            && known.uuid == summary.uuid
            && known.vm_uid == metadata.uid
        {
            return Some(known.clone());
        }
        let xml = self.looker.context.hypervisor.describe(summary.uuid, XmlView::Defined).await;
        let parsed = xml
            .map_err(|error| chain(&error))
            .and_then(|xml: String| domain_xml::parse(&xml).map_err(|error| chain(&error)));
        match parsed {
            Ok(domain) => Some(self.memory.keep_description(&domain, metadata).clone()),
            Err(error) => {
                warn!(error, "cannot read the domain's description");
                None
            }
        }
    }

    /// How the VM would be rendered here; only of interest while it waits to be started.
    async fn observe_spec(&self, vm: Option<&VirtualMachine>) -> Option<Result<GuestSpec, Trouble>> {
        let vm = vm?;
        let status = vm.status.as_ref()?;
        let waits =
            status.phase == Some(Phase::Scheduled) && status.node_name.as_ref() == Some(&self.looker.context.node);
        if !waits {
            return None;
        }
        let resolved = GuestSpec::resolve(&self.looker.context, &self.looker.key, vm).await;
        Some(resolved.map_err(|(reason, message)| Trouble {
            reason: reason.to_owned(),
            message,
            at: Timestamp::now(),
            failures: 1,
            bringing_up: true,
        }))
    }

    /// UUIDs under which a QEMU of this guest may run.
    pub(super) fn uuids_of(&self, seen: &Seen) -> Vec<Uuid> {
        let of_vm = seen.vm.as_deref().map(|vm| firmware_uuid_of(&self.looker.context.identity, &self.looker.key, vm));
        let of_domain = seen.domain.as_ref().map(|domain| domain.uuid);
        let of_name = self.looker.context.identity.derived_uuid(&self.looker.key);
        let started = self.looker.context.journal.firmware_uuids(&self.looker.key);
        [of_vm, of_domain, self.memory.description.as_ref().map(|known| known.uuid), Some(of_name)]
            .into_iter()
            .flatten()
            .chain(started)
            .collect()
    }

    /// Of all VMs with files on the node, those of this guest.
    fn files_of_guest(&self, files: &[Uuid], vm: Option<&VirtualMachine>, domain: Option<&OwnDomain>) -> Vec<String> {
        let mut own: Vec<String> =
            self.looker.context.journal.of_guest(&self.looker.key).into_iter().map(|entry| entry.vm_uid).collect();
        own.extend(vm.and_then(ResourceExt::uid));
        own.extend(domain.map(|domain| domain.metadata.uid.clone()));
        own.extend(self.memory.disks.as_ref().map(|disks| disks.vm_uid.clone()));
        own.sort();
        own.dedup();
        own.retain(|uid| Uuid::parse_str(uid).is_ok_and(|uid| files.contains(&uid)));
        own
    }
}

/// What is free on the file system of a file. Of a device nobody knows; nor of a file system that does not answer, such as one of a network that is away, which
/// keeps no more than a few threads waiting.
async fn free_bytes(path: PathBuf) -> Option<u64> {
    static LOOKS: Semaphore = Semaphore::const_new(MOST_LOOKS_AT_ROOM);
    let permit = LOOKS.try_acquire().ok()?;
    let look = blocking(move || {
        let _until_it_answers = permit;
        room_of(&path)
    });
    timeout(ROOM_DEADLINE, look).await.ok().flatten()
}

fn room_of(path: &Path) -> Option<u64> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let system = nix::sys::statvfs::statvfs(path).ok()?;
    Some(system.blocks_available().saturating_mul(system.fragment_size()))
}

/// libvirt's states in the planner's words.
fn to_plan(state: libvirt::DomainState) -> DomainState {
    use libvirt::{DomainState as State, PausedReason as Paused, ShutOffReason as Off};
    match state {
        State::Running(_) | State::Blocked => DomainState::Running,
        State::Paused(Paused::StartingUp) => DomainState::Paused(PausedReason::StartingUp),
        State::Paused(Paused::User) => DomainState::Paused(PausedReason::User),
        State::Paused(Paused::IoError) => DomainState::Paused(PausedReason::IoError),
        State::Paused(Paused::Watchdog) => DomainState::Paused(PausedReason::Watchdog),
        State::Paused(Paused::Crashed) => DomainState::Paused(PausedReason::Crashed),
        State::Paused(_) => DomainState::Paused(PausedReason::Other),
        State::PmSuspended => DomainState::Suspended,
        State::ShuttingDown => DomainState::ShuttingDown,
        State::Crashed(_) => DomainState::CrashedKept,
        State::NoState | State::Other { .. } => DomainState::Other,
        State::ShutOff(reason) => DomainState::ShutOff(match reason {
            Off::Unknown => ShutOffReason::Unknown,
            Off::Shutdown => ShutOffReason::Shutdown,
            Off::Destroyed => ShutOffReason::Destroyed,
            Off::Crashed => ShutOffReason::Crashed,
            Off::Migrated => ShutOffReason::Migrated,
            Off::Saved => ShutOffReason::Saved,
            Off::Failed => ShutOffReason::Failed,
            Off::FromSnapshot => ShutOffReason::FromSnapshot,
            Off::Daemon => ShutOffReason::Daemon,
            Off::Other(code) => ShutOffReason::Other(code),
        }),
    }
}

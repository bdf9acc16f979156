//! A hypervisor, an API and a disk store in memory, with the manners of the real ones, and a fuse: after so many calls nothing answers any more,
//! as for an agent that was killed there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::names::VM_FINALIZER;
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use api::validated::ValidatedSpec;
use domain_xml::{AllowedPaths, DiskFormat, DiskSource, render_metadata};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use plan::node::{FetchState, GuestKey, NodeView};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::guest::{DiskTrouble, Fetch, GuestDisks, Prepared, ReadyVolumes};
use crate::hypervisor::{DomainChange, Hypervisor};
use crate::libvirt::{
    DiskError, DomainState, DomainSummary, EmulatorFacts, Error, Failure, RunningReason, ShutOffReason, Target,
    Usability, VirtType, XmlView,
};
use crate::objects::{ApiError, GuestObjects, NodeObjects};
use api::v1alpha1::VolumeStatus;

/// Calls that are left until nothing answers any more.
#[derive(Debug)]
pub(super) struct Fuse {
    left: AtomicUsize,
    blown: Notify,
}

impl Fuse {
    pub(super) fn new(calls: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(calls), blown: Notify::new() })
    }

    pub(super) fn set(&self, calls: usize) {
        self.left.store(calls, Ordering::SeqCst);
    }

    /// Waits until a call got no answer.
    pub(super) async fn blown(&self) {
        self.blown.notified().await;
    }

    /// Answers, or never.
    async fn burn(&self) {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            self.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// A domain.
#[derive(Clone, Debug)]
pub(super) struct FakeDomain {
    xml: String,
    pub(super) summary: DomainSummary,
}

/// How the next start call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextStart {
    /// It starts the domain.
    Starts,
    /// It is past its deadline, and starts the domain when [`FakeHypervisor::fire`] says so.
    Hangs,
    /// libvirt refuses it before it begins, as it does when QEMU's binary is being replaced; the next one starts the domain.
    IsRefused,
}

/// libvirt.
pub(super) struct FakeHypervisor {
    fuse: Arc<Fuse>,
    domains: Mutex<BTreeMap<String, FakeDomain>>,
    pub(super) starts: AtomicUsize,
    pub(super) next_start: Mutex<NextStart>,
    hanging: Mutex<Option<Uuid>>,
    /// The machine type that libvirt settles, whatever is asked for.
    pub(super) settles: Mutex<Option<&'static str>>,
    /// The next question for an emulator is not answered.
    pub(super) forgets_emulator: Mutex<bool>,
}

impl FakeHypervisor {
    pub(super) fn new(fuse: Arc<Fuse>) -> Self {
        Self {
            fuse,
            domains: Mutex::default(),
            starts: AtomicUsize::new(0),
            next_start: Mutex::new(NextStart::Starts),
            hanging: Mutex::default(),
            settles: Mutex::default(),
            forgets_emulator: Mutex::default(),
        }
    }

    pub(super) fn domain(&self, name: &str) -> Option<FakeDomain> {
        lock(&self.domains).get(name).cloned()
    }

    /// The guest ends, or an administrator acts.
    pub(super) fn set_state(&self, name: &str, state: DomainState) {
        if let Some(domain) = lock(&self.domains).get_mut(name) {
            domain.summary.state = state;
            domain.summary.id = domain.summary.id.filter(|_| state.is_active());
        }
    }

    /// A start call that hung takes effect, or comes to nothing.
    pub(super) fn fire(&self) {
        if let Some(uuid) = lock(&self.hanging).take() {
            drop(self.run(uuid));
        }
    }

    fn run(&self, uuid: Uuid) -> Result<(), Error> {
        let mut domains = lock(&self.domains);
        let domain = domains.values_mut().find(|domain| domain.summary.uuid == uuid).ok_or_else(|| no_domain(uuid))?;
        if domain.summary.state.is_active() {
            return Err(wrong_state(uuid));
        }
        let number = self.starts.fetch_add(1, Ordering::SeqCst);
        domain.summary.state = DomainState::Running(RunningReason::Booted);
        domain.summary.id = u32::try_from(number).ok();
        Ok(())
    }

    fn apply(&self, uuid: Uuid, change: DomainChange) -> Result<(), Error> {
        if change == DomainChange::Start {
            if *lock(&self.next_start) == NextStart::Hangs {
                *lock(&self.hanging) = Some(uuid);
                let deadline = Duration::from_mins(1);
                return Err(Error::Deadline { operation: "start", target: Target::Domain(uuid), deadline });
            }
            if std::mem::replace(&mut *lock(&self.next_start), NextStart::Starts) == NextStart::IsRefused {
                let message = "Cannot check QEMU binary".to_owned();
                let source = Failure { code: virt_sys::VIR_ERR_INTERNAL_ERROR, message };
                return Err(Error::Refused { operation: "start", target: Target::Domain(uuid), source });
            }
            return self.run(uuid);
        }
        let mut domains = lock(&self.domains);
        let domain = domains.values_mut().find(|domain| domain.summary.uuid == uuid).ok_or_else(|| no_domain(uuid))?;
        match change {
            DomainChange::Undefine => domains.retain(|_, domain| domain.summary.uuid != uuid),
            DomainChange::Start | DomainChange::Resume | DomainChange::ShutDown | DomainChange::Destroy => {
                if !domain.summary.state.is_active() {
                    return Err(wrong_state(uuid));
                }
                if change == DomainChange::Destroy {
                    domain.summary.state = DomainState::ShutOff(ShutOffReason::Destroyed);
                    domain.summary.id = None;
                }
            }
        }
        Ok(())
    }

    fn take_in(&self, uuid: Uuid, xml: &str) {
        let settles = *lock(&self.settles);
        let xml = settles.map_or_else(|| xml.to_owned(), |machine| xml.replace("pc-q35-10.0", machine));
        let parsed = domain_xml::parse(&xml).expect("the agent defines what can be read back");
        let mut domains = lock(&self.domains);
        let before = domains.get(&parsed.name).map(|domain| domain.summary.clone());
        let summary = DomainSummary {
            uuid,
            name: parsed.name.clone(),
            id: before.as_ref().and_then(|before| before.id),
            state: before.as_ref().map_or(DomainState::ShutOff(ShutOffReason::Unknown), |before| before.state),
            persistent: true,
            autostart: false,
            has_managed_save: false,
            metadata: parsed.metadata.map(|metadata| render_metadata(&metadata).expect("it was rendered before")),
        };
        domains.insert(parsed.name, FakeDomain { xml, summary });
    }
}

impl Hypervisor for FakeHypervisor {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<DomainSummary>, Error>> {
        async move {
            self.fuse.burn().await;
            Ok(self.domain(name).map(|domain| domain.summary))
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainSummary>, Error>> {
        async move {
            self.fuse.burn().await;
            Ok(lock(&self.domains).values().map(|domain| domain.summary.clone()).collect())
        }
        .boxed()
    }

    fn describe(&self, uuid: Uuid, _: XmlView) -> BoxFuture<'_, Result<String, Error>> {
        async move {
            self.fuse.burn().await;
            let domains = lock(&self.domains);
            let domain = domains.values().find(|domain| domain.summary.uuid == uuid);
            domain.map(|domain| domain.xml.clone()).ok_or_else(|| no_domain(uuid))
        }
        .boxed()
    }

    fn define(&self, uuid: Uuid, xml: String) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.fuse.burn().await;
            self.take_in(uuid, &xml);
            Ok(())
        }
        .boxed()
    }

    fn set_metadata(&self, uuid: Uuid, element: String) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.fuse.burn().await;
            let mut domains = lock(&self.domains);
            let domain =
                domains.values_mut().find(|domain| domain.summary.uuid == uuid).ok_or_else(|| no_domain(uuid))?;
            domain.summary.metadata = Some(element);
            Ok(())
        }
        .boxed()
    }

    fn change(&self, uuid: Uuid, change: DomainChange) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.fuse.burn().await;
            let answer = self.apply(uuid, change);
            // Killed between the effect and its answer, too.
            self.fuse.burn().await;
            answer
        }
        .boxed()
    }

    fn disk_errors(&self, _: Uuid) -> BoxFuture<'_, Result<Vec<DiskError>, Error>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn is_quiet(&self, uuid: Uuid) -> bool {
        *lock(&self.hanging) != Some(uuid)
    }

    fn emulator<'a>(&'a self, _: VirtType, machine: &'a str) -> BoxFuture<'a, Result<Usability, Error>> {
        if std::mem::take(&mut *lock(&self.forgets_emulator)) {
            let (target, deadline) = (Target::Host, Duration::from_mins(1));
            return async move { Err(Error::Deadline { operation: "read emulators of", target, deadline }) }.boxed();
        }
        let facts = EmulatorFacts {
            path: "/usr/bin/qemu-system-x86_64".to_owned(),
            // An alias stands for the newest.
            machine: if machine.contains('-') { machine.to_owned() } else { "pc-q35-10.0".to_owned() },
            arch: "x86_64".to_owned(),
            max_vcpus: None,
            disk_buses: Vec::new(),
        };
        async move { Ok(Usability::Usable(facts)) }.boxed()
    }
}

/// The API, with one VM at most.
pub(super) struct FakeApi {
    fuse: Arc<Fuse>,
    vm: Mutex<Option<VirtualMachine>>,
    /// No call is answered.
    pub(super) away: Mutex<bool>,
    /// The next write finds the object changed.
    pub(super) change_before_write: Mutex<bool>,
    pub(super) status_writes: AtomicUsize,
}

impl FakeApi {
    pub(super) fn new(fuse: Arc<Fuse>, vm: VirtualMachine) -> Self {
        Self {
            fuse,
            vm: Mutex::new(Some(vm)),
            away: Mutex::default(),
            change_before_write: Mutex::default(),
            status_writes: AtomicUsize::new(0),
        }
    }

    pub(super) fn vm(&self) -> Option<VirtualMachine> {
        lock(&self.vm).clone()
    }

    /// The object is gone, whatever held it.
    pub(super) fn lose(&self) {
        *lock(&self.vm) = None;
    }

    /// Somebody else changes the VM.
    pub(super) fn edit(&self, edit: impl FnOnce(&mut VirtualMachine)) {
        if let Some(vm) = lock(&self.vm).as_mut() {
            edit(vm);
            bump(vm);
        }
    }

    async fn answer<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Option<VirtualMachine>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.fuse.burn().await;
        if *lock(&self.away) {
            return Err(ApiError::Away { operation, message: "away".to_owned() });
        }
        let answer = work(&mut lock(&self.vm));
        self.fuse.burn().await;
        answer
    }
}

impl GuestObjects for FakeApi {
    fn read_vm<'a>(&'a self, _: &'a GuestKey) -> BoxFuture<'a, Result<Option<VirtualMachine>, ApiError>> {
        self.answer("read", |vm| Ok(vm.clone())).boxed()
    }

    fn read_ovm<'a>(&'a self, _: &'a GuestKey) -> BoxFuture<'a, Result<Option<OfflineVirtualMachine>, ApiError>> {
        self.answer("read", |_| Ok(None)).boxed()
    }

    fn write_status<'a>(&'a self, new: &'a VirtualMachine) -> BoxFuture<'a, Result<VirtualMachine, ApiError>> {
        self.answer("write", |vm| {
            let vm = current(vm, new)?;
            if std::mem::take(&mut *lock(&self.change_before_write)) {
                bump(vm);
            }
            if vm.metadata.resource_version != new.metadata.resource_version {
                return Err(ApiError::Conflict { operation: "write" });
            }
            vm.status.clone_from(&new.status);
            bump(vm);
            self.status_writes.fetch_add(1, Ordering::SeqCst);
            Ok(vm.clone())
        })
        .boxed()
    }

    fn drop_finalizer<'a>(&'a self, new: &'a VirtualMachine) -> BoxFuture<'a, Result<(), ApiError>> {
        self.answer("write", |vm| {
            let current = current(vm, new)?;
            if current.metadata.resource_version != new.metadata.resource_version {
                return Err(ApiError::Conflict { operation: "write" });
            }
            current.finalizers_mut().retain(|finalizer| finalizer != VM_FINALIZER);
            if current.finalizers().is_empty() && current.metadata.deletion_timestamp.is_some() {
                *vm = None;
            }
            Ok(())
        })
        .boxed()
    }

    fn label_node<'a>(
        &'a self,
        new: &'a VirtualMachine,
        node: &'a str,
    ) -> BoxFuture<'a, Result<VirtualMachine, ApiError>> {
        self.answer("write", |vm| {
            let vm = current(vm, new)?;
            vm.labels_mut().insert(api::names::NODE_NAME_LABEL.to_owned(), node.to_owned());
            bump(vm);
            Ok(vm.clone())
        })
        .boxed()
    }

    fn release_placement<'a>(&'a self, _: &'a GuestKey, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), ApiError>> {
        self.answer("write", |_| Ok(())).boxed()
    }
}

impl NodeObjects for FakeApi {
    fn renew_lease(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        self.answer("renew", |_| Ok(())).boxed()
    }

    fn read_node(&self) -> BoxFuture<'_, NodeView> {
        async move {
            let answer = self.answer("read", |_| Ok(())).await;
            answer.map_or_else(|error| NodeView::Unreachable(error.to_string()), |()| NodeView::InService)
        }
        .boxed()
    }

    fn list_unreleased(&self) -> BoxFuture<'_, Result<Vec<GuestKey>, ApiError>> {
        self.answer("list", |_| Ok(Vec::new())).boxed()
    }

    fn list_vm_uids(&self) -> BoxFuture<'_, Result<BTreeSet<String>, ApiError>> {
        self.answer("list", |vm| Ok(vm.iter().filter_map(ResourceExt::uid).collect())).boxed()
    }
}

/// The disks: names of VMs that have some.
pub(super) struct FakeDisks {
    fuse: Arc<Fuse>,
    pub(super) present: Mutex<BTreeSet<Uuid>>,
    /// Nothing can be listed.
    pub(super) unreadable: Mutex<bool>,
    /// VMs whose volumes were given back.
    pub(super) given_back: Mutex<Vec<Uuid>>,
}

impl FakeDisks {
    pub(super) fn new(fuse: Arc<Fuse>) -> Self {
        Self { fuse, present: Mutex::default(), unreadable: Mutex::default(), given_back: Mutex::default() }
    }
}

impl GuestDisks for FakeDisks {
    fn prepare<'a>(
        &'a self,
        _: &'a GuestKey,
        uid: Uuid,
        spec: &'a ValidatedSpec,
        _: &'a [VolumeStatus],
        fetched: bool,
    ) -> BoxFuture<'a, Result<Prepared, DiskTrouble>> {
        async move {
            self.fuse.burn().await;
            // Whoever has no disks yet has claimed no images.
            if !lock(&self.present).contains(&uid) && !fetched {
                return Ok(Prepared::NeedsImages);
            }
            lock(&self.present).insert(uid);
            let source = DiskSource::file(format!("/disks/{uid}/disk-0.qcow2"), DiskFormat::Qcow2);
            let sources = spec.volumes.iter().map(|volume| (volume.name.clone(), source.clone())).collect();
            Ok(Prepared::Ready(ReadyVolumes { sources, images: Vec::new() }))
        }
        .boxed()
    }

    fn fetch(&self, _: &GuestKey, _: Uuid, _: &ValidatedSpec, _: Arc<Notify>) -> Fetch {
        Fetch::ended(Ok(FetchState::Fetched(Vec::new())))
    }

    fn clean(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>> {
        async move {
            self.fuse.burn().await;
            lock(&self.present).remove(&uid);
            Ok(())
        }
        .boxed()
    }

    fn give_volumes_back(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>> {
        async move {
            self.fuse.burn().await;
            lock(&self.given_back).push(uid);
            Ok(())
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Uuid>, DiskTrouble>> {
        async move {
            if *lock(&self.unreadable) {
                return Err(DiskTrouble { reason: "DisksUnreadable", message: "too many open files".to_owned() });
            }
            Ok(lock(&self.present).iter().copied().collect())
        }
        .boxed()
    }

    fn allowed_paths<'a>(&'a self, emulator: &'a Path, _: bool) -> BoxFuture<'a, AllowedPaths> {
        let disks = vec![PathBuf::from("/disks")];
        let allowed = AllowedPaths {
            disk_dirs: disks.clone(),
            block_devices: Vec::new(),
            log_dirs: disks,
            emulator: emulator.to_owned(),
        };
        async { allowed }.boxed()
    }

    fn console_log(&self, uid: Uuid) -> PathBuf {
        format!("/disks/{uid}/console.log").into()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stored VM, if it is still the one that is written.
fn current<'a>(vm: &'a mut Option<VirtualMachine>, new: &VirtualMachine) -> Result<&'a mut VirtualMachine, ApiError> {
    let stored = vm.as_mut().ok_or(ApiError::Missing { operation: "write" })?;
    if stored.uid() == new.uid() { Ok(stored) } else { Err(ApiError::Conflict { operation: "write" }) }
}

fn bump(vm: &mut VirtualMachine) {
    let version: u64 = vm.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0);
    vm.metadata.resource_version = Some((version + 1).to_string());
}

fn no_domain(uuid: Uuid) -> Error {
    Error::NoDomain { operation: "use", target: Target::Domain(uuid) }
}

fn wrong_state(uuid: Uuid) -> Error {
    let source =
        Failure { code: virt_sys::VIR_ERR_OPERATION_INVALID, message: "domain is not in that state".to_owned() };
    Error::Refused { operation: "use", target: Target::Domain(uuid), source }
}

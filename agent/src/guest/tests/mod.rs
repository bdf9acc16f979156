//! The worker against a hypervisor, an API and disks in memory: what it does with their refusals, and where it may be killed (anywhere).

mod fakes;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::v1alpha1::{AbiStatus, Machine, Phase, VirtualMachine, VolumeStatus};
use events::Recorder;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use plan::node::{Emulation, GuestKey, Step};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::execute::StepError;
use super::look::Reads;
use super::{Bell, GuestWorker};
use crate::hypervisor::{Capabilities, DomainChange, Hypervisor};
use crate::journal::Journal;
use crate::libvirt::{DomainState, ShutOffReason};
use crate::metrics::Telemetry;
use crate::node::{GuardBoard, NodeContext, NodeIdentity, ProcBoard, VmCache};
use fakes::{FakeApi, FakeDisks, FakeHypervisor, Fuse, NextStart, lock};

const DOMAIN: &str = "ns_vm";
const UID: &str = "5d2f1c7e-0000-4000-8000-00000000000a";
/// More calls than any scenario makes.
const ENOUGH: usize = 100_000;

/// A node with one guest.
struct World {
    fuse: Arc<Fuse>,
    hypervisor: Arc<FakeHypervisor>,
    api: Arc<FakeApi>,
    disks: Arc<FakeDisks>,
    directory: TempDir,
}

impl World {
    /// A VM is bound to the node.
    fn new() -> Self {
        let fuse = Fuse::new(ENOUGH);
        let vm = json!({
            "apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine",
            "metadata": {"namespace": "ns", "name": "vm", "uid": UID, "resourceVersion": "1", "finalizers": [api::names::VM_FINALIZER]},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "domain": {"devices": {"disks": [{"name": "root", "volumeName": "root", "disk": {}}]}},
                "volumes": [{"name": "root", "registryDisk": {"image": "an/image"}}],
            },
            "status": {"nodeName": "node1", "phase": "Scheduled"},
        });
        let vm: VirtualMachine = serde_json::from_value(vm).unwrap();
        Self {
            hypervisor: Arc::new(FakeHypervisor::new(fuse.clone())),
            api: Arc::new(FakeApi::new(fuse.clone(), vm)),
            disks: Arc::new(FakeDisks::new(fuse.clone())),
            fuse,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A new agent's worker: it knows what is on disk, and sees the VM as it is now.
    fn worker(&self) -> GuestWorker {
        let proc_dir = self.directory.path().join("proc");
        std::fs::create_dir_all(proc_dir.join("1")).unwrap();
        let vms = VmCache::default();
        self.api.vm().map(|vm| vms.insert(vm));
        let hypervisor: Arc<dyn Hypervisor> = self.hypervisor.clone();
        let context = NodeContext {
            node: "node1".to_owned(),
            identity: NodeIdentity { cluster_uid: Uuid::from_u128(7), node: "node1".to_owned() },
            capabilities: Capabilities::new(hypervisor.clone(), Emulation::Always),
            hypervisor,
            guests: self.api.clone(),
            node_objects: self.api.clone(),
            disks: self.disks.clone(),
            journal: Journal::open(self.directory.path(), "boot".to_owned()).unwrap(),
            recorder: Recorder::to_channel().0,
            telemetry: Telemetry::default(),
            vms,
            guard: GuardBoard::default(),
            proc_dir,
            processes: ProcBoard::default(),
            host_stop: Arc::new(crate::node::HostStop::new("/nonexistent".into())),
            pass_wanted: Notify::new(),
            started: Notify::new(),
        };
        let key = GuestKey { namespace: "ns".to_owned(), name: "vm".to_owned() };
        GuestWorker::new(Arc::new(context), key, Bell::default())
    }

    /// The watch catches up, and the worker works until it has nothing to do.
    async fn settle(&self, worker: &mut GuestWorker) -> Option<Duration> {
        match self.api.vm() {
            Some(vm) => drop(worker.looker.context.vms.insert(vm)),
            None => drop(worker.looker.context.vms.replace(Vec::new())),
        }
        worker.pass().await
    }

    fn phase(&self) -> Option<Phase> {
        self.api.vm()?.status?.phase
    }

    fn delete(&self) {
        self.api.edit(|vm| vm.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH)));
    }

    fn starts(&self) -> usize {
        self.hypervisor.starts.load(Ordering::SeqCst)
    }

    fn is_running(&self) -> bool {
        self.hypervisor.domain(DOMAIN).is_some_and(|domain| domain.summary.state.is_active())
    }
}

#[tokio::test]
async fn a_guest_is_started_once_reported_and_let_go() {
    let world = World::new();
    let mut worker = world.worker();
    assert_eq!(world.settle(&mut worker).await, None);
    assert_eq!((world.phase(), world.starts()), (Some(Phase::Running), 1));
    assert_eq!(world.api.vm().unwrap().labels()[api::names::NODE_NAME_LABEL], "node1");
    let writes = world.api.status_writes.load(Ordering::SeqCst);
    world.settle(&mut worker).await;
    assert_eq!(world.api.status_writes.load(Ordering::SeqCst), writes, "nothing new, nothing written");
    world.delete();
    world.settle(&mut worker).await;
    assert!(world.api.vm().is_none() && world.hypervisor.domain(DOMAIN).is_none());
    assert!(lock(&world.disks.present).is_empty());
    assert_eq!(worker.looker.context.journal.vm_uids().len(), 0);
}

#[tokio::test]
async fn s4_a_look_that_the_disks_outlasted_starts_nothing() {
    let world = World::new();
    let mut worker = world.worker();
    let seen = worker.observe(Reads::default()).await;
    let (uid, expect) = (UID.to_owned(), seen.observed.wanted_abi.clone().unwrap().unwrap());
    for step in [Step::PrepareDisks { uid: uid.clone() }, Step::FetchImages { uid: uid.clone() }] {
        worker.execute_step(&seen, &step).await.unwrap();
    }
    // That its images are there is seen.
    let seen = worker.observe(Reads::default()).await;
    worker.execute_step(&seen, &Step::PrepareDisks { uid: uid.clone() }).await.unwrap();
    // What libvirt settles of a new guest is more than was asked for.
    worker.execute_step(&seen, &Step::Define { uid: uid.clone(), expect }).await.unwrap_err();
    let step = Step::JournalStart { uid, running: false };
    let begun = Instant::now();
    let seen = worker.observe(Reads { begun: begun.checked_sub(Duration::from_secs(30)), ..Reads::default() }).await;
    assert!(matches!(worker.execute_step(&seen, &step).await, Err(StepError::Changed)));
    assert!(worker.looker.context.journal.vm_uids().is_empty());
    let seen = worker.observe(Reads { begun: Some(begun), ..Reads::default() }).await;
    worker.execute_step(&seen, &step).await.unwrap();
    // The journal's disk may be slow, too.
    let late = worker.observe(Reads { begun: begun.checked_sub(Duration::from_secs(30)), ..Reads::default() }).await;
    let start = Step::Start { uid: UID.to_owned() };
    assert!(matches!(worker.execute_step(&late, &start).await, Err(StepError::Changed)));
    assert_eq!(world.starts(), 0);
    assert!(worker.looker.context.journal.vm_uids().is_empty(), "nothing was asked of libvirt");
    world.settle(&mut worker).await;
    assert_eq!((world.phase(), world.starts()), (Some(Phase::Running), 1), "and nothing is lost");
}

#[tokio::test]
async fn s6_a_start_that_libvirt_refused_before_it_began_has_not_run_and_is_made_again() {
    let world = World::new();
    *lock(&world.hypervisor.next_start) = NextStart::IsRefused;
    let mut worker = world.worker();
    assert!(world.settle(&mut worker).await.is_some(), "it is tried again");
    assert_eq!((world.phase(), world.starts()), (Some(Phase::Scheduled), 0));
    let told = world.api.vm().unwrap().status.unwrap().conditions;
    assert!(told.iter().any(|condition| condition.reason.as_deref() == Some("LibvirtRefused")), "{told:?}");
    assert!(worker.looker.context.journal.vm_uids().is_empty());
    world.settle(&mut world.worker()).await;
    assert_eq!((world.phase(), world.starts()), (Some(Phase::Running), 1));
}

#[tokio::test]
async fn i1_an_agent_may_be_killed_at_any_call_while_it_starts_a_guest() {
    let mut failed = 0;
    for calls in 0.. {
        let world = World::new();
        let finished = kill_after(&world, calls).await;
        world.settle(&mut world.worker()).await;
        // S6: between the journal and the start call nobody can tell any more whether it ran.
        let lost = (Some(Phase::Failed), 0, false);
        let running = (Some(Phase::Running), 1, true);
        let outcome = (world.phase(), world.starts(), world.is_running());
        assert!(outcome == running || outcome == lost, "killed after {calls} calls: {outcome:?}");
        failed += usize::from(outcome == lost);
        if finished {
            assert!(calls > 15, "the scenario has become too short to show anything");
            assert_eq!(failed, 1, "one point only costs a start");
            return;
        }
    }
}

#[tokio::test]
async fn i3_an_agent_may_be_killed_at_any_call_while_it_ends_a_guest() {
    for calls in 0.. {
        let world = World::new();
        world.settle(&mut world.worker()).await;
        // Held by somebody else, so that its final state can be seen.
        world.api.edit(|vm| vm.finalizers_mut().push("test/hold".to_owned()));
        world.hypervisor.set_state(DOMAIN, DomainState::ShutOff(ShutOffReason::Shutdown));
        world.delete();
        let finished = kill_after(&world, calls).await;
        world.settle(&mut world.worker()).await;
        let vm = world.api.vm().unwrap();
        assert_eq!(
            (world.phase(), vm.finalizers()),
            (Some(Phase::Succeeded), &["test/hold".to_owned()][..]),
            "killed after {calls} calls"
        );
        assert!(
            world.hypervisor.domain(DOMAIN).is_none() && lock(&world.disks.present).is_empty(),
            "killed after {calls} calls"
        );
        if finished {
            assert!(calls > 15, "the scenario has become too short to show anything");
            return;
        }
    }
}

/// Runs an agent that is killed after so many calls; whether it finished before.
async fn kill_after(world: &World, calls: usize) -> bool {
    let mut worker = world.worker();
    world.fuse.set(calls);
    let finished = tokio::select! {
        _ = world.settle(&mut worker) => true,
        () = world.fuse.blown() => false,
    };
    world.fuse.set(ENOUGH);
    finished
}

#[tokio::test]
async fn s6_a_start_past_its_deadline_is_settled_before_the_next() {
    let world = World::new();
    *lock(&world.hypervisor.next_start) = NextStart::Hangs;
    let mut worker = world.worker();
    world.settle(&mut worker).await;
    assert_eq!(world.starts(), 0);
    *lock(&world.hypervisor.next_start) = NextStart::Starts;
    // The trouble's pause over, as for a new agent: the old call may still fire, so nothing is started beside it.
    let mut worker = world.worker();
    let retry = world.settle(&mut worker).await;
    assert!(retry.is_some() && world.starts() == 0, "not while the old call is under way");
    assert_ne!(world.phase(), Some(Phase::Running));
    world.hypervisor.fire();
    let mut worker = world.worker();
    world.settle(&mut worker).await;
    assert_eq!((world.starts(), world.phase()), (1, Some(Phase::Running)), "it fired, and that is the start");
}

#[tokio::test]
async fn s5_an_abi_that_libvirt_settled_is_published_before_the_start() {
    let world = World::new();
    *lock(&world.hypervisor.settles) = Some("pc-q35-9.2");
    world.settle(&mut world.worker()).await;
    let abi = world.api.vm().unwrap().status.unwrap().abi.unwrap();
    assert_eq!((abi.machine_type.as_deref(), world.starts()), (Some("pc-q35-9.2"), 1));
}

#[tokio::test]
async fn a_write_that_finds_the_vm_changed_is_made_again_from_what_is_there() {
    let world = World::new();
    let mut worker = world.worker();
    *lock(&world.api.change_before_write) = true;
    world.settle(&mut worker).await;
    assert_eq!(world.phase(), Some(Phase::Running));
    world.hypervisor.set_state(DOMAIN, DomainState::ShutOff(ShutOffReason::Crashed));
    *lock(&world.api.change_before_write) = true;
    world.settle(&mut worker).await;
    assert_eq!(world.phase(), Some(Phase::Failed));
}

#[tokio::test]
async fn i3_an_end_is_journalled_while_the_api_is_away_and_nothing_is_undefined() {
    let world = World::new();
    let mut worker = world.worker();
    world.settle(&mut worker).await;
    *lock(&world.api.away) = true;
    world.hypervisor.set_state(DOMAIN, DomainState::ShutOff(ShutOffReason::Shutdown));
    assert!(world.settle(&mut worker).await.is_some(), "it is tried again");
    assert!(world.hypervisor.domain(DOMAIN).is_some(), "not undefined");
    // libvirtd and the agent are restarted before the API is back.
    world.hypervisor.set_state(DOMAIN, DomainState::ShutOff(ShutOffReason::Unknown));
    *lock(&world.api.away) = false;
    world.settle(&mut world.worker()).await;
    assert_eq!(world.phase(), Some(Phase::Succeeded));
    assert!(world.hypervisor.domain(DOMAIN).is_none());
}

#[tokio::test]
async fn k2_an_ended_vm_gives_its_volumes_back_once_and_keeps_its_files() {
    let world = World::new();
    world.api.edit(|vm| vm.status.get_or_insert_default().volumes = vec![VolumeStatus::default()]);
    let mut worker = world.worker();
    world.settle(&mut worker).await;
    assert!(lock(&world.disks.given_back).is_empty(), "it runs");
    world.hypervisor.set_state(DOMAIN, DomainState::ShutOff(ShutOffReason::Shutdown));
    world.settle(&mut worker).await;
    world.settle(&mut worker).await;
    assert_eq!(world.phase(), Some(Phase::Succeeded));
    assert_eq!(*lock(&world.disks.given_back), [Uuid::parse_str(UID).unwrap()]);
    assert_eq!(lock(&world.disks.present).len(), 1);
}

#[tokio::test]
async fn a_vm_is_not_let_go_while_its_disks_cannot_be_listed() {
    let world = World::new();
    let mut worker = world.worker();
    world.settle(&mut worker).await;
    world.delete();
    *lock(&world.disks.unreadable) = true;
    assert!(world.settle(&mut worker).await.is_some(), "it is tried again");
    assert!(world.hypervisor.domain(DOMAIN).is_none() && world.api.vm().is_some());
    assert_eq!((lock(&world.disks.present).len(), worker.looker.context.journal.vm_uids().len()), (1, 1));
    *lock(&world.disks.unreadable) = false;
    world.settle(&mut worker).await;
    assert!(world.api.vm().is_none() && lock(&world.disks.present).is_empty());
}

#[tokio::test]
async fn i4_an_alias_that_libvirt_did_not_explain_upgrades_no_machine_type() {
    let world = World::new();
    world.api.edit(|vm| {
        vm.spec.domain.machine = Some(Machine { type_: "q35".to_owned() });
        let abi = AbiStatus { machine_type: Some("pc-q35-9.2".to_owned()), ..AbiStatus::default() };
        vm.status.get_or_insert_default().abi = Some(abi);
    });
    *lock(&world.hypervisor.forgets_emulator) = true;
    let mut worker = world.worker();
    assert!(world.settle(&mut worker).await.is_some(), "it is tried again");
    assert!(world.hypervisor.domain(DOMAIN).is_none(), "defined with a guess");
    world.settle(&mut worker).await;
    assert!(world.is_running());
    let abi = world.api.vm().unwrap().status.unwrap().abi.unwrap();
    assert_eq!(abi.machine_type.as_deref(), Some("pc-q35-9.2"));
}

#[tokio::test]
async fn no_api_no_start() {
    let world = World::new();
    let mut worker = world.worker();
    *lock(&world.api.away) = true;
    assert!(world.settle(&mut worker).await.is_some());
    assert!(world.hypervisor.domain(DOMAIN).is_none(), "not even defined");
    *lock(&world.api.away) = false;
    world.settle(&mut worker).await;
    assert_eq!(world.phase(), Some(Phase::Running));
}

/// E4: what names a QEMU once its object and its domain are gone.
#[tokio::test]
async fn e4_a_uuid_of_the_spec_is_known_after_object_domain_and_agent_are_gone() {
    let world = World::new();
    let uuid = Uuid::from_u128(0x5d2f_1c7e_0000_4000_8000_0000_0000_00ff);
    world.api.edit(|vm| {
        let firmware = api::v1alpha1::Firmware { uuid: Some(uuid.to_string()) };
        vm.spec.domain.firmware = Some(firmware);
    });
    world.settle(&mut world.worker()).await;
    assert!(world.is_running());
    world.hypervisor.change(uuid, DomainChange::Undefine).await.unwrap();
    world.api.lose();
    let mut worker = world.worker();
    let seen = worker.observe(Reads::default()).await;
    assert!(worker.uuids_of(&seen).contains(&uuid));
}

#[tokio::test]
async fn s5_nothing_is_started_while_the_processes_shown_are_not_believed() {
    let world = World::new();
    let mut worker = world.worker();
    worker.looker.context.processes.post(Err("another host's /proc".to_owned()));
    assert!(world.settle(&mut worker).await.is_some(), "it is tried again");
    assert_eq!(world.starts(), 0);
    let conditions = world.api.vm().unwrap().status.unwrap().conditions;
    let told = conditions
        .iter()
        .any(|condition| condition.message.as_deref().is_some_and(|message| message.contains("another host's /proc")));
    assert!(told, "{conditions:?}");
    worker.looker.context.processes.post(Ok(()));
    world.settle(&mut world.worker()).await;
    assert_eq!(world.starts(), 1);
}

//! What an agent does: one effect of a step on the API server, the journal, the files or libvirt.

use std::sync::Arc;
use std::time::Duration;

use api::names;
use api::v1alpha1::{AbiStatus, OfflineVirtualMachine, Phase, VirtualMachine};

use super::super::api::{Api, ApiError};
use super::super::host::{Definition, Domain, End, Host, JournalEntry, JournalStart};
use super::super::reach::Milestone;
use super::super::world::{CallError, Fate, World};
use super::{AgentFate, LateFate, Memory, PullFate, StartFate, observe};
use crate::cluster::ObjectKey;
use crate::node::{FetchState, ImageFetch, ShutOffReason, StartAnswer, StartNote, Step, VmFacts, note_of_start};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was carried out.
    Done,
    /// The object has changed since it was read.
    Conflict,
    /// What was observed on the host does not hold any more.
    Changed,
    /// It failed.
    Failed,
}

impl Outcome {
    fn of(done: bool) -> Self {
        if done { Self::Done } else { Self::Failed }
    }
}

/// One effect.
pub(super) fn execute(world: &mut World, node: &str, key: &ObjectKey, step: &Step, fate: AgentFate) -> Outcome {
    match step {
        Step::WriteStatus(_)
        | Step::DropFinalizer { .. }
        | Step::ReleasePlacement { .. }
        | Step::SetNodeLabel { .. } => call_api(world, node, key, step, fate.call),
        // K1: every VM of a name wants one and the same disk, besides its own files.
        Step::PrepareDisks { uid } if world.hosts.get(node).is_some_and(|host| host.has_files_of_another(key, uid)) => {
            Outcome::Failed
        }
        Step::PrepareDisks { uid } => on_disk(world, node, key, |host, memory| {
            let is_fetched = |fetch: &ImageFetch| fetch.vm_uid == *uid && matches!(fetch.state, FetchState::Fetched(_));
            let has_images = host.disks.contains_key(uid) || memory.fetch.as_ref().is_some_and(is_fetched);
            if has_images {
                host.disks.insert(uid.clone(), key.clone());
                memory.ready_for = Some(uid.clone());
                memory.is_defined_from_disks = false;
                memory.fetch = None;
            } else {
                memory.fetch = Some(ImageFetch { vm_uid: uid.clone(), state: FetchState::Missing });
            }
        }),
        Step::FetchImages { uid } => {
            let since = world.wall_on(node);
            on_disk(world, node, key, |_, memory| {
                let state = match fate.pull {
                    PullFate::Good => FetchState::Fetched(vec!["pulled".to_owned()]),
                    PullFate::Slow => FetchState::Asking { since, message: "asking".to_owned() },
                };
                memory.fetch = Some(ImageFetch { vm_uid: uid.clone(), state });
            })
        }
        Step::CancelFetch => {
            world.hit(Milestone::PullCancelled);
            on_disk(world, node, key, |_, memory| memory.fetch = None)
        }
        Step::CleanDisks { uid } => {
            world.ledger.cleaning(&world.api.state, world.hosts.get(node), key, uid);
            world.hit(Milestone::FilesCleaned);
            on_disk(world, node, key, |host, memory| {
                host.disks.remove(uid);
                memory.ready_for.take_if(|ready| ready == uid);
            })
        }
        Step::JournalStart { uid, running } => on_disk(world, node, key, |host, _| {
            let run_id = host.domains.get(key).and_then(|domain| domain.run_id).filter(|_| *running);
            let boot = host.boot;
            journal(host, uid, key).start = Some(JournalStart { boot, settled: *running, run_id });
        }),
        Step::JournalEnd { uid, end } => {
            world.hit(Milestone::EndJournalled);
            on_disk(world, node, key, |host, _| journal(host, uid, key).end = Some(end.clone()))
        }
        Step::ForgetJournal { uid } => on_disk(world, node, key, |host, _| drop(host.journal.remove(uid))),
        // No VM of the simulation names a claim.
        Step::GiveVolumesBack { .. } => Outcome::Changed,
        Step::Record(_) => Outcome::Done,
        Step::Start { uid } => start(world, node, key, uid, fate),
        Step::Define { .. }
        | Step::SettleStart { .. }
        | Step::SetDeadline { .. }
        | Step::Resume { .. }
        | Step::Shutdown { .. }
        | Step::Destroy { .. }
        | Step::KillProcess { .. }
        | Step::Undefine { .. } => call_libvirt(world, node, key, step, fate),
    }
}

/// An effect on the node's own disk, which does not fail here.
fn on_disk(world: &mut World, node: &str, key: &ObjectKey, act: impl FnOnce(&mut Host, &mut Memory)) -> Outcome {
    let Some((host, agent)) = world.hosts.get_mut(node).zip(world.agents.get_mut(node)) else { return Outcome::Failed };
    act(host, agent.memory(key));
    Outcome::Done
}

fn journal<'a>(host: &'a mut Host, uid: &str, key: &ObjectKey) -> &'a mut JournalEntry {
    host.journal.entry(uid.to_owned()).or_insert_with(|| JournalEntry { key: key.clone(), ..JournalEntry::default() })
}

fn call_api(world: &mut World, node: &str, key: &ObjectKey, step: &Step, fate: Fate) -> Outcome {
    let fate = if world.hosts.get(node).is_some_and(|host| host.api_reachable) { fate } else { Fate::Lost };
    if fate != Fate::Lost {
        world.ledger.agent_writing(&world.api.state, world.hosts.get(node), key, step);
    }
    let result = world.call(fate, |api| write(api, node, key, step));
    match result {
        Ok(answer) => {
            note_written(world, node, step);
            if let Some((vm, agent)) = answer.zip(world.agents.get_mut(node)) {
                agent.memory(key).latest = Some(vm);
            }
            Outcome::Done
        }
        Err(CallError::Refused(_)) => Outcome::Conflict,
        Err(CallError::NoAnswer) => Outcome::Failed,
    }
}

/// A write, under the preconditions of its step. Answers with the VM, where it is one's.
fn write(api: &mut Api, node: &str, key: &ObjectKey, step: &Step) -> Result<Option<Arc<VirtualMachine>>, ApiError> {
    match step {
        Step::WriteStatus(write) => api
            .update::<VirtualMachine>(key, Some(&write.uid), Some(&write.resource_version), |vm| {
                vm.status = Some((*write.status).clone());
            })
            .map(Some),
        Step::DropFinalizer { uid, resource_version } => api
            .update::<VirtualMachine>(key, Some(uid), Some(resource_version), |vm| {
                vm.metadata.finalizers.iter_mut().for_each(|list| list.retain(|f| f != names::VM_FINALIZER));
            })
            .map(|_| None),
        Step::ReleasePlacement { ovm_uid, resource_version } => api
            .update::<OfflineVirtualMachine>(key, Some(ovm_uid), Some(resource_version), |ovm| {
                if let Some(placement) = ovm.status.as_mut().and_then(|status| status.placement.as_mut()) {
                    placement.released = true;
                }
            })
            .map(|_| None),
        Step::SetNodeLabel { uid } => api
            .update::<VirtualMachine>(key, Some(uid), None, |vm| {
                let labels = vm.metadata.labels.get_or_insert_default();
                labels.insert(names::NODE_NAME_LABEL.to_owned(), node.to_owned());
            })
            .map(Some),
        Step::PrepareDisks { .. }
        | Step::FetchImages { .. }
        | Step::CancelFetch
        | Step::CleanDisks { .. }
        | Step::GiveVolumesBack { .. }
        | Step::JournalStart { .. }
        | Step::JournalEnd { .. }
        | Step::ForgetJournal { .. }
        | Step::Record(_)
        | Step::Start { .. }
        | Step::Define { .. }
        | Step::SettleStart { .. }
        | Step::SetDeadline { .. }
        | Step::Resume { .. }
        | Step::Shutdown { .. }
        | Step::Destroy { .. }
        | Step::KillProcess { .. }
        | Step::Undefine { .. } => Ok(None),
    }
}

fn note_written(world: &mut World, node: &str, step: &Step) {
    if let Step::WriteStatus(write) = step
        && let Some(phase) = write.status.phase.filter(|phase| phase.is_final())
    {
        let entry = world.hosts.get(node).and_then(|host| host.journal.get(&write.uid));
        if entry.is_some_and(|entry| entry.end.is_some()) {
            world.hit(Milestone::JournalledEndReported);
        }
        let is_success = phase == Phase::Succeeded;
        world.hit(if is_success { Milestone::ReportedSucceeded } else { Milestone::ReportedFailed });
    }
    if matches!(step, Step::DropFinalizer { .. }) {
        world.hit(Milestone::AgentLetVmGo);
    }
    if matches!(step, Step::ReleasePlacement { .. }) {
        world.hit(Milestone::PlacementReleased);
    }
}

/// S5's last step. The call goes by the domain's UUID, which a successor has too: a late one starts whichever is defined by then.
fn start(world: &mut World, node: &str, key: &ObjectKey, uid: &str, fate: AgentFate) -> Outcome {
    let Some(host) = world.hosts.get_mut(node).filter(|host| host.libvirt_up) else { return Outcome::Failed };
    let is_off = |domain: &Domain| domain.definition.vm_uid == uid && domain.process.is_none();
    if !host.domains.get(key).is_some_and(is_off) {
        return Outcome::Failed;
    }
    match fate.start {
        StartFate::Hangs => {
            host.late_starts.push((key.clone(), uid.to_owned()));
            world.hit(Milestone::StartHung);
            return Outcome::Failed;
        }
        StartFate::Fails => {
            if let Some(domain) = host.domains.get_mut(key) {
                domain.reason = ShutOffReason::Failed;
            }
            note_start(host, uid, key, StartAnswer::Refused, None);
            world.hit(Milestone::StartFailed);
            return Outcome::Failed;
        }
        StartFate::Good | StartFate::AgentDies => {}
    }
    host.start(key, !fate.deaf);
    if fate.start == StartFate::AgentDies {
        if let Some(agent) = world.agents.get_mut(node) {
            agent.kill();
        }
        world.hit(Milestone::AgentDiedInStart);
        return Outcome::Failed;
    }
    let run_id = host.domains.get(key).and_then(|domain| domain.run_id);
    note_start(host, uid, key, StartAnswer::Started, run_id);
    world.hit(Milestone::GuestStarted);
    Outcome::Done
}

fn note_start(host: &mut Host, uid: &str, key: &ObjectKey, answer: StartAnswer, run_id: Option<u32>) {
    match note_of_start(answer, run_id.is_some()) {
        StartNote::Settle => {
            if let Some(start) = journal(host, uid, key).start.as_mut() {
                start.settled = true;
                start.run_id = run_id;
            }
        }
        StartNote::Forget => {
            host.journal.remove(uid);
        }
        StartNote::Keep => {}
    }
}

fn call_libvirt(world: &mut World, node: &str, key: &ObjectKey, step: &Step, fate: AgentFate) -> Outcome {
    let wall = world.wall_on(node);
    let grace = observe::cached(world, node, key).map(|vm: VmFacts| vm.grace).unwrap_or_default();
    let settled =
        if let Step::Define { uid, expect } = step { settle_definition(world, node, key, uid, expect) } else { None };
    let Some((host, agent)) = world.hosts.get_mut(node).zip(world.agents.get_mut(node)) else { return Outcome::Failed };
    if !host.libvirt_up {
        return Outcome::Failed;
    }
    world.ledger.acting(&world.api.state, node, key, step);
    match step {
        Step::Define { uid, expect } => {
            let Some(settled) = settled else { return Outcome::Changed };
            let is_expected = settled == *expect;
            agent.memory(key).is_defined_from_disks = true;
            match define(host, key, uid, grace, settled) {
                false => Outcome::Failed,
                true if is_expected => Outcome::Done,
                true => Outcome::Changed,
            }
        }
        Step::SettleStart { uid } => {
            world.reach.hit(Milestone::StartSettled);
            Outcome::of(settle(host, key, uid, fate.late))
        }
        Step::SetDeadline { uid, deadline } => match domain_of(host, key, uid) {
            Some(domain) => {
                domain.definition.deadline = Some(*deadline);
                Outcome::Done
            }
            None => Outcome::Changed,
        },
        // No guest of the simulation is paused.
        Step::Resume { .. } => Outcome::Changed,
        Step::Shutdown { uid } => {
            agent.memory(key).last_signal = Some(wall);
            let Some(pid) = domain_of(host, key, uid).and_then(|domain| domain.process) else {
                return Outcome::Changed;
            };
            if let Some(process) = host.processes.get_mut(&pid) {
                process.shutting_down |= process.obeys_acpi && !fate.press_dropped;
            }
            world.reach.hit(Milestone::PowerButtonPressed);
            Outcome::Done
        }
        Step::Destroy { uid } => {
            if let Some(pid) = domain_of(host, key, uid).and_then(|domain| domain.process) {
                host.end(pid, End::Destroyed);
                world.reach.hit(Milestone::GraceExceeded);
            }
            Outcome::Done
        }
        Step::KillProcess { pid } => {
            host.end(*pid, End::Killed);
            world.reach.hit(Milestone::ProcessKilled);
            Outcome::Done
        }
        Step::Undefine { uid } => {
            let is_active = domain_of(host, key, uid).is_some_and(|domain| domain.process.is_some());
            if !is_active && domain_of(host, key, uid).is_some() {
                host.domains.remove(key);
            }
            Outcome::of(!is_active)
        }
        Step::WriteStatus(_)
        | Step::DropFinalizer { .. }
        | Step::ReleasePlacement { .. }
        | Step::SetNodeLabel { .. }
        | Step::PrepareDisks { .. }
        | Step::FetchImages { .. }
        | Step::CancelFetch
        | Step::CleanDisks { .. }
        | Step::GiveVolumesBack { .. }
        | Step::JournalStart { .. }
        | Step::JournalEnd { .. }
        | Step::ForgetJournal { .. }
        | Step::Record(_)
        | Step::Start { .. } => Outcome::Done,
    }
}

fn domain_of<'a>(host: &'a mut Host, key: &ObjectKey, uid: &str) -> Option<&'a mut Domain> {
    host.domains.get_mut(key).filter(|domain| domain.definition.vm_uid == uid)
}

/// What libvirt settles for a VM that its agent renders from `bound`.
fn settle_definition(world: &World, node: &str, key: &ObjectKey, uid: &str, bound: &AbiStatus) -> Option<AbiStatus> {
    let seen = world.agents.get(node)?.seen;
    let is_it = |vm: &&Arc<VirtualMachine>| vm.metadata.uid.as_deref() == Some(uid);
    let (newest, cached) = (world.api.newest(), world.api.at(seen));
    let found = cached.vms.get(key).filter(is_it).or_else(|| newest.vms.get(key).filter(is_it))?;
    // A spec never changes once its VM is bound.
    Some(observe::settle_abi(key, found, bound))
}

/// False: the name is a domain's of another VM, over which nothing is defined.
fn define(host: &mut Host, key: &ObjectKey, uid: &str, grace: Duration, abi: AbiStatus) -> bool {
    let firmware_uuid = observe::abi(key).firmware_uuid.unwrap_or_default();
    let definition = Definition { vm_uid: uid.to_owned(), grace, deadline: None, firmware_uuid, abi };
    match host.domains.get_mut(key) {
        Some(domain) if domain.definition.vm_uid != uid => return false,
        Some(domain) => domain.definition = definition,
        None => {
            let reason = ShutOffReason::Unknown;
            host.domains.insert(key.clone(), Domain { definition, process: None, run_id: None, reason });
        }
    }
    true
}

/// S6: destroys what runs, and waits for a call that is still under way. False: that has not come to its end.
fn settle(host: &mut Host, key: &ObjectKey, uid: &str, late: LateFate) -> bool {
    let is_late = host.late_starts.iter().any(|(name, _)| name == key);
    match late {
        LateFate::StillHangs if is_late => return false,
        LateFate::FiresFirst if is_late => drop(host.start(key, true)),
        LateFate::StillHangs | LateFate::FiresFirst | LateFate::Never => {}
    }
    host.late_starts.retain(|(name, _)| name != key);
    if let Some(pid) = domain_of(host, key, uid).and_then(|domain| domain.process) {
        host.end(pid, End::Destroyed);
    }
    if let Some(start) = journal(host, uid, key).start.as_mut() {
        start.settled = true;
    }
    true
}

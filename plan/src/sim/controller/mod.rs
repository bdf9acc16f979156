//! A controller process: caches of any age, one uncached read or one write at a time. Does for one key what `controller/` does.

mod observe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::abi::record_name;
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::api::{Propagation, Snapshot};
use super::reach::Milestone;
use super::words::ClusterStep;
use super::world::{CallError, Fate, World};
use crate::cluster::{
    AbiRevision, LeaseFact, Look, MetadataEdit, Next, ObjectKey, Observed, ObservedHome, ReadOrder, Step, StepFailure,
    plan,
};
use observe::{home, home_lease, lease_fact, observe_cached, observed};

/// One controller process.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// resourceVersion up to which the watches have delivered.
    pub(super) seen: u64,
    pub(super) leases: BTreeMap<String, LeaseFact>,
    failures: BTreeMap<ObjectKey, StepFailure>,
    /// What it is in the middle of, by key.
    tasks: BTreeMap<ObjectKey, Task>,
    started: Duration,
    /// By key: when there was nothing to do, as a number that grows with everything that happens.
    idle_at: BTreeMap<ObjectKey, u64>,
}

/// Where a reconcile is.
#[derive(Clone, Debug)]
enum Task {
    /// Reading, in the order of the look.
    Looking { look: Look, reads: Reads },
    /// Listing the records, with everything else as it was observed.
    Listing { observed: Box<Observed> },
    /// About to write.
    Acting { observed: Box<Observed>, step: Box<Step> },
}

/// The answer to a GET: the object, or that there is none.
#[derive(Clone, Debug)]
struct Answer<T>(Option<Arc<T>>);

/// What has been read of a look so far.
#[derive(Clone, Debug, Default)]
struct Reads {
    first_vm: Option<Answer<VirtualMachine>>,
    ovm: Option<Answer<OfflineVirtualMachine>>,
    vm: Option<Answer<VirtualMachine>>,
    leases: BTreeMap<String, LeaseFact>,
    homes: BTreeMap<String, ObservedHome>,
    revisions: Option<Vec<AbiRevision>>,
}

impl Controller {
    /// A process that has just started: its first list shows the objects as of `seen`.
    pub(super) fn new(now: Duration, seen: u64) -> Self {
        Self {
            seen,
            leases: BTreeMap::new(),
            failures: BTreeMap::new(),
            tasks: BTreeMap::new(),
            started: now,
            idle_at: BTreeMap::new(),
        }
    }

    /// It does not lead any more: what it was in the middle of ends here.
    pub(super) fn abandon(&mut self) {
        self.tasks.clear();
        self.failures.clear();
    }

    /// What it is in the middle of something for.
    pub(super) fn busy_with(&self) -> impl Iterator<Item = &ObjectKey> {
        self.tasks.keys()
    }

    /// Whether it is in the middle of something for `key`.
    pub(super) fn is_busy(&self, key: &ObjectKey) -> bool {
        self.tasks.contains_key(key)
    }

    /// What it is about to do for `key`.
    pub(super) fn next_step(&self, key: &ObjectKey) -> Option<&Step> {
        match self.tasks.get(key)? {
            Task::Acting { step, .. } => Some(step),
            Task::Looking { .. } | Task::Listing { .. } => None,
        }
    }

    /// Every write that it is about to make.
    pub(super) fn next_steps(&self) -> impl Iterator<Item = &Step> {
        self.tasks.keys().filter_map(|key| self.next_step(key))
    }

    /// Whether it found nothing to do for `key`, and nothing has happened since.
    pub(super) fn is_idle(&self, key: &ObjectKey, activity: u64) -> bool {
        !self.is_busy(key) && self.idle_at.get(key) == Some(&activity)
    }

    /// The watch delivers everything up to `version`.
    pub(super) fn watch(&mut self, view: &Snapshot, now: Duration) {
        self.seen = self.seen.max(view.version);
        let names: Vec<String> = view.leases.keys().chain(self.leases.keys()).cloned().collect();
        for name in names {
            let version = view.leases.get(&name).map(u64::to_string);
            let fact = LeaseFact::seen(self.leases.get(&name), version.as_deref(), now);
            self.leases.insert(name, fact);
        }
    }
}

/// One step of controller `index` for `key`.
pub(super) fn step(world: &mut World, index: usize, key: &ObjectKey, fate: Fate) {
    let Some(controller) = world.controllers.get_mut(index) else { return };
    match controller.tasks.remove(key) {
        None => {
            let observed = observe_cached(world, index, key);
            go_on(world, index, key, observed);
        }
        Some(Task::Looking { look, reads }) => read_on(world, index, key, look, reads, fate),
        Some(Task::Listing { mut observed }) if fate == Fate::Good => {
            observed.revisions = Some(records(world, key));
            go_on(world, index, key, *observed);
        }
        Some(Task::Listing { .. }) => {} // a read that fails ends the pass
        Some(Task::Acting { observed, step }) => act(world, index, key, *observed, &step, fate),
    }
}

fn go_on(world: &mut World, index: usize, key: &ObjectKey, observed: Observed) {
    let made = plan(world.clock(), &observed);
    if made.report.0.iter().any(|note| note.starts_with("the guest keeps failing")) {
        world.hit(Milestone::StartBackedOff);
    }
    let task = match made.next {
        Next::Rest => {
            let activity = world.activity();
            if let Some(controller) = world.controllers.get_mut(index) {
                controller.idle_at.insert(key.clone(), activity);
            }
            return;
        }
        Next::Look(look) if look.keep => Task::Listing { observed: Box::new(observed) },
        Next::Look(look) => Task::Looking { look, reads: Reads::default() },
        Next::Act(step) => {
            world.ledger.planned(&world.api.state, &observed, &step);
            world.note(format_args!("c{index} {key}: {}", made.report));
            Task::Acting { observed: Box::new(observed), step: Box::new(step) }
        }
    };
    if let Some(controller) = world.controllers.get_mut(index) {
        controller.tasks.insert(key.clone(), task);
    }
}

/// One read of a look; after the last, the plan.
fn read_on(world: &mut World, index: usize, key: &ObjectKey, look: Look, mut reads: Reads, fate: Fate) {
    if fate != Fate::Good {
        return; // a read that fails ends the pass
    }
    let lies = world.lies;
    let seen = world.controllers.get(index).map_or(0, |controller| controller.seen);
    let (live, cache) = (world.api.newest(), world.api.at(seen));
    let ovms = if lies.ovm_from_cache { &cache.ovms } else { &live.ovms };
    let homes = if lies.homes_from_cache { &cache } else { &live };
    if reads.first_vm.is_none() {
        reads.first_vm = Some(Answer(live.vms.get(key).cloned()));
    } else if reads.ovm.is_none() {
        reads.ovm = Some(Answer(ovms.get(key).cloned()));
        reads.vm = reads.first_vm.clone().filter(|_| lies.vm_read_once);
    } else if reads.vm.is_none() {
        let again = Answer(live.vms.get(key).cloned());
        if reads.first_vm.as_ref().map(version) == Some(version(&again)) {
            reads.vm = Some(again);
        } else {
            reads = Reads { first_vm: Some(again), ..Reads::default() };
        }
    } else if let Some(name) = look.nodes.iter().find(|name| !reads.leases.contains_key(*name)) {
        let version = homes.leases.get(name).map(u64::to_string);
        let before = lease_fact(world, index, name);
        let fact = LeaseFact::seen(Some(&before), version.as_deref(), world.now);
        if let Some(controller) = world.controllers.get_mut(index) {
            controller.leases.insert(name.clone(), fact.clone());
        }
        let is_shown = !lies.leases_expired && !lies.leases_look_live;
        reads.leases.insert(name.clone(), if is_shown { fact } else { home_lease(world, index, name) });
    } else if let Some(name) = look.nodes.iter().find(|name| !reads.homes.contains_key(*name)) {
        let lease = reads.leases.get(name).cloned().unwrap_or_default();
        reads.homes.insert(name.clone(), home(world, homes.nodes.get(name), lease, true));
    } else if look.revisions && reads.revisions.is_none() {
        reads.revisions = Some(records(world, key));
    }
    let complete = reads.vm.is_some()
        && look.nodes.iter().all(|name| reads.homes.contains_key(name))
        && (!look.revisions || reads.revisions.is_some());
    if !complete {
        if let Some(controller) = world.controllers.get_mut(index) {
            controller.tasks.insert(key.clone(), Task::Looking { look, reads });
        }
        return;
    }
    let view = cache;
    let (ovm, vm) = (reads.ovm.and_then(|ovm| ovm.0), reads.vm.and_then(|vm| vm.0));
    let mut observed = observed(world, index, key, &view, ovm, vm, ReadOrder::UNCACHED, &reads.homes);
    observed.revisions = reads.revisions;
    go_on(world, index, key, observed);
}

fn records(world: &World, key: &ObjectKey) -> Vec<AbiRevision> {
    if world.lies.records_hidden { Vec::new() } else { world.api.newest().records_of(key) }
}

fn version(vm: &Answer<VirtualMachine>) -> Option<(Option<String>, Option<String>)> {
    vm.0.as_ref().map(|vm| (vm.metadata.uid.clone(), vm.metadata.resource_version.clone()))
}

/// The write; then its answer is folded in, and the planner asked again.
fn act(world: &mut World, index: usize, key: &ObjectKey, mut observed: Observed, step: &Step, fate: Fate) {
    let operation = step.operation();
    world.ledger.writing(&world.api.state, key, step, fate);
    if world.controllers.iter().enumerate().any(|(other, one)| other != index && one.is_busy(key)) {
        world.hit(Milestone::BothControllersOnOneKey);
    }
    let result = write(world, key, step, fate);
    let text = match &result {
        Ok(_) => "done",
        Err(CallError::Refused(_)) => "conflict",
        Err(CallError::NoAnswer) => "no answer",
    };
    world.note(format_args!("c{index} {key}:   {} -> {text}", ClusterStep(step)));
    if result.is_ok() {
        for milestone in super::reach::of_write(&observed, step) {
            world.reach.hit(milestone);
        }
    }
    let generation = observed.ovm.as_ref().and_then(|ovm| ovm.metadata.generation);
    let now = world.now;
    let Some(controller) = world.controllers.get_mut(index) else { return };
    match result {
        Ok(Written::Vm(vm)) => {
            controller.failures.remove(key);
            observed.vm_written(vm);
        }
        Ok(Written::Ovm(ovm)) => observed.ovm_written(ovm),
        Ok(Written::Revision(revision)) => {
            if let Some(revision) = AbiRevision::from_object(&key.name, &revision) {
                observed.revision_written(revision);
            }
        }
        Ok(Written::RevisionDeleted(name)) => observed.revision_deleted(&name),
        Err(CallError::Refused(_)) => return, // somebody was faster: look again when the watch has it
        Err(CallError::NoAnswer) => {
            if let Some(operation) = operation {
                let attempts = controller.failures.get(key).map_or(0, |failure| failure.attempts) + 1;
                let error = "no answer".to_owned();
                controller
                    .failures
                    .insert(key.clone(), StepFailure { operation, error, attempts, at: now, generation });
            }
            return;
        }
    }
    observed.failure = world.controllers.get(index).and_then(|controller| controller.failures.get(key)).cloned();
    go_on(world, index, key, observed);
}

/// The answer to a write: the object as it is now, none if it is gone.
enum Written {
    Vm(Option<Arc<VirtualMachine>>),
    Ovm(Option<Arc<OfflineVirtualMachine>>),
    Revision(Arc<ControllerRevision>),
    RevisionDeleted(String),
}

fn write(world: &mut World, key: &ObjectKey, step: &Step, fate: Fate) -> Result<Written, CallError> {
    let any_number = world.lies.records_get_any_number;
    world.call(fate, |api| {
        let named = |name: &str| ObjectKey { namespace: key.namespace.clone(), name: name.to_owned() };
        let vm = |answer: Arc<VirtualMachine>| Written::Vm(Some(answer));
        match step {
            Step::CreateVm(object) => api.create(key, (**object).clone()).map(vm),
            Step::DeleteVm(at) | Step::EvictVm { at, .. } => api
                .delete::<VirtualMachine>(key, Some(&at.uid), Some(&at.resource_version), Propagation::Background)
                .map(|()| Written::Vm(api.state.vms.get(key).cloned())),
            Step::EditVm(at, edit) => api
                .update::<VirtualMachine>(key, Some(&at.uid), Some(&at.resource_version), |object| {
                    apply(&mut object.metadata, edit);
                })
                .map(|answer| Written::Vm(still_there(&api.state.vms, key, answer))),
            Step::EditOvm(at, edit) => api
                .update::<OfflineVirtualMachine>(key, Some(&at.uid), Some(&at.resource_version), |object| {
                    apply(&mut object.metadata, edit);
                })
                .map(|answer| Written::Ovm(still_there(&api.state.ovms, key, answer))),
            Step::WriteVmStatus { at, status, .. } => api
                .update::<VirtualMachine>(key, Some(&at.uid), Some(&at.resource_version), |object| {
                    object.status = Some((**status).clone());
                })
                .map(vm),
            Step::WriteOvmStatus { at, status, .. } => api
                .update::<OfflineVirtualMachine>(key, Some(&at.uid), Some(&at.resource_version), |object| {
                    object.status = Some((**status).clone());
                })
                .map(|answer| Written::Ovm(Some(answer))),
            Step::CreateRevision(revision) => {
                let mut revision = (**revision).clone();
                if any_number {
                    let last = api.state.records_of(key).last().map_or(0, |one| one.revision);
                    revision.revision = revision.revision.max(last + 1);
                }
                let name = record_name(&key.name, revision.revision);
                api.create(&named(&name), revision).map(Written::Revision)
            }
            Step::EditRevision { name, at, owners } => api
                .update::<ControllerRevision>(&named(name), Some(&at.uid), Some(&at.resource_version), |revision| {
                    revision.metadata.owner_references = Some(owners.clone());
                })
                .map(Written::Revision),
            Step::DeleteRevision { name, at } => api
                .delete::<ControllerRevision>(
                    &named(name),
                    Some(&at.uid),
                    Some(&at.resource_version),
                    Propagation::Background,
                )
                .map(|()| Written::RevisionDeleted(name.clone())),
        }
    })
}

fn still_there<T>(table: &BTreeMap<ObjectKey, Arc<T>>, key: &ObjectKey, answer: Arc<T>) -> Option<Arc<T>> {
    table.contains_key(key).then_some(answer)
}

fn apply(meta: &mut ObjectMeta, edit: &MetadataEdit) {
    match edit {
        MetadataEdit::Finalizers(finalizers) => meta.finalizers = Some(finalizers.clone()),
        MetadataEdit::OwnerReferences(owners) => meta.owner_references = Some(owners.clone()),
        MetadataEdit::Annotation { key, value } => {
            meta.annotations.get_or_insert_default().insert((*key).to_owned(), value.clone());
        }
    }
}

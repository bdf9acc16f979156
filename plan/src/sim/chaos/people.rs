//! What users do, with every right they have.

use api::names;
use api::v1alpha1::{OfflineVirtualMachine, Phase, VirtualMachine};

use super::super::api::{ApiError, NodeObject, Propagation};
use super::super::random::Random;
use super::super::reach::Milestone;
use super::super::world::{World, bare_vm, key, ovm, set_disks};
use super::{Mischief, Weather, pick_node};
use crate::cluster::{ObjectKey, Step};

/// A finalizer of somebody else.
const FOREIGN_FINALIZER: &str = "example.com/backup";

/// Creates the OVM or, for a name that says so, the VM.
pub(super) fn create(world: &mut World, key: &ObjectKey, random: &mut Random) {
    let grace = if random.once_in(2) { 0 } else { 20 };
    // Whoever makes an OVM of that name again takes the VM over, with all that this means.
    if let Some(uid) = world.api.state.vms.get(key).and_then(|vm| vm.metadata.uid.as_ref()) {
        world.ledger.spared.remove(uid);
    }
    let done = if key.name.starts_with("bare") {
        world.api.create(key, bare_vm(&key.name, grace)).is_ok()
    } else {
        world.api.create(key, ovm(&key.name, !random.once_in(4), grace)).is_ok()
    };
    if done {
        world.note(format_args!("user: create {key}"));
    }
}

/// A user does something.
pub(super) fn user_acts(world: &mut World, random: &mut Random, weather: &Weather) {
    let Some(key) = random.pick(&weather.guests).cloned() else { return };
    let is_over = weather.mischief == Mischief::Loss && world.reach.count(Milestone::ObjectsLost) > 0;
    let (what, done) = match random.below(14) {
        0..4 => ("flips running", flip_running(world, &key)),
        4 => ("edits the template", edit_template(world, &key, random)),
        5 | 6 => ("deletes the VM", delete_vm(world, &key)),
        7 => ("deletes the OVM", delete_ovm(world, &key, random, weather.mischief)),
        8 | 9 if !is_over && !world.api.state.ovms.contains_key(&key) => {
            create(world, &key, random);
            return;
        }
        10 if weather.mischief == Mischief::Strip => ("strips the VM's finalizer", strip(world, &key)),
        11 => ("adds or removes a foreign finalizer", toggle_foreign_finalizer(world, &key)),
        12 => {
            let node = pick_node(world, random);
            if world.api.state.nodes.contains_key(&node) {
                world.api.change_node(&node, |node| node.cordoned = !node.cordoned);
            }
            ("cordons a node", Ok(()))
        }
        13 if taint(world, random) => ("taints a node, or takes that back", Ok(())),
        _ => return,
    };
    if done.is_ok() {
        world.note(format_args!("user: {what} {key}"));
    }
}

/// A node gets a NoExecute taint, of an administrator or of Kubernetes; or the one that has some loses them. Whether anything was done.
fn taint(world: &mut World, random: &mut Random) -> bool {
    let is_tainted = |node: &NodeObject| node.tainted || node.kubelet_silent;
    let tainted = world.api.state.nodes.iter().find(|(_, node)| is_tainted(node)).map(|(name, _)| name.clone());
    if let Some(name) = tainted {
        world.api.change_node(&name, |node| (node.tainted, node.kubelet_silent) = (false, false));
        return true;
    }
    let (name, is_kubelet) = (pick_node(world, random), random.once_in(3));
    if !world.api.state.nodes.contains_key(&name) || !random.once_in(3) {
        return false;
    }
    world.api.change_node(&name, |node| (node.tainted, node.kubelet_silent) = (!is_kubelet, is_kubelet));
    true
}

fn flip_running(world: &mut World, key: &ObjectKey) -> Result<(), ApiError> {
    change_spec(world, key, |ovm| ovm.spec.running = !ovm.spec.running)
}

fn edit_template(world: &mut World, key: &ObjectKey, random: &mut Random) -> Result<(), ApiError> {
    let grace = i64::try_from(random.below(30)).unwrap_or(0);
    // Some of four disks, in one order or the other.
    let kept = random.below(16);
    let mut disks: Vec<&str> = ["w", "x", "y", "z"]
        .into_iter()
        .enumerate()
        .filter(|(at, _)| kept & (1 << at) != 0)
        .map(|(_, name)| name)
        .collect();
    if random.once_in(2) {
        disks.reverse();
    }
    change_spec(world, key, |ovm| {
        ovm.spec.template.spec.termination_grace_period_seconds = Some(grace);
        set_disks(&mut ovm.spec.template.spec, &disks);
    })
}

fn change_spec(
    world: &mut World,
    key: &ObjectKey,
    change: impl FnOnce(&mut OfflineVirtualMachine),
) -> Result<(), ApiError> {
    let changed = world.api.update::<OfflineVirtualMachine>(key, None, None, |ovm| {
        change(ovm);
        ovm.metadata.generation = ovm.metadata.generation.map(|generation| generation + 1);
    });
    changed.map(drop)
}

fn delete_vm(world: &mut World, key: &ObjectKey) -> Result<(), ApiError> {
    world.api.delete::<VirtualMachine>(key, None, None, Propagation::Background)
}

fn delete_ovm(world: &mut World, key: &ObjectKey, random: &mut Random, mischief: Mischief) -> Result<(), ApiError> {
    match (random.below(3), mischief) {
        (0 | 2, Mischief::Orphan) => {
            spare(world, key);
            world.hit(Milestone::OrphanDelete);
            world.api.delete::<OfflineVirtualMachine>(key, None, None, Propagation::Orphan)
        }
        (1, _) => {
            world.hit(Milestone::ForegroundDelete);
            world.api.delete::<OfflineVirtualMachine>(key, None, None, Propagation::Foreground)
        }
        _ => world.api.delete::<OfflineVirtualMachine>(key, None, None, Propagation::Background),
    }
}

/// Whoever orphans a running guest's VM wants it to run on. A delete that was decided before that may still land.
fn spare(world: &mut World, key: &ObjectKey) {
    let state = &world.api.state;
    let Some((ovm, vm)) = state.ovms.get(key).zip(state.vms.get(key)) else { return };
    let owned =
        vm.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == ovm.metadata.uid.as_ref());
    let runs = vm.status.as_ref().and_then(|status| status.phase) == Some(Phase::Running);
    let doomed = vm.metadata.deletion_timestamp.is_some() || ovm.metadata.deletion_timestamp.is_some();
    let steps = world.controllers.iter().filter_map(|controller| controller.next_step(key));
    let in_flight = steps.into_iter().any(|step| matches!(step, Step::DeleteVm(_) | Step::EvictVm { .. }));
    if owned && runs && ovm.spec.running && !doomed && !in_flight {
        world.ledger.spared.extend(vm.metadata.uid.clone());
    }
}

/// Somebody takes our finalizer off a VM that has an OVM.
pub(in crate::sim) fn strip(world: &mut World, key: &ObjectKey) -> Result<(), ApiError> {
    let vm = world.api.state.vms.get(key).ok_or(ApiError::NotFound)?;
    if vm.metadata.owner_references.iter().flatten().next().is_none() {
        return Err(ApiError::NotFound);
    }
    world.ledger.stripped.extend(vm.metadata.uid.clone());
    world.ledger.places.remove(key);
    world.hit(Milestone::Stripped);
    let stripped = world.api.update::<VirtualMachine>(key, None, None, |vm| {
        vm.metadata.finalizers.iter_mut().for_each(|list| list.retain(|f| f != names::VM_FINALIZER));
    });
    stripped.map(drop)
}

fn toggle_foreign_finalizer(world: &mut World, key: &ObjectKey) -> Result<(), ApiError> {
    let vm = world.api.state.vms.get(key).ok_or(ApiError::NotFound)?;
    let present = vm.metadata.finalizers.iter().flatten().any(|f| f == FOREIGN_FINALIZER);
    if !present && vm.metadata.deletion_timestamp.is_some() {
        return Err(ApiError::Conflict); // the API server takes no new finalizer on an object that is being deleted
    }
    world.hit(Milestone::ForeignFinalizer);
    set_foreign_finalizer(world, key, !present)
}

fn set_foreign_finalizer(world: &mut World, key: &ObjectKey, present: bool) -> Result<(), ApiError> {
    let changed = world.api.update::<VirtualMachine>(key, None, None, |vm| {
        let all = vm.metadata.finalizers.get_or_insert_default();
        all.retain(|finalizer| finalizer != FOREIGN_FINALIZER);
        all.extend(present.then(|| FOREIGN_FINALIZER.to_owned()));
    });
    changed.map(drop)
}

/// Everybody takes their finalizers back.
pub(super) fn drop_foreign_finalizers(world: &mut World) {
    let keys: Vec<ObjectKey> = world.api.state.vms.keys().cloned().collect();
    for name in keys {
        let _ = set_foreign_finalizer(world, &key(&name.name), false);
    }
}

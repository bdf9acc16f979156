//! The invariants that can be read off the world as it stands, and off each change of it.
//!
//! Exempt is only what the protocol documents: a guest on a node that was fenced although it lives (F3), a VM whose finalizer somebody took by
//! hand (I2), and the final state that a fence writes (`NodeFenced`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v1alpha1::{OfflineVirtualMachine, Phase, Placement, VirtualMachine};

use super::agent::Agent;
use super::api::Snapshot;
use super::controller::Controller;
use super::host::End;
use super::world::World;
use crate::cluster::{self, LEASE_EXPIRY, MetadataEdit, ObjectKey, bound_node};
use crate::node::ShutOffReason;

/// Checks everything that happened since the last check.
///
/// # Errors
/// The first violation of the run.
pub(super) fn check(world: &mut World) -> Result<(), String> {
    let known = world.ledger.violations().len();
    note_wrong_fences(world);
    at_most_one(world);
    abi_stays(world);
    runs_once(world);
    let history: Vec<Arc<Snapshot>> = world.api.since(world.ledger.checked).to_vec();
    for (before, after) in history.iter().zip(history.iter().skip(1)) {
        vms_changed(world, before, after);
        ovms_changed(world, before, after);
    }
    world.ledger.checked = world.api.version();
    let new: Vec<String> = world.ledger.violations().get(known..).unwrap_or_default().to_vec();
    for violation in &new {
        world.note(format_args!("!!! {violation}"));
    }
    world.ledger.violations().first().cloned().map_or(Ok(()), Err)
}

/// F3: a node that looks fenced while a guest runs there, or is about to. It has caught up once its agent is back, none of its guests is anybody's predecessor, and no
/// fencing write is under way.
fn note_wrong_fences(world: &mut World) {
    for (node, host) in &world.hosts {
        let in_service = world.api.state.nodes.get(node).is_some_and(|node| !node.out_of_service);
        let connected = world.is_connected(node);
        let renewed = world.api.renewed.get(node).copied().unwrap_or_default();
        let silent = world.now.saturating_sub(renewed) >= LEASE_EXPIRY;
        let starts = world.agents.get(node).is_some_and(Agent::is_starting) || !host.late_starts.is_empty();
        let runs = !host.processes.is_empty() || starts;
        if host.powered && !in_service && silent && runs {
            world.ledger.wrongly_fenced.insert(node.clone());
        } else if world.ledger.wrongly_fenced.contains(node) && connected && in_service {
            let is_current = |key: &ObjectKey, uid: &str| {
                let vm = world.api.state.vms.get(key).filter(|vm| vm.metadata.uid.as_deref() == Some(uid));
                vm.is_some_and(|vm| bound_node(vm) == Some(node) && !phase(vm).is_final())
            };
            let all_current = host.processes.values().all(|process| is_current(&process.key, &process.vm_uid));
            let is_fencing = world.controllers.iter().flat_map(Controller::next_steps).any(is_fence);
            if all_current && !is_fencing {
                world.ledger.wrongly_fenced.remove(node);
            }
        }
    }
}

/// Whether a step may be one of a fence.
fn is_fence(step: &cluster::Step) -> bool {
    match step {
        cluster::Step::WriteVmStatus { status, .. } => status.phase == Some(Phase::Failed),
        cluster::Step::WriteOvmStatus { status, .. } => status.placement.as_ref().is_some_and(|place| place.released),
        cluster::Step::EditVm(_, edit) | cluster::Step::EditOvm(_, edit) => matches!(edit, MetadataEdit::Finalizers(_)),
        cluster::Step::CreateVm(_)
        | cluster::Step::DeleteVm(_)
        | cluster::Step::EvictVm { .. }
        | cluster::Step::CreateRevision(_)
        | cluster::Step::EditRevision { .. }
        | cluster::Step::DeleteRevision { .. } => false,
    }
}

/// I1.
fn at_most_one(world: &mut World) {
    let mut seen: BTreeMap<&ObjectKey, (&str, &str)> = BTreeMap::new();
    let mut found = None;
    for (node, host) in world.hosts.iter().filter(|(node, _)| !world.ledger.wrongly_fenced.contains(*node)) {
        for process in host.processes.values() {
            if let Some((other, uid)) = seen.insert(&process.key, (node, &process.vm_uid)) {
                let (key, own) = (&process.key, &process.vm_uid);
                found = Some(format!("I1: two guests of {key} run: {uid} on {other}, {own} on {node}"));
            }
        }
    }
    if let Some(violation) = found {
        world.ledger.violated(violation);
    }
}

/// I4: of a guest that an OVM has, every disk that was there at the last start is where it was then, unless the user has taken it off in between.
fn abi_stays(world: &mut World) {
    forget_disks_taken_off(world);
    let new: Vec<_> = world.hosts.values().flat_map(|host| host.processes.values()).collect();
    let new = new.into_iter().filter(|process| !world.ledger.runs.contains_key(&process.vm_uid));
    let mut found = None;
    for process in new {
        let is_owned = world.api.state.vms.get(&process.key).is_some_and(|vm| {
            let owner = vm.metadata.owner_references.iter().flatten().next().map(|owner| &owner.uid);
            vm.metadata.uid.as_ref() == Some(&process.vm_uid) && owner.is_some()
        });
        if !is_owned {
            continue;
        }
        let places: BTreeMap<_, _> =
            process.abi.devices.iter().map(|device| (device.alias.clone(), device.address.clone())).collect();
        let before = world.ledger.places.insert(process.key.clone(), places.clone()).unwrap_or_default();
        let moved = before.iter().find(|(alias, at)| places.get(*alias).is_some_and(|now| now != *at));
        if let Some((alias, at)) = moved {
            let now = places.get(alias);
            found = Some(format!("I4: {} {}: {alias} moved from {at:?} to {now:?}", process.key, process.vm_uid));
        }
    }
    if let Some(violation) = found {
        world.ledger.violated(violation);
    }
}

/// A guest without the disk was defined and published, though perhaps it never ran: the disk's place is free from then on. What a VM was bound with still has it.
fn forget_disks_taken_off(world: &mut World) {
    let World { api, ledger, .. } = world;
    for (key, places) in &mut ledger.places {
        let Some(vm) = api.state.vms.get(key) else { continue };
        let Some(abi) = vm.status.as_ref().and_then(|status| status.abi.as_ref()) else { continue };
        let wanted = |alias: &str| {
            vm.spec.domain.devices.disks.iter().flatten().any(|disk| alias == format!("ua-disk-{}", disk.name))
        };
        places.retain(|alias, _| wanted(alias) || abi.devices.iter().any(|device| device.alias == *alias));
    }
}

/// An ended VM is never started again: each VM has one run.
fn runs_once(world: &mut World) {
    let mut found = None;
    for (node, host) in &world.hosts {
        for (pid, process) in &host.processes {
            let run = (node.clone(), *pid);
            let first = world.ledger.runs.entry(process.vm_uid.clone()).or_insert_with(|| run.clone());
            if *first != run {
                found = Some(format!("I3: {} {} runs again on {node}, and has ended", process.key, process.vm_uid));
            }
        }
    }
    if let Some(violation) = found {
        world.ledger.violated(violation);
    }
}

fn vms_changed(world: &mut World, before: &Snapshot, after: &Snapshot) {
    for (key, old) in &before.vms {
        let new = after.vms.get(key).filter(|new| new.metadata.uid == old.metadata.uid);
        let found = match new {
            Some(new) if Arc::ptr_eq(old, new) => continue,
            Some(new) => binding_stays(key, old, new).or_else(|| final_state_is_true(world, key, old, new)),
            None => gone_after_its_guest(world, key, old),
        };
        if let Some(violation) = found {
            world.ledger.violated(violation);
        }
    }
    for (key, vm) in &after.vms {
        let placement = after.ovms.get(key).and_then(|ovm| placement(ovm));
        let named = placement.filter(|placement| Some(&placement.vm_uid) == vm.metadata.uid.as_ref());
        if let (Some(named), Some(node)) = (named, bound_node(vm))
            && named.node_name != node
        {
            let uid = &named.vm_uid;
            let place = &named.node_name;
            world.ledger.violated(format!("{key}: S2: {uid} is bound to {node}, and placed on {place}"));
        }
    }
}

/// S3: from empty to a node, once.
fn binding_stays(key: &ObjectKey, old: &VirtualMachine, new: &VirtualMachine) -> Option<String> {
    let (from, to) = (bound_node(old)?, bound_node(new));
    (to != Some(from)).then(|| format!("{key}: S3: a binding changed from {from} to {to:?}"))
}

/// I2 and I3: an object goes after its guest, and with a final state where it ever ran.
fn gone_after_its_guest(world: &World, key: &ObjectKey, old: &VirtualMachine) -> Option<String> {
    let uid = old.metadata.uid.as_deref()?;
    if world.ledger.stripped.contains(uid) {
        return None;
    }
    let counted = world.hosts.iter().filter(|(node, _)| !world.ledger.wrongly_fenced.contains(*node));
    for (node, host) in counted {
        if host.processes.values().any(|process| process.vm_uid == uid) {
            return Some(format!("I2: {key} {uid} is gone from the API, and runs on {node}"));
        }
    }
    let ran = world.ledger.runs.contains_key(uid) || phase(old) == Phase::Running;
    (ran && !phase(old).is_final()).then(|| format!("I3: {key} {uid} ran, and is gone without a final state"))
}

/// I3: what is reported is what happened.
fn final_state_is_true(world: &World, key: &ObjectKey, old: &VirtualMachine, new: &VirtualMachine) -> Option<String> {
    let (was, is) = (phase(old), phase(new));
    if was.is_final() && is != was {
        return Some(format!("I3: {key}: a final state changed from {was:?} to {is:?}"));
    }
    let uid = new.metadata.uid.as_deref()?;
    let host = bound_node(new).and_then(|node| world.hosts.get(node))?;
    if was == is || !is.is_final() || is_fenced(new) {
        return None;
    }
    if host.processes.values().any(|process| process.vm_uid == uid) {
        return Some(format!("I3: {key} {uid} is reported as {is:?}, and runs"));
    }
    let journalled = host.journal.get(uid).and_then(|entry| entry.end.as_ref());
    if let Some(end) = journalled.filter(|end| end.phase != is) {
        return Some(format!("I3: {key} {uid} is reported as {is:?}, and was journalled as {:?}", end.phase));
    }
    if let Some(end) = host.ends.get(uid).filter(|end| is == Phase::Succeeded && **end != End::PoweredOff) {
        return Some(format!("I3: {key} {uid} is reported as Succeeded, and ended as {end:?}"));
    }
    let domain = host.domains.get(key).filter(|domain| domain.definition.vm_uid == uid && domain.process.is_none());
    match (is, domain.map(|domain| domain.reason)) {
        (Phase::Failed, Some(ShutOffReason::Shutdown)) if journalled.is_none() => {
            Some(format!("I3: {key} {uid} is reported as Failed, and powered off"))
        }
        _ => None,
    }
}

fn ovms_changed(world: &mut World, before: &Snapshot, after: &Snapshot) {
    for (key, old) in &before.ovms {
        // What another OVM of the name inherits is whatever was recorded in time.
        if after.ovms.get(key).is_none_or(|new| new.metadata.uid != old.metadata.uid) {
            world.ledger.places.remove(key);
        }
        let found = match after.ovms.get(key).filter(|new| new.metadata.uid == old.metadata.uid) {
            Some(new) if Arc::ptr_eq(old, new) => None,
            Some(new) => placement_stays(key, old, new),
            None => left_behind(key, old, after),
        };
        if let Some(violation) = found {
            world.ledger.violated(violation);
        }
    }
}

/// S2: for one VM UID, placement never changes.
fn placement_stays(key: &ObjectKey, old: &OfflineVirtualMachine, new: &OfflineVirtualMachine) -> Option<String> {
    let (from, to) = (placement(old)?, placement(new));
    let Some(to) = to else { return Some(format!("{key}: E4: the placement on {} was lost", from.node_name)) };
    let moved = from.vm_uid == to.vm_uid && (from.node_name != to.node_name || (from.released && !to.released));
    moved.then(|| format!("{key}: S2: the placement of {} changed from {from:?} to {to:?}", to.vm_uid))
}

/// D3: an OVM goes after its VM. Only a create that was in flight may still land; the collector deletes what it made, before that has a node.
fn left_behind(key: &ObjectKey, old: &OfflineVirtualMachine, after: &Snapshot) -> Option<String> {
    let vm = after.vms.get(key)?;
    let is_owned =
        vm.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == old.metadata.uid.as_ref());
    (is_owned && bound_node(vm).is_some())
        .then(|| format!("{key}: D3: the OVM is gone, and its VM {:?} is left", vm.metadata.uid))
}

fn phase(vm: &VirtualMachine) -> Phase {
    vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

fn placement(ovm: &OfflineVirtualMachine) -> Option<&Placement> {
    ovm.status.as_ref()?.placement.as_ref()
}

fn is_fenced(vm: &VirtualMachine) -> bool {
    let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|condition| condition.reason.as_deref() == Some("NodeFenced"))
}

//! Peace: all is repaired and stays so. The world must come to rest, and to what its objects ask for.

use std::time::Duration;

use api::v1alpha1::{OfflineVirtualMachine, Phase, VirtualMachine};

use super::super::agent::{self, AgentFate};
use super::super::check;
use super::super::controller;
use super::super::host::{End, Host};
use super::super::reach::Milestone;
use super::super::world::{Fate, World};
use super::{accidents, beat, people};
use crate::cluster::{ObjectKey, bound_node};

/// Rounds in which something happens; a world that needs more never comes to rest.
const MOST_BUSY_ROUNDS: u32 = 400;
/// Time of a round in which something happens.
const BUSY_ROUND: Duration = Duration::from_secs(1);
/// Time of one in which nothing does: less than a Lease lives.
const QUIET_ROUND: Duration = Duration::from_secs(30);
/// So many quiet rounds in a row are longer than any back-off (300 s).
const QUIET_ROUNDS: u32 = 12;
/// Steps that an actor takes in a round, unless it is idle before.
const TURN: u32 = 24;

/// All is repaired.
pub(in crate::sim) fn make_peace(world: &mut World) {
    for node in world.nodes() {
        accidents::boot(world, &node);
        if let Some(host) = world.hosts.get_mut(&node) {
            if !host.libvirt_up {
                host.restart_libvirt();
            }
            host.clock_error = 0;
        }
        accidents::set_reachable(world, &node, true);
        accidents::return_to_service(world, &node);
        world.api.change_node(&node, |node| (node.cordoned, node.tainted, node.kubelet_silent) = (false, false, false));
        let newest = world.api.version();
        accidents::start_agent(world, &node, newest);
    }
    people::drop_foreign_finalizers(world);
}

/// Lets everybody act until nobody does, for longer than any back-off. The ledger notes what goes wrong.
///
/// # Errors
/// There is no end to it.
pub(in crate::sim) fn settle(world: &mut World) -> Result<(), String> {
    let (mut busy, mut quiet) = (0, 0);
    while quiet < QUIET_ROUNDS {
        let before = world.activity();
        round(world);
        if world.activity() == before {
            quiet += 1;
            world.advance(QUIET_ROUND);
        } else {
            (busy, quiet) = (busy + 1, 0);
            world.advance(BUSY_ROUND);
        }
        if busy > MOST_BUSY_ROUNDS {
            return Err("the world never comes to rest".to_owned());
        }
    }
    Ok(())
}

/// Every actor gets its turn.
fn round(world: &mut World) {
    for node in world.nodes() {
        beat(world, &node);
        agent::full_pass(world, &node);
    }
    let view = world.api.newest();
    let _ = world.api.collect_garbage(&view);
    for key in world.keys() {
        for index in 0..world.controllers.len() {
            deliver(world);
            if world.acts(index) {
                turn_of_controller(world, index, &key);
            }
        }
        for node in world.nodes() {
            deliver(world);
            turn_of_agent(world, &node, &key);
        }
    }
    for node in world.nodes() {
        for key in agent::waiting(world, &node) {
            agent::registry_goes_on(world, &node, &key, true);
        }
    }
    for host in world.hosts.values_mut() {
        let done: Vec<u32> = host.processes.iter().filter(|(_, p)| p.shutting_down).map(|(pid, _)| *pid).collect();
        for pid in done {
            host.end(pid, End::PoweredOff);
        }
    }
    let _ = check::check(world);
}

/// Every watch that can delivers everything.
fn deliver(world: &mut World) {
    let (now, view) = (world.now, world.api.newest());
    for controller in &mut world.controllers {
        controller.watch(&view, now);
    }
    for node in world.nodes() {
        if world.is_connected(&node)
            && let Some(agent) = world.agents.get_mut(&node)
        {
            agent.seen = view.version;
        }
    }
}

fn turn_of_controller(world: &mut World, index: usize, key: &ObjectKey) {
    for _ in 0..TURN {
        controller::step(world, index, key, Fate::Good);
        let _ = check::check(world);
        if world.controllers.get(index).is_none_or(|controller| !controller.is_busy(key)) {
            break;
        }
    }
}

fn turn_of_agent(world: &mut World, node: &str, key: &ObjectKey) {
    for _ in 0..TURN {
        agent::step(world, node, key, AgentFate::default());
        let _ = check::check(world);
        if world.agents.get(node).is_none_or(|agent| !agent.is_busy(key)) {
            break;
        }
    }
}

/// What must hold once nothing moves any more.
///
/// # Errors
/// The first thing that does not.
pub(in crate::sim) fn settled(world: &World) -> Result<(), String> {
    for (key, ovm) in &world.api.state.ovms {
        ovm_settled(world, key, ovm).map_err(|what| format!("not settled: {key} {what}"))?;
    }
    for (key, vm) in &world.api.state.vms {
        vm_settled(world, vm).map_err(|what| format!("not settled: VM {key} {what}"))?;
    }
    for (node, host) in &world.hosts {
        host_settled(world, host).map_err(|what| format!("not settled: {what} on {node}"))?;
    }
    // A guest that is held back has no successor that could tell.
    let lasting = world
        .ledger
        .wrongly_fenced
        .iter()
        .find(|node| !world.hosts.get(*node).is_some_and(|host| may_hold(world, host)));
    lasting
        .map_or(Ok(()), |node| Err(format!("not settled: two guests beside each other after a wrong fence of {node}")))
}

fn ovm_settled(world: &World, key: &ObjectKey, ovm: &OfflineVirtualMachine) -> Result<(), String> {
    if ovm.metadata.deletion_timestamp.is_some() {
        return Err("is still being deleted".to_owned());
    }
    let vm = world.api.state.vms.get(key);
    let status = ovm.status.clone().unwrap_or_default();
    match (ovm.spec.running, vm) {
        (true, None) => Err("shall run, and has no VM".to_owned()),
        (false, Some(_)) => Err("shall not run, and has a VM".to_owned()),
        (false, None) if status.created || status.ready => Err("is stopped, and its status says otherwise".to_owned()),
        (true, Some(vm)) => {
            let phase = phase(vm);
            let runs = phase == Phase::Running && status.created && status.ready;
            if runs || is_lost(vm) { Ok(()) } else { Err(format!("shall run, and is {phase:?}, {status:?}")) }
        }
        (false, None) => Ok(()),
    }
}

fn vm_settled(world: &World, vm: &VirtualMachine) -> Result<(), String> {
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    let runs = world.hosts.iter().filter(|(_, host)| host.processes.values().any(|p| p.vm_uid == uid));
    let runs: Vec<&str> = runs.map(|(node, _)| node.as_str()).collect();
    let shall_run = phase(vm) == Phase::Running || is_lost(vm);
    if shall_run && runs != bound_node(vm).into_iter().collect::<Vec<_>>() {
        return Err(format!("is Running on {:?}, and runs on {runs:?}", bound_node(vm)));
    }
    if phase(vm).is_final() && !runs.is_empty() {
        return Err(format!("has ended, and runs on {runs:?}"));
    }
    if !phase(vm).is_final() && !shall_run {
        return Err(format!("is {:?}", phase(vm)));
    }
    if vm.metadata.deletion_timestamp.is_some() { Err("is still being deleted".to_owned()) } else { Ok(()) }
}

/// E6: what a node's agent holds back stays, for the administrator: after a wrong fence, and where objects were lost.
fn may_hold(world: &World, host: &Host) -> bool {
    let is_reason = |one: &Milestone| world.reach.count(*one) > 0;
    [Milestone::ObjectsLost, Milestone::WronglyFenced].iter().any(is_reason) && host.processes.len() > 3
}

fn host_settled(world: &World, host: &Host) -> Result<(), String> {
    let is_current = |key: &ObjectKey, uid: &str| match world.api.state.vms.get(key) {
        Some(vm) => vm.metadata.uid.as_deref() == Some(uid),
        None => may_hold(world, host),
    };
    if let Some((key, _)) = host.domains.iter().find(|(key, domain)| !is_current(key, &domain.definition.vm_uid)) {
        return Err(format!("a domain of {key} is left"));
    }
    if let Some(process) = host.processes.values().find(|process| !is_current(&process.key, &process.vm_uid)) {
        return Err(format!("a guest of {} {} is left", process.key, process.vm_uid));
    }
    if let Some((uid, key)) = host.disks.iter().find(|(uid, key)| !is_current(key, uid)) {
        // The files of an earlier VM go with the journal entry that names it, at the latest when the object that ended goes.
        let waits = world.api.state.vms.get(key).is_some_and(|vm| phase(vm).is_final());
        return if waits { Ok(()) } else { Err(format!("files of {key} {uid} are left")) };
    }
    Ok(())
}

/// Its agent says that the guest runs without libvirt's knowledge (E1): somebody has to delete the VM.
fn is_lost(vm: &VirtualMachine) -> bool {
    let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|condition| condition.reason.as_deref() == Some("DomainLost"))
}

fn phase(vm: &VirtualMachine) -> Phase {
    vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

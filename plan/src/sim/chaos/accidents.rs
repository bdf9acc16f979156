//! What goes wrong by itself, and what is repaired.

use super::super::agent::{Agent, registry_goes_on, waiting};
use super::super::controller::Controller;
use super::super::host::End;
use super::super::random::Random;
use super::super::reach::Milestone;
use super::super::world::World;
use super::{Mischief, Weather, fire_late_start, pick_node};
use crate::cluster::ObjectKey;

/// An accident.
pub(super) fn happen(world: &mut World, random: &mut Random, weather: &Weather) {
    let node = pick_node(world, random);
    match random.below(12) {
        0 if weather.election => change_leader(world, random),
        0 | 1 => restart_controller(world, random),
        2..5 => kill_agent(world, &node),
        5 => {
            kill_libvirt(world, &node);
            if random.once_in(2) {
                restart_libvirt(world, &node);
            }
        }
        6 => set_reachable(world, &node, false),
        7 => forget(world, &node, random),
        8 => lose_power(world, &node),
        9 => fence_what_is_off(world, &node, random),
        10 if weather.wrong_fences => {
            // Either the node is deleted while its agent lives (F1), or it is cut off as well, which makes it a wrong fence (F3).
            if random.once_in(2) {
                set_reachable(world, &node, false);
            }
            fence(world, &node, random);
        }
        11 if weather.clock_steps => {
            let error = i64::try_from(random.below(7200)).unwrap_or(0) - 3600;
            if let Some(host) = world.hosts.get_mut(&node) {
                host.clock_error = error;
            }
            world.hit(Milestone::ClockStepped);
            world.note(format_args!("the clock of {node} is off by {error} s"));
        }
        _ => lose_objects(world, weather),
    }
    world.affected();
}

fn restart_controller(world: &mut World, random: &mut Random) {
    let (now, newest) = (world.now, world.api.version());
    let seen = newest.saturating_sub(random.below(20));
    let index = usize::try_from(random.below(world.controllers.len() as u64)).unwrap_or(0);
    let view = world.api.at(seen);
    if let Some(controller) = world.controllers.get_mut(index) {
        *controller = Controller::new(now, seen);
        controller.watch(&view, now);
    }
    world.note(format_args!("controller {index} restarts"));
}

/// Another controller begins to lead, wherever the one before is in its passes: that one has stopped, or knows nothing of it yet and goes on beside the new one.
fn change_leader(world: &mut World, random: &mut Random) {
    let busy = world.controllers.iter().any(|controller| controller.busy_with().next().is_some());
    let next = usize::try_from(random.below(world.controllers.len() as u64)).unwrap_or(0);
    if busy && world.leader.is_some_and(|leader| leader != next) {
        world.hit(Milestone::LeaderChangedInPass);
    }
    if random.once_in(3) {
        world.leader = None;
        world.note(format_args!("both controllers act"));
        return;
    }
    world.leader = Some(next);
    for (_, other) in world.controllers.iter_mut().enumerate().filter(|(index, _)| *index != next) {
        other.abandon();
    }
    world.note(format_args!("controller {next} leads"));
}

fn kill_agent(world: &mut World, node: &str) {
    if !waiting(world, node).is_empty() {
        world.hit(Milestone::AgentDiedInPull);
    }
    if let Some(agent) = world.agents.get_mut(node) {
        agent.kill();
    }
    world.note(format_args!("agent of {node} dies"));
}

fn kill_libvirt(world: &mut World, node: &str) {
    if let Some(host) = world.hosts.get_mut(node) {
        host.kill_libvirt();
    }
    world.hit(Milestone::LibvirtDied);
    world.note(format_args!("libvirtd of {node} dies"));
}

fn restart_libvirt(world: &mut World, node: &str) {
    if let Some(host) = world.hosts.get_mut(node).filter(|host| host.powered && !host.libvirt_up) {
        host.restart_libvirt();
        world.note(format_args!("libvirtd of {node} returns"));
    }
}

pub(super) fn set_reachable(world: &mut World, node: &str, reachable: bool) {
    let Some(host) = world.hosts.get_mut(node).filter(|host| host.api_reachable != reachable) else { return };
    host.api_reachable = reachable;
    if reachable {
        world.note(format_args!("{node} reaches the API server again"));
    } else {
        world.hit(Milestone::CutOff);
        world.note(format_args!("{node} is cut off"));
    }
}

fn forget(world: &mut World, node: &str, random: &mut Random) {
    let Some(host) = world.hosts.get_mut(node).filter(|host| host.libvirt_up) else { return };
    let live = host.domains.iter().filter(|(_, domain)| domain.process.is_some());
    let live: Vec<ObjectKey> = live.map(|(key, _)| key.clone()).collect();
    if let Some(key) = random.pick(&live) {
        host.forget(key);
        world.hit(Milestone::GuestForgotten);
        world.note(format_args!("libvirt of {node} forgets that {key} runs"));
    }
}

fn lose_power(world: &mut World, node: &str) {
    if let Some(agent) = world.agents.get_mut(node) {
        agent.kill();
    }
    if let Some(host) = world.hosts.get_mut(node) {
        host.power_off();
    }
    world.hit(Milestone::HostLostPower);
    world.note(format_args!("{node} loses power"));
}

/// The administrator says that a node is off; it is.
fn fence_what_is_off(world: &mut World, node: &str, random: &mut Random) {
    if world.hosts.get(node).is_some_and(|host| !host.powered) {
        fence(world, node, random);
    }
}

/// The administrator says that a node is off, whatever it is.
fn fence(world: &mut World, node: &str, random: &mut Random) {
    let is_alive = world.is_connected(node);
    let is_wrong = world.hosts.get(node).is_some_and(|host| host.powered && !host.processes.is_empty());
    if random.once_in(2) {
        world.api.change_node(node, |node| node.out_of_service = true);
        world.note(format_args!("administrator: {node} is out of service"));
    } else {
        world.api.delete_node(node);
        world.note(format_args!("administrator: node {node} deleted"));
        if is_alive {
            world.hit(Milestone::NodeDeletedAlive);
        }
    }
    if is_wrong && !is_alive {
        world.hit(Milestone::WronglyFenced);
    }
}

/// Every object is lost, while a node has more than three guests.
fn lose_objects(world: &mut World, weather: &Weather) {
    let is_crowded = world.hosts.values().any(|host| host.processes.len() > 3);
    if weather.mischief != Mischief::Loss || !is_crowded {
        return;
    }
    let uids: Vec<String> = world.api.state.vms.values().filter_map(|vm| vm.metadata.uid.clone()).collect();
    world.ledger.stripped.extend(uids);
    world.api.lose_objects();
    world.hit(Milestone::ObjectsLost);
    world.note(format_args!("all objects are lost"));
}

/// Something is repaired.
pub(super) fn repair(world: &mut World, random: &mut Random) {
    let node = pick_node(world, random);
    match random.below(5) {
        0 => {
            let seen = world.api.version().saturating_sub(random.below(20));
            start_agent(world, &node, seen);
        }
        1 => restart_libvirt(world, &node),
        2 => set_reachable(world, &node, true),
        3 => fire_late_start(world, &node, !random.once_in(4)),
        _ if world.hosts.get(&node).is_some_and(|host| !host.powered) => {
            boot(world, &node);
            let seen = world.api.version();
            start_agent(world, &node, seen);
        }
        _ => return_to_service(world, &node),
    }
}

pub(super) fn boot(world: &mut World, node: &str) {
    if let Some(host) = world.hosts.get_mut(node).filter(|host| !host.powered) {
        host.boot();
        world.affected();
        world.note(format_args!("{node} boots"));
    }
}

pub(super) fn start_agent(world: &mut World, node: &str, seen: u64) {
    let powered = world.hosts.get(node).is_some_and(|host| host.powered);
    if let Some(agent) = world.agents.get_mut(node).filter(|agent| powered && !agent.alive) {
        *agent = Agent::new(node, seen);
        world.affected();
        world.note(format_args!("agent of {node} starts"));
    }
}

pub(super) fn return_to_service(world: &mut World, node: &str) {
    if world.api.state.nodes.get(node).is_none_or(|node| node.out_of_service) {
        world.api.change_node(node, |node| node.out_of_service = false);
        world.note(format_args!("administrator: {node} is back in service"));
    }
}

/// A registry that a guest waits for goes on, or fails.
pub(super) fn registry_acts(world: &mut World, random: &mut Random) {
    let node = pick_node(world, random);
    if let Some(key) = random.pick(&waiting(world, &node)) {
        registry_goes_on(world, &node, key, !random.once_in(4));
    }
}

/// A guest ends by itself, or does what the power button asked for.
pub(super) fn guest_acts(world: &mut World, random: &mut Random) {
    let node = pick_node(world, random);
    let Some(host) = world.hosts.get_mut(&node) else { return };
    let pids: Vec<u32> = host.processes.keys().copied().collect();
    let Some(pid) = random.pick(&pids).copied() else { return };
    let shutting_down = host.processes.get(&pid).is_some_and(|process| process.shutting_down);
    let end = match random.below(8) {
        _ if shutting_down => End::PoweredOff,
        0 => End::PoweredOff,
        1 => End::Killed,
        _ => return,
    };
    host.end(pid, end);
    world.affected();
    world.note(format_args!("guest {pid} on {node}: {end:?}"));
}

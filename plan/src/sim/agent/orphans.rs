//! The agent's full pass: orphans judged together (E6), and files that nothing known explains.

use std::collections::BTreeSet;

use super::super::world::World;
use crate::cluster::ObjectKey;
use crate::node::{GuestKey, OrphanFacts, OrphanGuard, plan_orphans};

/// The pass over all guests of the node. Its reads are made at once: what they say of an object that is gone stays true.
pub(in crate::sim) fn full_pass(world: &mut World, node: &str) {
    let is_up = |world: &World| world.hosts.get(node).is_some_and(|host| host.api_reachable && host.libvirt_up);
    if world.agents.get(node).is_some_and(|agent| agent.alive) && is_up(world) {
        judge_orphans(world, node);
        remove_unexplained_files(world, node);
    }
}

fn judge_orphans(world: &mut World, node: &str) {
    let Some(host) = world.hosts.get(node) else { return };
    let hides = world.lies.successors_hidden;
    let running = host.domains.values().filter(|domain| domain.process.is_some()).count();
    let orphans: Vec<OrphanFacts> = host
        .domains
        .iter()
        .filter_map(|(key, domain)| {
            let now = world.api.state.vms.get(key).and_then(|vm| vm.metadata.uid.clone());
            let is_orphan = now.as_deref() != Some(&domain.definition.vm_uid);
            is_orphan.then(|| OrphanFacts {
                key: GuestKey { namespace: key.namespace.clone(), name: key.name.clone() },
                vm_uid: domain.definition.vm_uid.clone(),
                active: domain.process.is_some(),
                has_successor: now.is_some() && !hides,
            })
        })
        .collect();
    let verdict = plan_orphans(&orphans, running);
    let held = OrphanGuard::Held(verdict.message.clone().unwrap_or_default());
    let clear = verdict.clear.iter().map(|orphan| (orphan, OrphanGuard::Clear));
    let all = clear.chain(verdict.held.iter().map(|orphan| (orphan, held.clone())));
    let guards = all
        .map(|(orphan, guard)| {
            let key = ObjectKey { namespace: orphan.key.namespace.clone(), name: orphan.key.name.clone() };
            ((key, orphan.vm_uid.clone()), guard)
        })
        .collect();
    if let Some(agent) = world.agents.get_mut(node) {
        agent.guards = guards;
    }
}

/// As `agent::node::garbage`: an agent that was killed between making files and anything that names their VM leaves some.
fn remove_unexplained_files(world: &mut World, node: &str) {
    let Some((host, agent)) = world.hosts.get(node).zip(world.agents.get(node)) else { return };
    let seen = world.api.at(agent.seen);
    let mut known: BTreeSet<String> = seen.vms.values().filter_map(|vm| vm.metadata.uid.clone()).collect();
    known.extend(world.api.state.vms.values().filter_map(|vm| vm.metadata.uid.clone()));
    known.extend(host.journal.keys().cloned());
    known.extend(host.domains.values().map(|domain| domain.definition.vm_uid.clone()));
    let garbage: Vec<(String, ObjectKey)> = host
        .disks
        .iter()
        .filter(|(uid, _)| !known.contains(*uid))
        .map(|(uid, key)| (uid.clone(), key.clone()))
        .collect();
    for (uid, key) in garbage {
        world.ledger.cleaning(&world.api.state, world.hosts.get(node), &key, &uid);
        world.note(format_args!("{node} {key}: files of {uid} are garbage"));
        if let Some(host) = world.hosts.get_mut(node) {
            host.disks.remove(&uid);
        }
    }
}

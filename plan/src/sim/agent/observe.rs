//! What an agent sees: each read as it is, unless a lie takes away the rule that asked for it.

use std::sync::Arc;

use api::v1alpha1::{AbiDevice, AbiStatus, VirtualMachine};

use super::super::api::Snapshot;
use super::super::host::Domain;
use super::super::world::World;
use super::Memory;
use crate::cluster::{ObjectKey, bound_node};
use crate::node::{
    DesiredGuest, DisksState, DomainFacts, DomainSlot, DomainState, FreshVm, JournalFacts, Look, NodeView,
    ObservedGuest, OrphanGuard, OvmFacts, OvmView, ProcLook, StartRecord, VmFacts,
};

/// The VM as the watch on this node's VMs has it, or as the agent was answered since.
pub(super) fn cached(world: &World, node: &str, key: &ObjectKey) -> Option<VmFacts> {
    let agent = world.agents.get(node)?;
    let view = world.api.at(agent.seen);
    let vm = view.vms.get(key).filter(|vm| bound_node(vm) == Some(node))?;
    let latest = agent.memory.get(key).and_then(|memory| memory.latest.as_ref());
    let newer = latest.filter(|latest| latest.metadata.uid == vm.metadata.uid && version(latest) > version(vm));
    Some(VmFacts::from_object(newer.unwrap_or(vm)))
}

fn version(vm: &VirtualMachine) -> u64 {
    vm.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// What the reads of S4 are answered from.
pub(super) fn start_view(world: &World, node: &str) -> Arc<Snapshot> {
    let seen = world.agents.get(node).map_or(0, |agent| agent.seen);
    if world.lies.start_check_from_cache { world.api.at(seen) } else { world.api.newest() }
}

pub(super) fn node_view(view: &Snapshot, node: &str) -> NodeView {
    match view.nodes.get(node) {
        None => NodeView::Missing,
        Some(node) if node.out_of_service => NodeView::OutOfService,
        Some(_) => NodeView::InService,
    }
}

pub(super) fn ovm_view(world: &World, key: &ObjectKey) -> OvmView {
    world.api.state.ovms.get(key).map_or(OvmView::Absent, |ovm| {
        let mut facts = OvmFacts::from_object(ovm);
        if world.lies.agents_see_no_placement {
            facts.placement = None;
        }
        if world.lies.ovms_look_kept {
            facts.deleting = false;
        }
        if world.lies.abi_looks_recorded {
            facts.abi = world.api.state.vms.get(key).and_then(|vm| vm.status.as_ref()?.abi.clone());
        }
        OvmView::Present(facts)
    })
}

/// The uncached read of the VM.
pub(super) fn fresh_vm(world: &World, node: &str, key: &ObjectKey, look: Look, reachable: bool) -> FreshVm {
    if !reachable {
        return FreshVm::Unreachable("the API server does not answer".to_owned());
    }
    let view = if look == Look::Start { start_view(world, node) } else { world.api.newest() };
    let domain = world.hosts.get(node).and_then(|host| host.domains.get(key));
    let is_hidden = |vm: &VirtualMachine| {
        world.lies.successors_hidden
            && domain.is_some_and(|domain| Some(&domain.definition.vm_uid) != vm.metadata.uid.as_ref())
    };
    match view.vms.get(key) {
        Some(vm) if !is_hidden(vm) => FreshVm::Present(Box::new(VmFacts::from_object(vm))),
        Some(_) | None => FreshVm::Absent,
    }
}

pub(super) fn look_in_proc(world: &World, node: &str, key: &ObjectKey) -> ProcLook {
    if world.lies.proc_clear {
        return ProcLook::Clear;
    }
    match world.hosts.get(node).and_then(|host| host.process_of(key)) {
        Some((pid, _)) => ProcLook::Hit { pid },
        None => ProcLook::Clear,
    }
}

/// Everything that the node shows of the guest.
pub(super) fn observe(
    world: &mut World,
    node: &str,
    key: &ObjectKey,
    desired: &DesiredGuest,
    proc: ProcLook,
) -> Option<ObservedGuest> {
    let lies = world.lies;
    let bound = desired_vm(desired).and_then(|vm| vm.status.abi.clone()).unwrap_or_default();
    let wanted = bound.to_record().map_or_else(|| abi(key), |record| record.to_status(None));
    let host = world.hosts.get(node)?;
    let agent = world.agents.get_mut(node)?;
    let vm = desired_vm(desired);
    let domain = host
        .domains
        .get(key)
        .filter(|domain| !lies.only_own_domains || vm.is_some_and(|vm| vm.uid == domain.definition.vm_uid));
    let slot = match domain {
        _ if !host.libvirt_up => DomainSlot::Unknown,
        None => DomainSlot::Free,
        Some(domain) => {
            let mut facts = domain_facts(domain);
            let start = host.journal.get(&facts.vm_uid).and_then(|entry| entry.start);
            if lies.unsettled_runs_look_off && start.is_some_and(|start| !start.settled) {
                facts.state = DomainState::ShutOff(domain.reason);
            }
            DomainSlot::Ours(Box::new(facts))
        }
    };
    let uid = vm.map(|vm| vm.uid.as_str()).or_else(|| domain.map(|domain| domain.definition.vm_uid.as_str()));
    turn_to(agent.memory(key), uid);
    let guard = domain.and_then(|domain| agent.guards.get(&(key.clone(), domain.definition.vm_uid.clone())));
    let guard = if lies.orphans_look_clear { OrphanGuard::Clear } else { guard.cloned().unwrap_or_default() };
    let is_hidden = |uid: &str| {
        let is_ready =
            |vm: &VmFacts| agent.memory.get(key).is_some_and(|memory| memory.ready_for.as_ref() == Some(&vm.uid));
        lies.predecessors_hidden && vm.is_some_and(|vm| vm.uid != uid && !is_ready(vm))
    };
    let journal = host
        .journal
        .iter()
        .filter(|(uid, entry)| entry.key == *key && !is_hidden(uid))
        .map(|(uid, entry)| JournalFacts {
            vm_uid: uid.clone(),
            start: entry.start.filter(|_| !lies.journal_without_starts).map(|start| StartRecord {
                this_boot: start.boot == host.boot,
                settled: start.settled || lies.starts_settled,
                run_id: start.run_id,
            }),
            end: entry.end.clone(),
        })
        .collect();
    let is_own = |(uid, owner): &(&String, &ObjectKey)| *owner == key && !is_hidden(uid);
    let present = host.disks.iter().filter(is_own).map(|(uid, _)| uid.clone()).collect();
    let memory = agent.memory(key);
    Some(ObservedGuest {
        node_name: node.to_owned(),
        slot,
        proc,
        journal,
        disks: DisksState {
            ready_for: memory.ready_for.clone(),
            present: Ok(present),
            fetch: memory.fetch.clone(),
            ..DisksState::default()
        },
        is_defined_from_disks: memory.is_defined_from_disks,
        wanted_abi: host.libvirt_up.then_some(Ok(wanted)),
        trouble: memory.trouble.as_ref().map(|(_, trouble)| trouble.clone()),
        last_signal: memory.last_signal,
        disk_faults: Vec::new(),
        resumes: None,
        panic_seen: false,
        guard,
        host_stops: false,
    })
}

fn desired_vm(desired: &DesiredGuest) -> Option<&VmFacts> {
    match &desired.fresh {
        Some(FreshVm::Present(vm)) => Some(vm),
        Some(FreshVm::Absent) => None,
        Some(FreshVm::Unreachable(_)) | None => desired.cached.as_ref(),
    }
}

/// What libvirt makes of a VM's disks: those on record stay, each new one takes the first place that is free.
pub(super) fn settle_abi(key: &ObjectKey, vm: &VirtualMachine, bound: &AbiStatus) -> AbiStatus {
    let known = |alias: &str| bound.devices.iter().find(|device| device.alias == alias)?.address.clone();
    let disks = vm.spec.domain.devices.disks.iter().flatten();
    let aliases: Vec<String> = disks.map(|disk| format!("ua-disk-{}", disk.name)).collect();
    let mut taken: Vec<String> = aliases.iter().filter_map(|alias| known(alias)).collect();
    let mut devices: Vec<AbiDevice> = Vec::new();
    for alias in aliases {
        let fresh = || (1..100).map(|bus| format!("pci:0000:{bus:02x}:00.0")).find(|place| !taken.contains(place));
        let address = known(&alias).or_else(fresh);
        taken.extend(address.clone());
        devices.push(AbiDevice { alias, address, ..AbiDevice::default() });
    }
    devices.sort_by(|one, other| one.alias.cmp(&other.alias));
    let settled = AbiStatus { devices, ..abi(key) };
    settled.to_record().map_or(settled, |record| record.to_status(None))
}

/// Forgets what was remembered of another VM's run.
fn turn_to(memory: &mut Memory, uid: Option<&str>) {
    if let Some(uid) = uid.filter(|uid| *uid != memory.about) {
        uid.clone_into(&mut memory.about);
        memory.last_signal = None;
        memory.trouble = None;
    }
}

/// What every guest of a name gets: its UUID is that of namespace and name.
pub(super) fn abi(key: &ObjectKey) -> AbiStatus {
    AbiStatus {
        firmware_uuid: Some(format!("uuid-of-{key}")),
        machine_type: Some("pc-q35-10.0".to_owned()),
        ..AbiStatus::default()
    }
}

fn domain_facts(domain: &Domain) -> DomainFacts {
    DomainFacts {
        vm_uid: domain.definition.vm_uid.clone(),
        state: if domain.process.is_some() { DomainState::Running } else { DomainState::ShutOff(domain.reason) },
        run_id: domain.run_id,
        grace: domain.definition.grace,
        deadline: domain.definition.deadline,
        abi: domain.definition.abi.clone(),
        interfaces: Vec::new(),
    }
}

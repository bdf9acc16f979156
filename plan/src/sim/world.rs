//! The world: API server, hosts, and the processes of ours that run on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use api::v1alpha1::{
    Disk, DiskTarget, DomainSpec, EmptyDiskSource, OfflineVirtualMachine, OfflineVirtualMachineSpec, VirtualMachine,
    VirtualMachineSpec, VirtualMachineTemplate, Volume,
};
use jiff::{SignedDuration, Timestamp};

use super::Lies;
use super::agent::Agent;
use super::api::{Api, ApiError};
use super::controller::Controller;
use super::host::Host;
use super::ledger::Ledger;
use super::reach::{Milestone, Reach};
use crate::cluster::{Now, ObjectKey, bound_node};

/// When every run begins.
const BEGINNING: Duration = Duration::from_secs(1_000_000);

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) api: Api,
    pub(super) hosts: BTreeMap<String, Host>,
    pub(super) agents: BTreeMap<String, Agent>,
    pub(super) controllers: Vec<Controller>,
    /// The one controller that acts; none where all do, as two that both hold themselves for the leader.
    pub(super) leader: Option<usize>,
    pub(super) lies: Lies,
    pub(super) ledger: Ledger,
    pub(super) reach: Reach,
    /// What happened, a line a step; none where nobody will read it.
    pub(super) trace: Option<Vec<String>>,
    /// Effects on hosts so far.
    effects: u64,
}

/// What becomes of a call to the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is carried out and answered.
    #[default]
    Good,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// It never arrives.
    Lost,
}

/// Why a call came to nothing, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    Refused(ApiError),
    NoAnswer,
}

impl World {
    /// Two nodes with their agents, two controllers, no objects.
    pub(super) fn new(is_traced: bool) -> Self {
        let mut world = Self {
            now: BEGINNING,
            api: Api::default(),
            hosts: BTreeMap::new(),
            agents: BTreeMap::new(),
            controllers: Vec::new(),
            leader: None,
            lies: Lies::default(),
            ledger: Ledger::default(),
            reach: Reach::default(),
            trace: is_traced.then(Vec::new),
            effects: 0,
        };
        world.api.now = world.now;
        for node in ["n1", "n2"] {
            world.hosts.insert(node.to_owned(), Host::new());
            world.agents.insert(node.to_owned(), Agent::new(node, 0));
            world.api.change_node(node, |_| {});
            world.api.renew_lease(node);
        }
        world.controllers = (0..2).map(|_| Controller::new(world.now, 0)).collect();
        world
    }

    pub(super) fn clock(&self) -> Now {
        Now::at(self.now)
    }

    /// Wall time on a node.
    pub(super) fn wall_on(&self, node: &str) -> Timestamp {
        let error = self.hosts.get(node).map_or(0, |host| host.clock_error);
        let wall = self.clock().wall;
        wall.saturating_add(SignedDuration::from_secs(error)).unwrap_or(wall)
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.api.now = self.now;
    }

    pub(super) fn note(&mut self, line: fmt::Arguments<'_>) {
        let seconds = self.now.saturating_sub(BEGINNING).as_secs_f64();
        if let Some(trace) = self.trace.as_mut() {
            trace.push(format!("{seconds:8.1} {line}"));
        }
    }

    pub(super) fn hit(&mut self, milestone: Milestone) {
        self.reach.hit(milestone);
    }

    /// Something on a host changed, or may have.
    pub(super) fn affected(&mut self) {
        self.effects += 1;
    }

    /// A number that grows with everything that happens to objects and hosts; heartbeats are nothing.
    pub(super) fn activity(&self) -> u64 {
        self.api.changes + self.effects
    }

    /// A call to the API server under a fate.
    pub(super) fn call<T>(
        &mut self,
        fate: Fate,
        call: impl FnOnce(&mut Api) -> Result<T, ApiError>,
    ) -> Result<T, CallError> {
        match fate {
            Fate::Lost => Err(CallError::NoAnswer),
            Fate::Good => call(&mut self.api).map_err(|error| {
                self.reach.hit(Milestone::Conflict);
                CallError::Refused(error)
            }),
            Fate::AnswerLost => {
                if call(&mut self.api).is_ok() {
                    self.hit(Milestone::AnswerLost);
                }
                Err(CallError::NoAnswer)
            }
        }
    }

    /// Whether a node has, or is to have, anything of a guest.
    pub(super) fn concerns(&self, node: &str, key: &ObjectKey) -> bool {
        let state = &self.api.state;
        let bound = state.vms.get(key).is_some_and(|vm| bound_node(vm) == Some(node));
        let placement = state.ovms.get(key).and_then(|ovm| ovm.status.as_ref()?.placement.as_ref());
        let placed = placement.is_some_and(|placement| placement.node_name == node && !placement.released);
        let kept = self.hosts.get(node).is_some_and(|host| host.keys().any(|kept| kept == key));
        bound || placed || kept
    }

    /// Every namespace and name that anything knows of, or is in the middle of something for.
    pub(super) fn keys(&self) -> BTreeSet<ObjectKey> {
        let objects = self.api.state.ovms.keys().chain(self.api.state.vms.keys());
        let kept = objects.chain(self.hosts.values().flat_map(Host::keys));
        let at_work = self.controllers.iter().flat_map(Controller::busy_with);
        kept.chain(at_work).chain(self.agents.values().flat_map(Agent::busy_with)).cloned().collect()
    }

    /// Whether a controller acts.
    pub(super) fn acts(&self, controller: usize) -> bool {
        self.leader.is_none_or(|leader| leader == controller)
    }

    pub(super) fn nodes(&self) -> Vec<String> {
        self.hosts.keys().cloned().collect()
    }

    /// Whether the agent of a node runs and reaches the API server.
    pub(super) fn is_connected(&self, node: &str) -> bool {
        self.agents.get(node).is_some_and(|agent| agent.alive)
            && self.hosts.get(node).is_some_and(|host| host.powered && host.api_reachable)
    }
}

/// The key of the guest `name`.
pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: "default".to_owned(), name: name.to_owned() }
}

/// An OVM as a user creates it.
pub(super) fn ovm(name: &str, running: bool, grace_seconds: i64) -> OfflineVirtualMachine {
    let mut template = VirtualMachineTemplate { metadata: None, spec: vm_spec(grace_seconds) };
    set_disks(&mut template.spec, &["x", "y"]);
    OfflineVirtualMachine::new(name, OfflineVirtualMachineSpec { running, template })
}

/// A VM as a user creates it, without OVM.
pub(super) fn bare_vm(name: &str, grace_seconds: i64) -> VirtualMachine {
    VirtualMachine::new(name, vm_spec(grace_seconds))
}

/// Gives a guest these disks, in this order.
pub(super) fn set_disks(spec: &mut VirtualMachineSpec, names: &[&str]) {
    let disk = |name: &&str| Disk {
        name: (*name).to_owned(),
        volume_name: (*name).to_owned(),
        disk: Some(DiskTarget::default()),
        ..Disk::default()
    };
    let volume = |name: &&str| Volume {
        name: (*name).to_owned(),
        empty_disk: Some(EmptyDiskSource { capacity: api::Quantity("1Mi".to_owned()) }),
        ..Volume::default()
    };
    spec.domain.devices.disks = Some(names.iter().map(disk).collect());
    spec.volumes = Some(names.iter().map(volume).collect());
}

fn vm_spec(grace_seconds: i64) -> VirtualMachineSpec {
    VirtualMachineSpec {
        domain: DomainSpec::default(),
        termination_grace_period_seconds: Some(grace_seconds),
        ..VirtualMachineSpec::default()
    }
}

//! Where a script is played: a world in which nothing happens but what the script says.

use std::time::Duration;

use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};

use super::super::Lies;
use super::super::agent::{self, Agent, AgentFate, full_pass};
use super::super::api::Propagation;
use super::super::chaos::{beat, make_peace, settle, settled, strip};
use super::super::check;
use super::super::controller::{self, Controller};
use super::super::host::Host;
use super::super::world::{Fate, World, key, ovm, set_disks};
use crate::cluster::ObjectKey;
use crate::{cluster, node};

/// So many steps take anybody to rest.
const PATIENCE: usize = 200;

/// The world, and what a script does to it. The lie is told from [`Stage::lie`] on.
pub(super) struct Stage {
    pub(super) world: World,
    lies: Lies,
    wrong: Vec<String>,
}

impl Stage {
    pub(super) fn new(lies: Lies) -> Self {
        Self { world: World::new(true), lies, wrong: Vec::new() }
    }

    /// From here on a rule is missing.
    pub(super) fn lie(&mut self) {
        self.world.lies = self.lies;
    }

    /// What must hold now, lie or not.
    pub(super) fn require(&mut self, holds: bool, else_wrong: &str) {
        if !holds {
            self.wrong.push(else_wrong.to_owned());
        }
    }

    /// Everything that went wrong, and what happened.
    pub(super) fn close(self) -> (Vec<String>, String) {
        let mut all = self.world.ledger.violations().to_vec();
        all.extend(self.wrong);
        (all, self.world.trace.unwrap_or_default().join("\n"))
    }

    /// Everything is repaired; all must come to rest, and be well.
    pub(super) fn peace(&mut self) {
        make_peace(&mut self.world);
        self.rest();
    }

    /// All must come to rest as things are, and be well.
    pub(super) fn rest(&mut self) {
        let _ = settle(&mut self.world);
        self.wrong.extend(settled(&self.world).err());
    }

    // Objects and hosts.

    pub(super) fn create_ovm(&mut self, name: &str) {
        let _ = self.world.api.create(&key(name), ovm(name, true, 0));
    }

    pub(super) fn set_running(&mut self, name: &str, running: bool) {
        let _ =
            self.world.api.update::<OfflineVirtualMachine>(&key(name), None, None, |ovm| ovm.spec.running = running);
    }

    /// The user gives the guest these disks; they come at its next start.
    pub(super) fn edit_disks(&mut self, name: &str, disks: &[&str]) {
        let _ = self.world.api.update::<OfflineVirtualMachine>(&key(name), None, None, |ovm| {
            set_disks(&mut ovm.spec.template.spec, disks);
        });
    }

    pub(super) fn delete_ovm(&mut self, name: &str, propagation: Propagation) {
        let _ = self.world.api.delete::<OfflineVirtualMachine>(&key(name), None, None, propagation);
    }

    pub(super) fn delete_vm(&mut self, name: &str) {
        let _ = self.world.api.delete::<VirtualMachine>(&key(name), None, None, Propagation::Background);
    }

    pub(super) fn strip_vm(&mut self, name: &str) {
        let _ = strip(&mut self.world, &key(name));
    }

    /// The VM, if it exists and is not being deleted.
    pub(super) fn living_vm(&self, name: &str) -> Option<&VirtualMachine> {
        self.world.api.state.vms.get(&key(name)).map(|vm| &**vm).filter(|vm| vm.metadata.deletion_timestamp.is_none())
    }

    pub(super) fn cordon(&mut self, node: &str, cordoned: bool) {
        self.world.api.change_node(node, |node| node.cordoned = cordoned);
    }

    pub(super) fn taint(&mut self, node: &str, out_of_service: bool) {
        self.world.api.change_node(node, |node| node.out_of_service = out_of_service);
    }

    pub(super) fn host(&mut self, node: &str) -> &mut Host {
        self.world.affected();
        self.world.hosts.get_mut(node).expect("the stage has two nodes")
    }

    pub(super) fn lose_power(&mut self, node: &str) {
        self.kill_agent(node);
        self.host(node).power_off();
    }

    pub(super) fn kill_agent(&mut self, node: &str) {
        self.world.agents.get_mut(node).expect("the stage has two nodes").kill();
    }

    /// A new agent process, whose first list shows the objects as of `seen`.
    pub(super) fn start_agent(&mut self, node: &str, seen: u64) {
        self.world.agents.insert(node.to_owned(), Agent::new(node, seen));
    }

    pub(super) fn restart_controller(&mut self, index: usize) {
        let now = self.world.now;
        *self.controller_mut(index) = Controller::new(now, 0);
    }

    /// Time passes; the agents of these nodes renew their Leases, and the controllers see it.
    pub(super) fn wait(&mut self, seconds: u64, beating: &[&str]) {
        self.world.affected(); // time alone is worth another look
        for _ in 0..seconds.div_ceil(5) {
            self.world.advance(Duration::from_secs(5));
            for node in beating {
                beat(&mut self.world, node);
            }
            for index in 0..2 {
                self.deliver_to_controller(index);
            }
        }
    }

    // Watches.

    pub(super) fn deliver_to_controller(&mut self, index: usize) {
        let (now, view) = (self.world.now, self.world.api.newest());
        self.controller_mut(index).watch(&view, now);
    }

    pub(super) fn deliver_to_agent(&mut self, node: &str) {
        let newest = self.world.api.version();
        self.world.agents.get_mut(node).expect("the stage has two nodes").seen = newest;
    }

    fn controller_mut(&mut self, index: usize) -> &mut Controller {
        self.world.controllers.get_mut(index).expect("the stage has two controllers")
    }

    // Actors.

    /// One step of a controller.
    pub(super) fn step_controller(&mut self, index: usize, name: &str) {
        controller::step(&mut self.world, index, &key(name), Fate::Good);
        let _ = check::check(&mut self.world);
    }

    /// One step of an agent.
    pub(super) fn step_agent(&mut self, node: &str, name: &str, fate: AgentFate) {
        agent::step(&mut self.world, node, &key(name), fate);
        let _ = check::check(&mut self.world);
    }

    /// A controller acts until it rests, and sees everything.
    pub(super) fn controller(&mut self, index: usize, name: &str) {
        for _ in 0..PATIENCE {
            if !self.controller_mut(index).is_busy(&key(name)) {
                self.deliver_to_controller(index);
            }
            if self.is_controller_idle(index, name) {
                break;
            }
            self.step_controller(index, name);
        }
    }

    /// A controller acts until it rests, and its watch delivers nothing.
    pub(super) fn stale_controller(&mut self, index: usize, name: &str) {
        for _ in 0..PATIENCE {
            self.step_controller(index, name);
            if self.is_controller_idle(index, name) {
                break;
            }
        }
    }

    fn is_controller_idle(&self, index: usize, name: &str) -> bool {
        let activity = self.world.activity();
        self.world.controllers.get(index).is_none_or(|controller| controller.is_idle(&key(name), activity))
    }

    /// A controller acts until it is about to take such a step. Says whether it is.
    pub(super) fn controller_before(&mut self, index: usize, name: &str, is_it: fn(&cluster::Step) -> bool) -> bool {
        self.deliver_to_controller(index);
        for _ in 0..PATIENCE {
            if self.controller_mut(index).next_step(&key(name)).is_some_and(is_it) {
                return true;
            }
            self.step_controller(index, name);
        }
        false
    }

    /// An agent acts until it rests, and sees everything.
    pub(super) fn agent(&mut self, node: &str, name: &str) {
        for _ in 0..PATIENCE {
            self.deliver_to_agent(node);
            if self.is_agent_idle(node, name) {
                break;
            }
            self.step_agent(node, name, AgentFate::default());
        }
    }

    /// An agent acts until it rests, and its watch delivers nothing.
    pub(super) fn stale_agent(&mut self, node: &str, name: &str) {
        for _ in 0..PATIENCE {
            self.step_agent(node, name, AgentFate::default());
            if self.is_agent_idle(node, name) {
                break;
            }
        }
    }

    fn is_agent_idle(&self, node: &str, name: &str) -> bool {
        let activity = self.world.activity();
        self.world.agents.get(node).is_none_or(|agent| !agent.alive || agent.is_idle(&key(name), activity))
    }

    /// An agent acts until it is about to take such a step. Says whether it is.
    pub(super) fn agent_before(&mut self, node: &str, name: &str, is_it: fn(&node::Step) -> bool) -> bool {
        self.deliver_to_agent(node);
        for _ in 0..PATIENCE {
            let agent = self.world.agents.get(node).expect("the stage has two nodes");
            if agent.next_step(&key(name)).is_some_and(is_it) {
                return true;
            }
            self.step_agent(node, name, AgentFate::default());
        }
        false
    }

    /// These controllers, the agents of these nodes and the garbage collector act, for every guest, until none of them has anything to do.
    pub(super) fn act(&mut self, controllers: &[usize], nodes: &[&str]) {
        for _ in 0..PATIENCE {
            let before = self.world.activity();
            for node in nodes {
                full_pass(&mut self.world, node);
            }
            let view = self.world.api.newest();
            let _ = self.world.api.collect_garbage(&view);
            let names: Vec<ObjectKey> = self.world.keys().into_iter().collect();
            for name in names {
                for index in controllers {
                    self.controller(*index, &name.name);
                }
                for node in nodes {
                    self.agent(node, &name.name);
                }
            }
            if self.world.activity() == before {
                break;
            }
            self.world.advance(Duration::from_secs(1));
            for node in nodes {
                beat(&mut self.world, node);
            }
        }
    }

    /// An OVM, whose guest runs on `node`.
    pub(super) fn guest_on(&mut self, node: &str, name: &str) {
        let other = if node == "n1" { "n2" } else { "n1" };
        self.cordon(other, true);
        self.create_ovm(name);
        self.act(&[0, 1], &["n1", "n2"]);
        self.cordon(other, false);
        let runs = self.host(node).process_of(&key(name)).is_some();
        self.require(runs, "the guest of the script does not run");
    }

    /// An OVM, whose VM is bound to `node`, and has not been started.
    pub(super) fn bound_to(&mut self, node: &str, name: &str) {
        let other = if node == "n1" { "n2" } else { "n1" };
        self.cordon(other, true);
        self.create_ovm(name);
        self.act(&[0, 1], &[]);
        self.cordon(other, false);
    }
}

//! An agent process on a node: does for one guest what `agent/` does, one read or one effect at a time, so that anything can happen in between.
//!
//! ```text
//! observe ─► plan ─┬─► steps, one at a time ─► (observe again)
//!                  └─► look: API reads, one at a time ─► /proc ─► observe what is local ─► plan
//! ```

mod execute;
mod images;
mod observe;
mod orphans;

use std::collections::{BTreeMap, VecDeque};
use std::mem::Discriminant;
use std::sync::Arc;

use api::v1alpha1::VirtualMachine;
use jiff::Timestamp;

use super::reach::Milestone;
use super::words::NodeStep;
use super::world::{Fate, World};
use crate::cluster::ObjectKey;
use crate::node::{
    DesiredGuest, ImageFetch, Look, NodePlan, NodeView, OrphanGuard, OvmView, ProcLook, StartCheck, Step, Trouble,
    plan_guest,
};
use execute::{Outcome, execute};
pub(super) use images::{PullFate, registry_goes_on, waiting};
pub(super) use orphans::full_pass;

/// One agent process.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    node: String,
    pub(super) alive: bool,
    /// resourceVersion up to which its watch has delivered.
    pub(super) seen: u64,
    memory: BTreeMap<ObjectKey, Memory>,
    tasks: BTreeMap<ObjectKey, Task>,
    /// What the last pass over all orphans decided (E6), by guest and VM UID.
    guards: BTreeMap<(ObjectKey, String), OrphanGuard>,
}

/// What an agent process remembers of a guest.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// VM UID that `last_signal` and `trouble` are about.
    about: String,
    ready_for: Option<String>,
    is_defined_from_disks: bool,
    fetch: Option<ImageFetch>,
    last_signal: Option<Timestamp>,
    trouble: Option<(Discriminant<Step>, Trouble)>,
    /// The answer to the last write of the VM: the watch may be behind it.
    latest: Option<Arc<VirtualMachine>>,
    /// When there was nothing to do: what had happened by then, and the time.
    idle_at: Option<u64>,
}

/// Where a worker is.
#[derive(Clone, Debug)]
enum Task {
    /// Making the API reads of a look, one at a time.
    Looking { look: Look, desired: Box<DesiredGuest> },
    /// Those are made; /proc is next.
    Looked { desired: Box<DesiredGuest> },
    /// /proc is read too; what is local comes last.
    Planning { desired: Box<DesiredGuest>, proc: ProcLook },
    /// Executing steps, one at a time; then looking, if the plan asked for it.
    Stepping { steps: VecDeque<Step>, look: Option<Look> },
}

/// How a start call ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StartFate {
    /// The guest runs, and the agent knows.
    #[default]
    Good,
    /// The guest runs, and the agent dies before it can note so.
    AgentDies,
    /// The call runs into its deadline, and may take effect later.
    Hangs,
    /// QEMU does not start.
    Fails,
}

/// What a settling finds of a start call that hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LateFate {
    /// It never takes effect.
    #[default]
    Never,
    /// It takes effect just before it is settled.
    FiresFirst,
    /// It is still under way: nothing is settled yet.
    StillHangs,
}

/// What the world does to one step of an agent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AgentFate {
    pub(super) call: Fate,
    pub(super) start: StartFate,
    pub(super) late: LateFate,
    pub(super) pull: PullFate,
    /// The guest that is being started ignores the power button.
    pub(super) deaf: bool,
    /// The guest drops this press of the power button.
    pub(super) press_dropped: bool,
}

impl Agent {
    /// A process that has just started: its first list shows the objects as of `seen`.
    pub(super) fn new(node: &str, seen: u64) -> Self {
        Self {
            node: node.to_owned(),
            alive: true,
            seen,
            memory: BTreeMap::new(),
            tasks: BTreeMap::new(),
            guards: BTreeMap::new(),
        }
    }

    /// The process dies: all that it knew is gone.
    pub(super) fn kill(&mut self) {
        *self = Self { alive: false, ..Self::new(&self.node, 0) };
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
    #[cfg(test)]
    pub(super) fn next_step(&self, key: &ObjectKey) -> Option<&Step> {
        match self.tasks.get(key)? {
            Task::Stepping { steps, .. } => steps.front(),
            Task::Looking { .. } | Task::Looked { .. } | Task::Planning { .. } => None,
        }
    }

    /// Whether it has made its checks for a start, and not yet started.
    pub(super) fn is_starting(&self) -> bool {
        let has_start = |steps: &VecDeque<Step>| steps.iter().any(|step| matches!(step, Step::Start { .. }));
        self.tasks.values().any(|task| matches!(task, Task::Stepping { steps, .. } if has_start(steps)))
    }

    /// Whether it found nothing to do for `key`, and nothing has happened since.
    pub(super) fn is_idle(&self, key: &ObjectKey, activity: u64) -> bool {
        !self.is_busy(key) && self.memory.get(key).is_some_and(|memory| memory.idle_at == Some(activity))
    }

    fn memory(&mut self, key: &ObjectKey) -> &mut Memory {
        self.memory.entry(key.clone()).or_default()
    }
}

/// One step of the agent of `node` for `key`.
pub(super) fn step(world: &mut World, node: &str, key: &ObjectKey, fate: AgentFate) {
    let Some(agent) = world.agents.get_mut(node).filter(|agent| agent.alive) else { return };
    match agent.tasks.remove(key) {
        None => {
            let desired = DesiredGuest { cached: observe::cached(world, node, key), ..DesiredGuest::default() };
            go_on(world, node, key, &desired, ProcLook::NotLooked);
        }
        Some(Task::Looking { look, desired }) => read(world, node, key, look, *desired, fate.call),
        Some(Task::Looked { desired }) => {
            let proc = observe::look_in_proc(world, node, key);
            set_task(world, node, key, Task::Planning { desired, proc });
        }
        Some(Task::Planning { mut desired, proc }) => {
            desired.cached = observe::cached(world, node, key);
            go_on(world, node, key, &desired, proc);
        }
        Some(Task::Stepping { steps, look }) => execute_next(world, node, key, steps, look, fate),
    }
}

fn set_task(world: &mut World, node: &str, key: &ObjectKey, task: Task) {
    if let Some(agent) = world.agents.get_mut(node) {
        agent.tasks.insert(key.clone(), task);
    }
}

/// Observes what is local, plans, and notes what to do next.
fn go_on(world: &mut World, node: &str, key: &ObjectKey, desired: &DesiredGuest, proc: ProcLook) {
    let Some(observed) = observe::observe(world, node, key, desired, proc) else { return };
    let made = plan_guest(world.wall_on(node), desired, &observed);
    world.ledger.node_planned(node, key, &made);
    note_plan(world, node, key, &made);
    let task = match (made.steps.is_empty(), made.look) {
        (true, None) => {
            let activity = world.activity();
            if let Some(agent) = world.agents.get_mut(node) {
                agent.memory(key).idle_at = Some(activity);
            }
            return;
        }
        (true, Some(Look::Orphans)) => return full_pass(world, node),
        (true, Some(look)) => Task::Looking { look, desired: Box::default() },
        (false, look) => Task::Stepping { steps: made.steps.into(), look },
    };
    set_task(world, node, key, task);
}

fn note_plan(world: &mut World, node: &str, key: &ObjectKey, made: &NodePlan) {
    let milestone = match made.report.state {
        "Lost" => Some(Milestone::LostGuestSeen),
        "OrphanHeld" => Some(Milestone::OrphanHeld),
        "OrphanWithSuccessor" => Some(Milestone::OrphanWithSuccessorDestroyed),
        "OrphanEnded" if !made.steps.is_empty() => Some(Milestone::OrphanStopped),
        "EndedElsewhere" if !made.steps.is_empty() => Some(Milestone::FencedGuestDestroyed),
        _ => None,
    };
    if let Some(milestone) = milestone {
        world.hit(milestone);
    }
    if !made.steps.is_empty() {
        world.note(format_args!("{node} {key}: {} {}", made.report.state, made.report.because));
    }
}

/// One read of a look, in the order of `plan::node::Look`.
fn read(world: &mut World, node: &str, key: &ObjectKey, look: Look, mut desired: DesiredGuest, fate: Fate) {
    let reachable = fate == Fate::Good && world.hosts.get(node).is_some_and(|host| host.api_reachable);
    let away = || "the API server does not answer".to_owned();
    let is_renewed = desired.start_check.is_some();
    let node_is_unread =
        desired.start_check.as_ref().is_some_and(|check| matches!(check.node, NodeView::Unreachable(_)));
    match look {
        Look::Start if !is_renewed => {
            if reachable {
                world.api.renew_lease(node);
            }
            let lease = if reachable { Ok(()) } else { Err(away()) };
            desired.start_check = Some(StartCheck { lease, node: NodeView::Unreachable(away()) });
        }
        Look::Start if node_is_unread && reachable => {
            let view = observe::start_view(world, node);
            if let Some(check) = desired.start_check.as_mut() {
                check.node = observe::node_view(&view, node);
            }
        }
        Look::End if desired.ovm == OvmView::Unknown && reachable => desired.ovm = observe::ovm_view(world, key),
        Look::Start | Look::End | Look::Orphans => {
            desired.fresh = Some(observe::fresh_vm(world, node, key, look, reachable));
        }
    }
    let desired = Box::new(desired);
    let task = if desired.fresh.is_some() { Task::Looked { desired } } else { Task::Looking { look, desired } };
    set_task(world, node, key, task);
}

/// Executes the next step; the first that fails ends the pass.
fn execute_next(
    world: &mut World,
    node: &str,
    key: &ObjectKey,
    mut steps: VecDeque<Step>,
    look: Option<Look>,
    fate: AgentFate,
) {
    let Some(step) = steps.pop_front() else { return };
    let outcome = execute(world, node, key, &step, fate);
    world.affected();
    world.note(format_args!("{node} {key}:   {} -> {outcome:?}", NodeStep(&step)));
    let at = world.wall_on(node);
    let Some(agent) = world.agents.get_mut(node).filter(|agent| agent.alive) else { return };
    let memory = agent.memory(key);
    let kind = std::mem::discriminant(&step);
    let task = match outcome {
        Outcome::Done => {
            // A fetch has only begun.
            let has_ended = !matches!(step, Step::FetchImages { .. });
            if matches!(step, Step::Start { .. })
                || has_ended && memory.trouble.as_ref().is_some_and(|(about, _)| *about == kind)
            {
                memory.trouble = None;
            }
            match (steps.is_empty(), look) {
                (true, None | Some(Look::Orphans)) => return,
                (true, Some(look)) => Task::Looking { look, desired: Box::default() },
                (false, look) => Task::Stepping { steps, look },
            }
        }
        Outcome::Changed => return,
        Outcome::Conflict => Task::Looking { look: Look::End, desired: Box::default() },
        Outcome::Failed => {
            let before = memory.trouble.as_ref().filter(|(about, _)| *about == kind);
            let failures = before.map_or(1, |(_, trouble)| trouble.failures.saturating_add(1));
            let (reason, message) = ("StepFailed".to_owned(), NodeStep(&step).to_string());
            let bringing_up = step.is_bringing_up();
            memory.trouble = Some((kind, Trouble { reason, message, at, failures, bringing_up }));
            return;
        }
    };
    set_task(world, node, key, task);
}

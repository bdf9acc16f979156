//! Images on their way to a node: what a registry does while the agent does something else, or is dead.

use jiff::Timestamp;

use super::super::reach::Milestone;
use super::super::world::World;
use super::Memory;
use crate::cluster::ObjectKey;
use crate::node::{FetchState, ImageFetch, Step, Trouble};

/// How a registry takes to being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) enum PullFate {
    /// The image is there before anything else happens.
    #[default]
    Good,
    /// It takes until [`registry_goes_on`].
    Slow,
}

/// Guests of `node` that wait for a registry.
pub(in crate::sim) fn waiting(world: &World, node: &str) -> Vec<ObjectKey> {
    let agent = world.agents.get(node).filter(|agent| agent.alive);
    let is_waiting = |memory: &Memory| {
        let state = memory.fetch.as_ref().map(|fetch| &fetch.state);
        matches!(state, Some(FetchState::Asking { .. } | FetchState::Pulling(_)))
    };
    let memories = agent.into_iter().flat_map(|agent| &agent.memory);
    memories.filter(|(_, memory)| is_waiting(memory)).map(|(key, _)| key.clone()).collect()
}

/// The registry that a guest waits for does the next thing: answers, serves, or fails.
pub(in crate::sim) fn registry_goes_on(world: &mut World, node: &str, key: &ObjectKey, is_good: bool) {
    let at = world.wall_on(node);
    let Some(agent) = world.agents.get_mut(node).filter(|agent| agent.alive) else { return };
    let memory = agent.memory(key);
    let Some(fetch) = &mut memory.fetch else { return };
    let next = match &fetch.state {
        FetchState::Asking { .. } | FetchState::Pulling(_) if !is_good => FetchState::Missing,
        FetchState::Asking { .. } => FetchState::Pulling("half".to_owned()),
        FetchState::Pulling(_) => FetchState::Fetched(vec!["pulled".to_owned()]),
        FetchState::Missing | FetchState::Fetched(_) => return,
    };
    let milestone = match &next {
        FetchState::Missing => Some(Milestone::PullFailed),
        FetchState::Fetched(_) => Some(Milestone::SlowPullDone),
        FetchState::Asking { .. } | FetchState::Pulling(_) => None,
    };
    note(world, node, key, next, at);
    if let Some(milestone) = milestone {
        world.hit(milestone);
    }
}

/// The agent learns of it, as `agent/` does: what failed is a step that failed.
fn note(world: &mut World, node: &str, key: &ObjectKey, next: FetchState, at: Timestamp) {
    world.note(format_args!("{node} {key}: images {next:?}"));
    world.affected();
    let Some(agent) = world.agents.get_mut(node) else { return };
    let memory = agent.memory(key);
    let Some(ImageFetch { vm_uid, state }) = &mut memory.fetch else { return };
    let kind = std::mem::discriminant(&Step::FetchImages { uid: vm_uid.clone() });
    let before = memory.trouble.as_ref().filter(|(about, _)| *about == kind);
    let failures = before.map_or(1, |(_, trouble)| trouble.failures.saturating_add(1));
    match &next {
        FetchState::Missing => {
            let (reason, message) = ("ErrImagePull".to_owned(), "the registry does not answer".to_owned());
            memory.trouble = Some((kind, Trouble { reason, message, at, failures, bringing_up: true }));
        }
        FetchState::Fetched(_) if before.is_some() => memory.trouble = None,
        FetchState::Fetched(_) | FetchState::Asking { .. } | FetchState::Pulling(_) => {}
    }
    *state = next;
}

//! A random run: trouble of every kind for a while, then peace, in which the world must come to what its objects ask for.
//!
//! A seed first draws its weather: how much of each trouble there is, none of most in many seeds. Runs in which everything goes wrong all the time
//! get nowhere.

mod accidents;
mod peace;
mod people;

use std::collections::BTreeMap;
use std::time::Duration;

use super::agent::{self, AgentFate, LateFate, PullFate, StartFate};
use super::check;
use super::controller;
use super::random::Random;
use super::reach::Milestone;
use super::world::{Fate, World, key};
use crate::cluster::ObjectKey;
pub(super) use peace::{make_peace, settle, settled};
#[cfg(test)]
pub(super) use people::strip;

/// Steps under trouble.
const TROUBLED_STEPS: u64 = 2500;
/// Longest time, in steps, for which an actor is stuck in the middle of something.
const LONGEST_STALL: u64 = 400;

/// What a seed may do besides what every seed does. Two of them at once are what the protocol leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mischief {
    /// Finalizers are stripped by hand.
    Strip,
    /// OVMs are deleted with orphaning.
    Orphan,
    /// All objects are lost at once (E6). Nobody makes new ones: placements are lost with them.
    Loss,
}

/// How much of what a seed brings; rates are in thousandths of all steps.
#[derive(Clone, Debug)]
struct Weather {
    mischief: Mischief,
    guests: Vec<ObjectKey>,
    users: u64,
    accidents: u64,
    repairs: u64,
    watches: u64,
    /// One call in so many goes wrong.
    bad_calls: u64,
    /// One start in so many goes wrong.
    bad_starts: u64,
    /// One pull in so many takes its time.
    slow_pulls: u64,
    /// One step in so many stalls its actor.
    stalls: u64,
    wrong_fences: bool,
    clock_steps: bool,
    /// One of the controllers is elected to act; else all do.
    election: bool,
}

impl Weather {
    fn draw(random: &mut Random) -> Self {
        let mischief = match random.below(9) {
            0..4 => Mischief::Strip,
            4..8 => Mischief::Orphan,
            _ => Mischief::Loss,
        };
        let is_crowded = mischief == Mischief::Loss || random.once_in(12);
        let names: &[&str] = if is_crowded { &["a", "b", "c", "d", "bare-e"] } else { &["a", "b", "bare-c"] };
        let few = if is_crowded { names.len() } else { 1 + usize::try_from(random.below(3)).unwrap_or(0) };
        let mut one_of = |rates: &[u64]| random.pick(rates).copied().unwrap_or(0);
        Self {
            mischief,
            guests: names.iter().take(few).map(|name| key(name)).collect(),
            users: one_of(&[2, 5, 12, 25]),
            accidents: one_of(&[0, 2, 4, 8]),
            repairs: one_of(&[10, 25]),
            watches: one_of(&[40, 120, 250]),
            bad_calls: one_of(&[10, 40, 1_000_000]),
            bad_starts: one_of(&[3, 10, 1_000_000]),
            slow_pulls: one_of(&[1, 3, 1_000_000]),
            stalls: one_of(&[15, 60, 1_000_000]),
            wrong_fences: one_of(&[0, 1]) == 1,
            clock_steps: one_of(&[0, 0, 1]) == 1,
            election: one_of(&[0, 0, 1]) == 1,
        }
    }
}

/// Somebody who takes steps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    Controller(usize),
    Agent(String),
}

/// Runs the world under `random`.
///
/// # Errors
/// The first violation.
pub(super) fn run(world: &mut World, random: &mut Random) -> Result<(), String> {
    let weather = Weather::draw(random);
    for guest in &weather.guests {
        people::create(world, guest, random);
    }
    world.leader = weather.election.then_some(0);
    let mut stalled = BTreeMap::new();
    for step in 0..TROUBLED_STEPS {
        trouble(world, random, &weather, &mut stalled, step);
        check::check(world)?;
    }
    world.note(format_args!("--- peace ---"));
    make_peace(world);
    settle(world)?;
    check::check(world)?;
    settled(world)
}

/// One thing happens.
fn trouble(
    world: &mut World,
    random: &mut Random,
    weather: &Weather,
    stalled: &mut BTreeMap<(Actor, ObjectKey), u64>,
    step: u64,
) {
    world.advance(Duration::from_millis(random.below(300)));
    if random.once_in(400) {
        world.advance(Duration::from_secs(random.below(60)));
    }
    let mut draw = random.below(1000);
    let mut falls_on = |rate: u64| {
        let hit = draw < rate;
        draw = draw.saturating_sub(rate);
        hit
    };
    if falls_on(weather.users) {
        people::user_acts(world, random, weather);
    } else if falls_on(weather.accidents) {
        accidents::happen(world, random, weather);
    } else if falls_on(weather.repairs) {
        accidents::repair(world, random);
    } else if falls_on(weather.watches) {
        watches_deliver(world, random);
    } else if falls_on(30) {
        let node = pick_node(world, random);
        beat(world, &node);
    } else if falls_on(25) {
        let view = world.api.newest();
        let _ = world.api.collect_garbage(&view);
    } else if falls_on(10) {
        accidents::guest_acts(world, random);
    } else if falls_on(20) {
        accidents::registry_acts(world, random);
    } else if falls_on(3) {
        let node = pick_node(world, random);
        agent::full_pass(world, &node);
    } else {
        actors_step(world, random, weather, stalled, step);
    }
}

/// One of those who have something to do takes a step; most often one that is in the middle of something.
fn actors_step(
    world: &mut World,
    random: &mut Random,
    weather: &Weather,
    stalled: &mut BTreeMap<(Actor, ObjectKey), u64>,
    step: u64,
) {
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    let activity = world.activity();
    let looks_again = random.once_in(20);
    for key in world.keys() {
        for (index, controller) in world.controllers.iter().enumerate().filter(|(index, _)| world.acts(*index)) {
            let list = if controller.is_busy(&key) { &mut busy } else { &mut idle };
            if looks_again || !controller.is_idle(&key, activity) {
                list.push((Actor::Controller(index), key.clone()));
            }
        }
        for (node, agent) in world.agents.iter().filter(|(_, agent)| agent.alive) {
            let list = if agent.is_busy(&key) { &mut busy } else { &mut idle };
            let matters = agent.is_busy(&key) || looks_again || world.concerns(node, &key);
            if matters && (looks_again || !agent.is_idle(&key, activity)) {
                list.push((Actor::Agent(node.clone()), key.clone()));
            }
        }
    }
    stalled.retain(|_, until| *until > step);
    busy.retain(|turn| !stalled.contains_key(turn));
    let from = if idle.is_empty() || (!busy.is_empty() && !random.once_in(4)) { busy } else { idle };
    let Some((actor, key)) = random.pick(&from).cloned() else { return };
    if random.once_in(weather.stalls) {
        stalled.insert((actor.clone(), key.clone()), step + random.below(LONGEST_STALL));
    }
    let call = pick_call(random, weather);
    match actor {
        Actor::Controller(index) => controller::step(world, index, &key, call),
        Actor::Agent(node) => {
            let fate = AgentFate {
                call,
                start: pick_start(random, weather),
                late: random
                    .pick(&[LateFate::Never, LateFate::FiresFirst, LateFate::StillHangs])
                    .copied()
                    .unwrap_or_default(),
                pull: if random.once_in(weather.slow_pulls) { PullFate::Slow } else { PullFate::Good },
                deaf: random.once_in(4),
                press_dropped: random.once_in(3),
            };
            agent::step(world, &node, &key, fate);
        }
    }
}

fn pick_node(world: &World, random: &mut Random) -> String {
    random.pick(&world.nodes()).cloned().unwrap_or_default()
}

fn pick_call(random: &mut Random, weather: &Weather) -> Fate {
    match random.below(2) {
        0 if random.once_in(weather.bad_calls) => Fate::Lost,
        1 if random.once_in(weather.bad_calls) => Fate::AnswerLost,
        _ => Fate::Good,
    }
}

fn pick_start(random: &mut Random, weather: &Weather) -> StartFate {
    if !random.once_in(weather.bad_starts) {
        return StartFate::Good;
    }
    random.pick(&[StartFate::AgentDies, StartFate::Hangs, StartFate::Fails]).copied().unwrap_or_default()
}

/// A watch delivers a part of what it owes; an agent's only where the API server can be reached.
fn watches_deliver(world: &mut World, random: &mut Random) {
    let newest = world.api.version();
    if random.once_in(2) {
        let index = usize::try_from(random.below(world.controllers.len() as u64)).unwrap_or(0);
        let Some(seen) = world.controllers.get(index).map(|controller| controller.seen) else { return };
        let owed = newest.saturating_sub(seen);
        let view = world.api.at(if random.once_in(2) { newest } else { seen + random.below(owed + 1) });
        let now = world.now;
        if let Some(controller) = world.controllers.get_mut(index) {
            controller.watch(&view, now);
        }
    } else {
        let node = pick_node(world, random);
        if !world.is_connected(&node) {
            return;
        }
        if let Some(agent) = world.agents.get_mut(&node) {
            let owed = newest.saturating_sub(agent.seen);
            agent.seen += if random.once_in(2) { owed } else { random.below(owed + 1) };
        }
    }
}

/// An agent that can, renews its Lease.
pub(super) fn beat(world: &mut World, node: &str) {
    if world.is_connected(node) {
        world.api.renew_lease(node);
    }
}

/// A start call that had run into its deadline takes effect after all.
pub(super) fn fire_late_start(world: &mut World, node: &str, obeys_acpi: bool) {
    let Some(host) = world.hosts.get_mut(node).filter(|host| host.libvirt_up) else { return };
    let Some((late, made_for)) = host.late_starts.pop() else { return };
    let fired = host.start(&late, obeys_acpi);
    let starts = host.domains.get(&late).filter(|_| fired).map(|domain| domain.definition.vm_uid.clone());
    world.ledger.late_start(&late, &made_for, starts.as_deref());
    world.affected();
    world.hit(Milestone::LateStartFired);
    world.note(format_args!("{node} {late}: a late start, made for {made_for}, fires: {starts:?}"));
}

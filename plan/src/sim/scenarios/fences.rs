//! Rows about fencing (F1, F2, S4, E6).

use super::super::Lies;
use super::super::agent::{AgentFate, StartFate};
use super::super::chaos::fire_late_start;
use super::super::world::key;
use super::stage::Stage;
use super::{breaks, holds};
use crate::cluster::Step;
use crate::node::Step as NodeStep;

/// Right fence, node returns between the controller's look and its write.
fn node_returns_within_a_fence(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.lose_power("n1");
    stage.wait(60, &["n2"]);
    stage.taint("n1", true);
    let fences = stage.controller_before(0, "a", |step| matches!(step, Step::WriteVmStatus { .. }));
    stage.require(fences, "the fence is not decided");
    // The node is back, and its agent starts the guest; the controller's watch has seen nothing of it.
    stage.taint("n1", false);
    stage.host("n1").boot();
    let newest = stage.world.api.version();
    stage.start_agent("n1", newest);
    stage.agent("n1", "a");
    stage.lie();
    stage.stale_controller(0, "a");
    // The agent that is back is slow from here on; the back-off of a guest that never ran passes.
    stage.cordon("n1", true);
    stage.wait(15, &["n1", "n2"]);
    stage.act(&[0, 1], &["n2"]);
    stage.peace();
}

#[test]
fn right_fence_node_returns_between_look_and_write() {
    holds(node_returns_within_a_fence);
    breaks(Lies { homes_from_cache: true, ..Lies::default() }, node_returns_within_a_fence, "I1: two guests");
}

/// The same fence, finished; the agent that returns is shown the objects as they were.
fn node_returns_after_a_fence_with_an_old_list(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    let published = stage.agent_before("n1", "a", |step| matches!(step, NodeStep::JournalStart { .. }));
    stage.require(published, "the ABI is not published");
    let old = stage.world.api.version();
    stage.lose_power("n1");
    stage.wait(60, &["n2"]);
    stage.taint("n1", true);
    stage.act(&[0, 1], &["n2"]);
    stage.wait(15, &["n2"]);
    stage.act(&[0, 1], &["n2"]);
    let moved = stage.host("n2").process_of(&key("a")).is_some();
    stage.require(moved, "the successor does not run");
    stage.taint("n1", false);
    stage.host("n1").boot();
    stage.start_agent("n1", old);
    stage.lie();
    stage.stale_agent("n1", "a");
    stage.peace();
}

#[test]
fn right_fence_node_returns_with_an_old_view() {
    holds(node_returns_after_a_fence_with_an_old_list);
    let lies = Lies { start_check_from_cache: true, ..Lies::default() };
    breaks(lies, node_returns_after_a_fence_with_an_old_list, "I1: two guests");
}

/// Node deleted while its agent lives and renews.
fn deleted_alive(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.world.api.delete_node("n1");
    stage.lie();
    for _ in 0..10 {
        stage.wait(10, &["n1", "n2"]);
        stage.act(&[0, 1], &["n2"]);
    }
    stage.peace();
}

#[test]
fn node_deleted_while_its_agent_lives_and_renews() {
    holds(deleted_alive);
    breaks(Lies { leases_expired: true, ..Lies::default() }, deleted_alive, "I1: two guests");
}

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

/// Wrong fence, node returns with more than three guests. Two guests of each until then: that is F3.
fn wrong_fence_of_four(stage: &mut Stage) {
    for name in &FOUR {
        stage.guest_on("n1", name);
    }
    stage.host("n1").api_reachable = false;
    stage.wait(60, &["n2"]);
    stage.taint("n1", true);
    stage.act(&[0, 1], &["n2"]);
    let moved = stage.host("n2").processes.len() == FOUR.len();
    stage.require(moved, "the successors do not run");
    stage.host("n1").api_reachable = true;
    stage.taint("n1", false);
    stage.lie();
    stage.act(&[], &["n1"]);
    let gone = stage.host("n1").processes.is_empty();
    stage.require(gone, "kept running beside their successors");
    let free = stage.host("n1").domains.is_empty();
    stage.require(free, "definitions block successors");
    stage.peace();
}

#[test]
fn wrong_fence_node_returns_with_more_than_three_guests() {
    holds(wrong_fence_of_four);
    // That a successor exists is all that keeps these four from being a mistake somewhere else.
    let lies = Lies { successors_hidden: true, ..Lies::default() };
    breaks(lies, wrong_fence_of_four, "kept running beside their successors");
    breaks(lies, wrong_fence_of_four, "definitions block successors");
}

/// Nodes fenced while libvirt's start calls hang there: nothing runs that the administrator could see, and the calls fire late. That is F3.
fn fenced_while_starts_hang(stage: &mut Stage) {
    for name in FOUR {
        stage.bound_to("n1", name);
        stage.agent_before("n1", name, |step| matches!(step, NodeStep::Start { .. }));
        stage.step_agent("n1", name, AgentFate { start: StartFate::Hangs, ..AgentFate::default() });
    }
    stage.host("n1").api_reachable = false;
    stage.wait(60, &["n2"]);
    stage.taint("n1", true);
    stage.act(&[0, 1], &["n2"]);
    stage.wait(15, &["n2"]);
    stage.act(&[0, 1], &["n2"]);
    let moved = stage.host("n2").processes.clone();
    stage.require(moved.len() == FOUR.len(), "the successors do not run");
    for _ in FOUR {
        fire_late_start(&mut stage.world, "n1", true);
    }
    let late = stage.host("n1").processes.len() == FOUR.len();
    stage.require(late, "the late starts do not fire");
    stage.host("n1").api_reachable = true;
    stage.taint("n1", false);
    stage.lie();
    stage.act(&[], &["n1"]);
    let gone = stage.host("n1").processes.is_empty();
    stage.require(gone, "kept running beside their successors");
    let kept = stage.host("n2").processes == moved;
    stage.require(kept, "a successor is ended");
    stage.peace();
}

#[test]
fn node_fenced_while_start_calls_hang() {
    holds(fenced_while_starts_hang);
    let lies = Lies { successors_hidden: true, ..Lies::default() };
    breaks(lies, fenced_while_starts_hang, "kept running beside their successors");
}

/// I6, not in the table: every object of a node is lost at once, by no fault of its guests.
fn all_objects_lost(stage: &mut Stage) {
    for name in &FOUR {
        stage.guest_on("n1", name);
    }
    let uids = stage.world.api.state.vms.values().filter_map(|vm| vm.metadata.uid.clone());
    stage.world.ledger.stripped.extend(uids);
    stage.world.api.lose_objects();
    stage.lie();
    stage.act(&[0, 1], &["n1", "n2"]);
    for name in FOUR {
        let runs = stage.host("n1").process_of(&key(name)).is_some();
        stage.require(runs, "a guest was ended for a mistake somewhere else");
    }
}

#[test]
fn a_pass_that_would_end_most_guests_ends_none() {
    holds(all_objects_lost);
    let lies = Lies { orphans_look_clear: true, ..Lies::default() };
    breaks(lies, all_objects_lost, "a guest was ended for a mistake somewhere else");
}

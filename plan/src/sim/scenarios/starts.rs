//! Rows about starts (S1, S4, S5, S6, K2).

use super::super::Lies;
use super::super::agent::{AgentFate, StartFate};
use super::super::chaos::fire_late_start;
use super::super::host::End;
use super::super::world::key;
use super::stage::Stage;
use super::{breaks, holds, is_caught};
use crate::node::Step;

/// Guest ended, final state written, undefined; the start checks pass again.
fn start_checks_pass_again(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    let publishes = stage.agent_before("n1", "a", |step| matches!(step, Step::JournalStart { .. }));
    stage.require(publishes, "the ABI is not published");
    let before_start = stage.world.api.version();
    stage.stale_agent("n1", "a");
    let pid = stage.host("n1").process_of(&key("a")).map_or(0, |(pid, _)| pid);
    stage.host("n1").end(pid, End::PoweredOff);
    stage.stale_agent("n1", "a");
    // A new agent process is shown the VM as it was before its start.
    stage.kill_agent("n1");
    stage.start_agent("n1", before_start);
    stage.lie();
    stage.stale_agent("n1", "a");
    stage.peace();
}

#[test]
fn guest_ended_undefined_and_the_start_checks_pass_again() {
    holds(start_checks_pass_again);
    let s4 = Lies { start_check_from_cache: true, ..Lies::default() };
    // The journal still says that it was started, which E1 and E2 take for a run: without S5 too, it runs again.
    is_caught(s4, start_checks_pass_again, "runs again");
    breaks(Lies { journal_without_starts: true, ..s4 }, start_checks_pass_again, "runs again");
}

/// Guest ends before Running is written, reason lost by two daemon crashes.
fn ends_unseen(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.agent_before("n1", "a", |step| matches!(step, Step::Start { .. }));
    stage.step_agent("n1", "a", AgentFate::default());
    let pid = stage.host("n1").process_of(&key("a")).map_or(0, |(pid, _)| pid);
    stage.require(pid != 0, "the guest does not run");
    stage.host("n1").end(pid, End::PoweredOff);
    for _ in 0..2 {
        stage.host("n1").kill_libvirt();
        stage.host("n1").restart_libvirt();
    }
    stage.lie();
    stage.agent("n1", "a");
    stage.peace();
}

#[test]
fn guest_ends_before_running_is_written_and_its_reason_is_lost() {
    holds(ends_unseen);
    breaks(Lies { journal_without_starts: true, ..Lies::default() }, ends_unseen, "runs again");
}

/// Start call hangs past its deadline, fires after the successor was defined (same UUID).
fn late_start(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.cordon("n2", true);
    stage.agent_before("n1", "a", |step| matches!(step, Step::Start { .. }));
    stage.step_agent("n1", "a", AgentFate { start: StartFate::Hangs, ..AgentFate::default() });
    stage.delete_vm("a");
    stage.controller(0, "a"); // R3: what was published is recorded first
    stage.lie();
    stage.act(&[], &["n1"]);
    let gone = !stage.world.api.state.vms.contains_key(&key("a"));
    stage.require(gone, "the VM whose start hung is not let go");
    stage.act(&[0, 1], &[]);
    let defined = stage.agent_before("n1", "a", |step| matches!(step, Step::JournalStart { .. }));
    stage.require(defined, "the successor is not defined");
    fire_late_start(&mut stage.world, "n1", true);
    stage.peace();
}

#[test]
fn start_call_hangs_and_fires_after_the_successor_was_defined() {
    holds(late_start);
    breaks(Lies { starts_settled: true, ..Lies::default() }, late_start, "S6: the wrong VM runs");
}

/// Agent killed between libvirt's answer to the start and noting it: the guest runs, and nobody can say whether another call is under way.
fn killed_in_a_start(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.agent_before("n1", "a", |step| matches!(step, Step::Start { .. }));
    stage.step_agent("n1", "a", AgentFate { start: StartFate::AgentDies, ..AgentFate::default() });
    let first = stage.host("n1").process_of(&key("a")).map(|(pid, _)| pid);
    stage.require(first.is_some(), "the guest does not run");
    let newest = stage.world.api.version();
    stage.start_agent("n1", newest);
    stage.lie();
    stage.act(&[0, 1], &["n1", "n2"]);
    let now = stage.host("n1").process_of(&key("a")).map(|(pid, _)| pid);
    stage.require(now == first, "I5: the guest was ended for its agent's death");
    // Its end is still reported as it was.
    stage.host("n1").end(first.unwrap_or_default(), End::PoweredOff);
    stage.agent("n1", "a");
    stage.peace();
}

#[test]
fn agent_killed_in_a_start_and_the_guest_runs() {
    holds(killed_in_a_start);
    breaks(Lies { unsettled_runs_look_off: true, ..Lies::default() }, killed_in_a_start, "I5: the guest was ended");
}

/// Start call hangs, somebody else starts the domain meanwhile, and that guest ends: the call may still fire.
fn started_by_others_while_a_call_hangs(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.cordon("n2", true);
    stage.agent_before("n1", "a", |step| matches!(step, Step::Start { .. }));
    stage.step_agent("n1", "a", AgentFate { start: StartFate::Hangs, ..AgentFate::default() });
    stage.host("n1").start(&key("a"), true);
    stage.agent("n1", "a");
    let runs = stage.host("n1").process_of(&key("a")).map_or(0, |(pid, _)| pid);
    stage.require(runs != 0, "the guest does not run");
    stage.delete_vm("a");
    stage.controller(0, "a"); // R3: what was published is recorded first
    stage.lie();
    stage.act(&[], &["n1"]);
    let gone = !stage.world.api.state.vms.contains_key(&key("a"));
    stage.require(gone, "the VM is not let go");
    stage.act(&[0, 1], &[]);
    let defined = stage.agent_before("n1", "a", |step| matches!(step, Step::JournalStart { .. }));
    stage.require(defined, "the successor is not defined");
    fire_late_start(&mut stage.world, "n1", true);
    stage.peace();
}

#[test]
fn guest_runs_and_ends_while_its_start_call_hangs() {
    holds(started_by_others_while_a_call_hangs);
    breaks(
        Lies { starts_settled: true, ..Lies::default() },
        started_by_others_while_a_call_hangs,
        "S6: the wrong VM runs",
    );
}

/// Finalizer stripped from a VM not being deleted and not started.
fn stripped_before_its_start(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.strip_vm("a");
    stage.lie();
    stage.peace();
}

#[test]
fn finalizer_stripped_from_a_vm_not_deleted_and_not_started() {
    holds(stripped_before_its_start);
    let lies = Lies { finalizers_look_present: true, ..Lies::default() };
    breaks(lies, stripped_before_its_start, "shall run, and is Scheduled");
}

/// VM stripped and deleted while it runs, successor on the same node; both want one disk.
fn successor_wants_the_disk(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.cordon("n2", true);
    stage.strip_vm("a");
    stage.delete_vm("a");
    stage.lie();
    stage.act(&[0, 1], &["n1", "n2"]);
    stage.peace();
}

#[test]
fn vm_stripped_and_its_successor_wants_the_disk_that_it_had() {
    holds(successor_wants_the_disk);
    let lies = Lies { predecessors_hidden: true, ..Lies::default() };
    breaks(lies, successor_wants_the_disk, "shall run, and is Scheduled");
}

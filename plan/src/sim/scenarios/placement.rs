//! Rows about placement: which node a successor goes to, and when the old one is free (S2, E4, E5, D3).

use super::super::Lies;
use super::super::api::Propagation;
use super::super::world::key;
use super::stage::Stage;
use super::{breaks, holds, is_caught};
use crate::{cluster, node};

/// A guest runs on n1, and its VM object is gone: its finalizer was stripped, then it was deleted.
fn strip_and_delete(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.strip_vm("a");
    stage.delete_vm("a");
    let gone = !stage.world.api.state.vms.contains_key(&key("a"));
    stage.require(gone, "the stripped VM is still there");
}

/// VM stripped of its finalizer, successor re-decided to another node before binding.
fn decided_again(stage: &mut Stage) {
    strip_and_delete(stage);
    let placed = stage.controller_before(0, "a", |step| matches!(step, cluster::Step::WriteVmStatus { .. }));
    stage.require(placed, "the successor is not placed");
    stage.restart_controller(0);
    stage.cordon("n1", true);
    stage.lie();
    stage.act(&[0, 1], &["n2"]);
    stage.peace();
}

#[test]
fn successor_of_a_stripped_vm_re_decided_before_binding() {
    holds(decided_again);
    breaks(Lies { placement_of_unbound_hidden: true, ..Lies::default() }, decided_again, "I1: two guests");
}

/// VM stripped and still running, successor bound there and deleted.
fn successor_deleted(stage: &mut Stage) {
    strip_and_delete(stage);
    stage.act(&[0, 1], &[]);
    stage.delete_vm("a");
    stage.cordon("n1", true);
    stage.lie();
    stage.act(&[0, 1], &["n2"]);
    // One by one: what the node's agent lets go is taken up at once by the others.
    for _ in 0..40 {
        stage.deliver_to_agent("n1");
        stage.step_agent("n1", "a", super::super::agent::AgentFate::default());
        stage.act(&[0, 1], &["n2"]);
    }
    stage.peace();
}

#[test]
fn vm_stripped_and_running_successor_bound_there_and_deleted() {
    holds(successor_deleted);
    // "No domain of that name, of any VM UID": without it, the look in /proc (E1) still finds the first guest, and ends it.
    let e4 = Lies { only_own_domains: true, ..Lies::default() };
    is_caught(e4, successor_deleted, "I1: two guests");
    breaks(Lies { proc_clear: true, ..e4 }, successor_deleted, "I1: two guests");
}

/// Strip, background delete of the OVM, re-create.
fn recreated(stage: &mut Stage) {
    strip_and_delete(stage);
    stage.delete_ovm("a", Propagation::Background);
    stage.cordon("n1", true);
    stage.lie();
    stage.act(&[0, 1], &[]);
    stage.create_ovm("a");
    stage.world.lies = Lies::default();
    stage.act(&[0, 1], &["n2"]);
    stage.peace();
    stage.create_ovm("a");
    stage.peace();
}

#[test]
fn strip_background_delete_of_the_ovm_and_re_create() {
    holds(recreated);
    breaks(Lies { controllers_see_no_placement: true, ..Lies::default() }, recreated, "I1: two guests");
}

/// Release missed, node cordoned or full.
fn release_missed(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.cordon("n1", true);
    stage.delete_vm("a");
    let releases = stage.agent_before("n1", "a", |step| matches!(step, node::Step::ReleasePlacement { .. }));
    stage.require(releases, "the placement is not released");
    stage.kill_agent("n1");
    stage.act(&[0, 1], &["n2"]);
    stage.start_agent("n1", 0);
    stage.lie();
    stage.rest();
}

#[test]
fn release_missed_and_the_node_cordoned() {
    holds(release_missed);
    let lies = Lies { agents_see_no_placement: true, ..Lies::default() };
    breaks(lies, release_missed, "shall run, and is Pending");
}

/// Template edited, VM deleted; a controller's caches show neither, nor that VM, and it creates the next.
fn old_template(stage: &mut Stage) {
    stage.create_ovm("a");
    stage.set_running("a", false);
    stage.act(&[0], &["n1", "n2"]);
    stage.set_running("a", true);
    stage.deliver_to_controller(1);
    stage.act(&[0], &["n1", "n2"]);
    stage.edit_disks("a", &["y"]);
    stage.delete_vm("a");
    stage.act(&[], &["n1", "n2"]);
    stage.require(stage.living_vm("a").is_none(), "the VM of the script is not gone");
    stage.lie();
    stage.stale_controller(1, "a");
    stage.require(stage.living_vm("a").is_some(), "there is no new VM");
    stage.act(&[0, 1], &["n1", "n2"]);
    stage.peace();
}

#[test]
fn template_is_edited_and_a_controllers_caches_are_behind() {
    holds(old_template);
    breaks(Lies { templates_look_current: true, ..Lies::default() }, old_template, "was made from an old template");
}

/// Slow controller writes placement of an older VM.
fn old_placement(stage: &mut Stage) {
    stage.cordon("n2", true);
    stage.create_ovm("a");
    let creates = stage.controller_before(1, "a", |step| matches!(step, cluster::Step::CreateVm(_)));
    stage.require(creates, "the VM is not created");
    stage.step_controller(1, "a");
    stage.restart_controller(1);
    // One controller has read the first VM, and is about to read the OVM.
    stage.deliver_to_controller(0);
    stage.lie();
    stage.step_controller(0, "a");
    stage.step_controller(0, "a");
    // The other sees it deleted, creates the next, and is about to place that on the other node.
    stage.cordon("n1", true);
    stage.cordon("n2", false);
    stage.delete_vm("a");
    stage.controller_before(1, "a", |step| matches!(step, cluster::Step::CreateVm(_)));
    stage.step_controller(1, "a");
    stage.step_controller(0, "a"); // reads the OVM
    stage.step_controller(0, "a"); // reads the VM again; without that, places the first one
    stage.lose_power("n1");
    stage.rest();
}

#[test]
fn slow_controller_writes_placement_of_an_older_vm() {
    holds(old_placement);
    breaks(Lies { vm_read_once: true, ..Lies::default() }, old_placement, "shall run, and is Pending");
}

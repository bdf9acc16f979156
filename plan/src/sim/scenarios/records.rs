//! Rows about the ABI record (S3, R1, R3).

use super::super::Lies;
use super::super::agent::AgentFate;
use super::super::api::Propagation;
use super::super::host::End;
use super::super::world::key;
use super::stage::Stage;
use super::{breaks, holds};
use crate::cluster;
use crate::node;

impl Stage {
    /// The guest is stopped, and its VM goes.
    fn stop(&mut self, name: &str) {
        self.set_running(name, false);
        self.act(&[1], &["n1", "n2"]);
        let gone = !self.world.api.state.vms.contains_key(&key(name));
        self.require(gone, "the VM of the script is not gone");
    }
}

/// Controller's revision cache behind at binding.
fn stale_records(stage: &mut Stage) {
    stage.create_ovm("a");
    stage.act(&[1], &["n1", "n2"]);
    stage.stop("a");
    stage.edit_disks("a", &["y"]);
    stage.set_running("a", true);
    stage.lie();
    stage.act(&[0], &[]);
    stage.world.lies = Lies::default();
    stage.peace();
}

#[test]
fn revision_cache_is_behind_at_binding() {
    holds(stale_records);
    breaks(Lies { records_hidden: true, ..Lies::default() }, stale_records, "I4");
}

/// Slow controller writes an old VM's ABI over a newer revision.
fn slow_record(stage: &mut Stage) {
    let writes_record = |step: &cluster::Step| matches!(step, cluster::Step::CreateRevision(_));
    stage.bound_to("n1", "a");
    stage.act(&[], &["n1", "n2"]);
    let waits = stage.controller_before(0, "a", writes_record);
    stage.require(waits, "no controller is about to write the first record");
    stage.act(&[1], &["n1", "n2"]);
    stage.stop("a");
    stage.edit_disks("a", &["y", "z", "w"]);
    stage.set_running("a", true);
    stage.act(&[1], &["n1", "n2"]);
    stage.stop("a");
    stage.lie();
    // The write of the first VM's record arrives at last.
    stage.step_controller(0, "a");
    stage.edit_disks("a", &["y", "w", "z"]);
    stage.set_running("a", true);
    stage.peace();
}

#[test]
fn a_slow_controller_writes_an_old_abi_over_a_newer_record() {
    holds(slow_record);
    breaks(Lies { records_get_any_number: true, ..Lies::default() }, slow_record, "I4");
}

/// OVM deleted between publish and record.
fn deleted_before_the_record(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.act(&[], &["n1"]);
    stage.delete_ovm("a", Propagation::Background);
    stage.lie();
    stage.peace();
}

#[test]
fn ovm_is_deleted_between_publish_and_record() {
    holds(deleted_before_the_record);
    breaks(Lies { ovms_look_kept: true, ..Lies::default() }, deleted_before_the_record, "being deleted");
}

/// VM deleted between publish and record: the other half of R3.
fn let_go_before_the_record(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.agent_before("n1", "a", |step| matches!(step, node::Step::Start { .. }));
    stage.step_agent("n1", "a", AgentFate::default());
    let pid = stage.host("n1").process_of(&key("a")).map_or(0, |(pid, _)| pid);
    stage.require(pid != 0, "the guest does not run");
    stage.host("n1").end(pid, End::PoweredOff);
    stage.edit_disks("a", &["y"]);
    stage.delete_vm("a");
    stage.lie();
    stage.act(&[], &["n1", "n2"]);
    stage.peace();
}

#[test]
fn r3_a_vm_that_was_published_is_let_go_after_its_record() {
    holds(let_go_before_the_record);
    breaks(Lies { abi_looks_recorded: true, ..Lies::default() }, let_go_before_the_record, "I4");
}

/// A node that dies before the controller has recorded what it published: F2's second write is the controller's own letting go.
fn fenced_before_the_record(stage: &mut Stage) {
    stage.bound_to("n1", "a");
    stage.act(&[], &["n1"]);
    stage.lose_power("n1");
    stage.taint("n1", true);
    stage.edit_disks("a", &["y"]);
    stage.wait(60, &["n2"]);
    stage.act(&[0, 1], &["n2"]);
    let runs = stage.host("n2").process_of(&key("a")).is_some();
    stage.require(runs, "the successor does not run on the other node");
    stage.peace();
}

#[test]
fn r3_a_fenced_vm_is_let_go_after_its_record() {
    holds(fenced_before_the_record);
}

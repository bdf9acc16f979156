//! Rows about deletion and adoption (D1 to D3).

use super::super::Lies;
use super::super::api::Propagation;
use super::super::world::{bare_vm, key};
use super::stage::Stage;
use super::{breaks, holds};
use crate::cluster::{MetadataEdit, Step};

/// Slow controller's OVM cache says running: false.
fn old_running_false(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.set_running("a", false);
    stage.deliver_to_controller(1);
    stage.step_controller(1, "a"); // wants to delete, and is about to look
    stage.act(&[0], &["n1", "n2"]);
    stage.set_running("a", true);
    // Not placed yet: the write of a placement would meet a conflict before it comes to a delete.
    stage.controller_before(0, "a", |step| matches!(step, Step::CreateVm(_)));
    stage.step_controller(0, "a");
    stage.require(stage.living_vm("a").is_some(), "there is no new VM");
    stage.lie();
    stage.stale_controller(1, "a");
    stage.require(stage.living_vm("a").is_some(), "a new VM is deleted");
    stage.world.lies = Lies::default();
    stage.peace();
}

#[test]
fn slow_controllers_ovm_cache_says_running_false() {
    holds(old_running_false);
    breaks(Lies { ovm_from_cache: true, ..Lies::default() }, old_running_false, "a new VM is deleted");
}

/// A guest runs without OVM; one is created, and a controller is about to adopt the VM when that OVM is deleted with `orphan`.
fn adoption_in_flight(stage: &mut Stage) {
    let _ = stage.world.api.create(&key("a"), bare_vm("a", 0));
    stage.act(&[0, 1], &["n1", "n2"]);
    stage.create_ovm("a");
    let adopts =
        stage.controller_before(0, "a", |step| matches!(step, Step::EditVm(_, MetadataEdit::OwnerReferences(_))));
    stage.require(adopts, "the VM is not adopted");
    stage.delete_ovm("a", Propagation::Orphan);
    stage.lie();
}

fn guest_is_left_alone(stage: &mut Stage) {
    stage.act(&[0, 1], &["n1", "n2"]);
    stage.require(stage.living_vm("a").is_some(), "a running guest is deleted");
    let gone = !stage.world.api.state.ovms.contains_key(&key("a"));
    stage.require(gone, "the OVM is not let go");
    stage.world.lies = Lies::default();
    stage.peace();
}

/// Adoption lands after an orphan delete finished.
fn late_adoption(stage: &mut Stage) {
    adoption_in_flight(stage);
    stage.act(&[1], &[]);
    stage.step_controller(0, "a");
    guest_is_left_alone(stage);
}

/// The same, and it lands when the garbage collector is through, and we are not.
fn adoption_within_an_orphan_delete(stage: &mut Stage) {
    adoption_in_flight(stage);
    stage.act(&[], &[]);
    stage.step_controller(0, "a");
    stage.restart_controller(0);
    guest_is_left_alone(stage);
}

#[test]
fn adoption_lands_after_an_orphan_delete_finished() {
    holds(late_adoption);
    breaks(Lies { adoptions_look_blocked: true, ..Lies::default() }, late_adoption, "a running guest is deleted");
    holds(adoption_within_an_orphan_delete);
    let d2 = Lies { placements_look_right: true, ..Lies::default() };
    breaks(d2, adoption_within_an_orphan_delete, "a running guest is deleted");
}

/// VM read before the OVM at letting go.
fn create_in_flight(stage: &mut Stage) {
    stage.create_ovm("a");
    let creates = stage.controller_before(1, "a", |step| matches!(step, Step::CreateVm(_)));
    stage.require(creates, "the VM is not created");
    stage.delete_ovm("a", Propagation::Background);
    stage.deliver_to_controller(0);
    stage.lie();
    stage.step_controller(0, "a"); // wants to let go, and is about to look
    stage.step_controller(0, "a"); // no VM yet
    stage.step_controller(1, "a"); // here it is
    stage.stale_controller(0, "a");
    stage.peace();
}

#[test]
fn vm_read_before_the_ovm_at_letting_go() {
    holds(create_in_flight);
    breaks(Lies { vm_read_once: true, ..Lies::default() }, create_in_flight, "D3: the OVM is let go, and a VM");
}

/// A controller dies between placement and binding, and the OVM is deleted then: the node that was to have the guest is told, since only it can release.
fn deleted_between_placement_and_binding(stage: &mut Stage) {
    stage.create_ovm("a");
    let binds = |step: &Step| matches!(step, Step::WriteVmStatus { status, .. } if status.node_name.is_some());
    let waits = stage.controller_before(0, "a", binds);
    stage.require(waits, "the VM is not about to be bound");
    stage.restart_controller(0);
    stage.delete_ovm("a", Propagation::Background);
    stage.act(&[1], &[]);
    let told = stage.world.api.state.vms.get(&key("a")).and_then(|vm| vm.status.as_ref()?.node_name.clone());
    stage.require(told.is_some(), "no node is told, and the OVM waits for one");
    stage.act(&[1], &["n1", "n2"]);
    let ran = stage.host("n1").process_of(&key("a")).is_some() || stage.host("n2").process_of(&key("a")).is_some();
    let gone = !stage.world.api.state.ovms.contains_key(&key("a"));
    stage.require(gone && !ran, "the OVM is not let go, or its guest was started");
    stage.peace();
}

#[test]
fn e3_an_ovm_that_is_deleted_between_placement_and_binding_goes_at_once() {
    holds(deleted_between_placement_and_binding);
}

//! The row about a QEMU that libvirt has lost (E1).

use super::super::Lies;
use super::super::world::key;
use super::stage::Stage;
use super::{breaks, holds};

/// libvirt forgets a live QEMU (shut off, unknown).
fn forgotten(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.cordon("n1", true);
    stage.host("n1").forget(&key("a"));
    stage.lie();
    stage.act(&[0, 1], &["n1", "n2"]);
    // The administrator is told, and deletes the VM: that ends the process.
    stage.delete_vm("a");
    stage.act(&[0, 1], &["n1", "n2"]);
    stage.peace();
}

#[test]
fn libvirt_forgets_a_live_qemu() {
    holds(forgotten);
    let lies = Lies { proc_clear: true, ..Lies::default() };
    breaks(lies, forgotten, "is reported as Failed, and runs");
    breaks(lies, forgotten, "I1: two guests");
}

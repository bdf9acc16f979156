//! Rows about taints (T1).

use super::super::Lies;
use super::super::world::key;
use super::stage::Stage;
use super::{breaks, holds, is_caught};

/// A NoExecute taint ends the node's guest, which comes up elsewhere, once.
fn tainted(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    // The controllers have seen the node's Lease change.
    stage.wait(10, &["n1", "n2"]);
    stage.lie();
    stage.world.api.change_node("n1", |node| node.tainted = true);
    stage.act(&[0, 1], &["n1", "n2"]);
    let moved = stage.host("n2").process_of(&key("a")).is_some() && stage.host("n1").processes.is_empty();
    stage.require(moved, "the guest stays on the tainted node");
    stage.rest();
}

#[test]
fn no_execute_taint_moves_a_guest() {
    holds(tainted);
    breaks(Lies { taints_hidden: true, ..Lies::default() }, tainted, "the guest stays on the tainted node");
}

/// Node cut off, and tainted by Kubernetes and by an administrator: its guest runs on until the node is fenced.
fn tainted_while_lost(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.wait(10, &["n1", "n2"]);
    stage.host("n1").api_reachable = false;
    stage.wait(60, &["n2"]);
    stage.lie();
    stage.world.api.change_node("n1", |node| (node.tainted, node.kubelet_silent) = (true, true));
    stage.act(&[0, 1], &["n2"]);
    let kept = stage.living_vm("a").is_some();
    stage.require(kept, "a lost node's guest is to be ended");
    stage.world.api.change_node("n1", |node| (node.tainted, node.kubelet_silent) = (false, false));
    stage.host("n1").api_reachable = true;
    stage.peace();
}

#[test]
fn taints_of_a_lost_node_end_no_guest() {
    holds(tainted_while_lost);
    breaks(
        Lies { leases_look_live: true, ..Lies::default() },
        tainted_while_lost,
        "a lost node's guest is to be ended",
    );
}

/// The kubelet is silent, and our agent is not: Kubernetes' taint is about pods.
fn kubelet_silent(stage: &mut Stage) {
    stage.guest_on("n1", "a");
    stage.wait(10, &["n1", "n2"]);
    let before = stage.host("n1").processes.clone();
    stage.lie();
    stage.world.api.change_node("n1", |node| node.kubelet_silent = true);
    stage.act(&[0, 1], &["n1", "n2"]);
    let kept = stage.host("n1").processes == before;
    stage.require(kept, "a guest is ended for its node's kubelet");
    stage.peace();
}

#[test]
fn a_silent_kubelet_ends_no_guest() {
    holds(kubelet_silent);
    let lies = Lies { kubernetes_taints_look_like_ours: true, ..Lies::default() };
    breaks(lies, kubelet_silent, "a guest is ended for its node's kubelet");
    // On a lost node the Lease says the same.
    is_caught(lies, tainted_while_lost, "a lost node's guest is to be ended");
}

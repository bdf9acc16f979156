//! A cluster of two nodes with real kubelets, installed as an administrator does: the images of `make images`, `kubectl apply -k manifests/overlays/dev`,
//! and on each node `kubectl exec POD -- ovm-agent image import`.
//!
//! One cluster for all scenarios, one after another: it takes the better part of a minute to start. Each scenario removes what it made; one that fails
//! is named, and the next ones run.

mod controllers;
mod guide;
mod nodes;
mod placement;
mod world;

use std::time::Instant;

use anyhow::{Result, ensure};
use tests::kube::why_no_cluster;
use tests::programs::{say, say_skipped};

use crate::world::{World, why_no_images};

type Scenario = (&'static str, fn(&World) -> Result<()>);

/// In this order: what takes a node away comes last.
const SCENARIOS: [Scenario; 11] = [
    ("the_guide_s_walk_through", guide::walk_through),
    ("a_namespace_takes_its_machines_with_it", guide::a_namespace_takes_its_machines_with_it),
    ("node_selector_and_affinity_choose_the_node", placement::node_selector_and_affinity_choose_the_node),
    ("a_taint_keeps_machines_away", placement::a_taint_keeps_machines_away),
    ("a_machine_that_fits_nowhere_says_so", placement::a_machine_that_fits_nowhere_says_so),
    ("no_guest_notices_that_agents_are_replaced", nodes::no_guest_notices_that_agents_are_replaced),
    ("no_guest_notices_a_restart_of_libvirtd", nodes::no_guest_notices_a_restart_of_libvirtd),
    ("a_leader_that_goes_in_the_middle_of_a_start", controllers::a_leader_that_goes_in_the_middle_of_a_start),
    ("without_controllers_what_is_there_can_be_stopped", controllers::without_controllers_what_is_there_can_be_stopped),
    ("a_silent_kubelet_stops_no_guest", nodes::a_silent_kubelet_stops_no_guest),
    (
        "a_node_that_is_cut_off_keeps_its_guest_until_it_is_fenced",
        nodes::a_node_that_is_cut_off_keeps_its_guest_until_it_is_fenced,
    ),
];

#[test]
fn two_nodes() -> Result<()> {
    if let Some(reason) = why_no_cluster().or_else(why_no_images) {
        for (name, _) in SCENARIOS {
            say_skipped(&format!("cluster::{name}"), &reason);
        }
        return Ok(());
    }
    let start = Instant::now();
    let world = World::start()?;
    say(&format!("cluster: installed on two nodes ({} s)", start.elapsed().as_secs()));
    // One by name, for whoever works on it.
    let only = std::env::var("OVM_TEST_SCENARIO").ok();
    let mut failed = Vec::new();
    for (name, scenario) in
        SCENARIOS.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| name.contains(only)))
    {
        let start = Instant::now();
        let result = scenario(&world).and_then(|()| world.clear());
        match result {
            Ok(()) => say(&format!("cluster::{name}: ok ({} s)", start.elapsed().as_secs())),
            Err(error) => {
                eprintln!("cluster::{name}: FAILED ({} s): {error:?}\n{}", start.elapsed().as_secs(), world.report());
                failed.push(name);
                world.clear()?;
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {failed:?}");
    Ok(())
}

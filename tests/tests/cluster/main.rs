//! A cluster of two nodes with real kubelets, installed as an administrator does: the images of `make images`, `kubectl apply -k manifests/overlays/dev`,
//! and on each node `kubectl exec POD -- ovm-agent image import`.
//!
//! One cluster for all scenarios, one after another: it takes the better part of a minute to start. Each scenario removes what it made; one that fails
//! is named, and the next ones run.

mod controllers;
mod guide;
mod load;
mod metrics;
mod moves;
mod nodes;
mod placement;
mod tokens;
mod world;

use std::time::Instant;

use anyhow::{Result, ensure};
use tests::kube::why_no_cluster;
use tests::programs::{say, say_skipped};

use crate::world::{World, why_no_images};

type Scenario = (&'static str, fn(&World) -> Result<()>);

/// In this order: what takes a node away comes last.
const SCENARIOS: [Scenario; 18] = [
    ("the_guide_s_walk_through", guide::walk_through),
    ("a_namespace_takes_its_machines_with_it", guide::a_namespace_takes_its_machines_with_it),
    ("node_selector_and_affinity_choose_the_node", placement::node_selector_and_affinity_choose_the_node),
    ("a_taint_keeps_machines_away", placement::a_taint_keeps_machines_away),
    ("a_machine_that_fits_nowhere_says_so", placement::a_machine_that_fits_nowhere_says_so),
    ("a_guest_that_moves_sees_the_same_machine", moves::a_guest_that_moves_sees_the_same_machine),
    ("pods_say_how_they_are", metrics::pods_say_how_they_are),
    ("no_guest_notices_that_agents_are_replaced", nodes::no_guest_notices_that_agents_are_replaced),
    ("no_guest_notices_a_restart_of_libvirtd", nodes::no_guest_notices_a_restart_of_libvirtd),
    ("leaders_go_in_the_middle_of_starts", controllers::leaders_go_in_the_middle_of_starts),
    ("without_controllers_what_is_there_can_be_stopped", controllers::without_controllers_what_is_there_can_be_stopped),
    (
        "a_datastore_that_is_slow_and_then_hangs_loses_no_guest",
        load::a_datastore_that_is_slow_and_then_hangs_loses_no_guest,
    ),
    (
        "an_api_server_that_turns_requests_away_loses_no_guest",
        load::an_api_server_that_turns_requests_away_loses_no_guest,
    ),
    ("tokens_end_and_the_kubelet_replaces_them", tokens::tokens_end_and_the_kubelet_replaces_them),
    ("tokens_expire", tokens::tokens_expire),
    (
        "an_uninstall_leaves_guests_running_and_an_install_finds_them",
        guide::an_uninstall_leaves_guests_running_and_an_install_finds_them,
    ),
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
    // Some by words of their names, for whoever works on them.
    let only = std::env::var("OVM_TEST_SCENARIO").ok();
    let is_asked = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|word| name.contains(word)));
    let mut failed = Vec::new();
    for (name, scenario) in SCENARIOS.into_iter().filter(|(name, _)| is_asked(name)) {
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

//! An API server that is slow, hangs, or turns our programs away.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::wait::wait_for;
use tests::watch::Watch;

use crate::nodes::{expect_same, guests_on_both_nodes, stop_all};
use crate::world::{DEADLINE, SYSTEM, World, small};

/// Machines of a burst.
const BURST: usize = 5;

/// How long the datastore is slow, and how long it hangs after that: longer than a leader's Lease, shorter than a node's.
const SLOW: Duration = Duration::from_secs(6);
const HANG: Duration = Duration::from_secs(17);

/// In each turn of slowness it stands still for the first, and works for the second.
const TURN: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(100));

/// The priority level, and the flow schema, that let one request of our programs through at a time, and turn the others away.
const NARROW: &str = "test-narrow";

pub(crate) fn a_datastore_that_is_slow_and_then_hangs_loses_no_guest(world: &World) -> Result<()> {
    let guests = guests_on_both_nodes(world)?;
    let watch = Watch::start(&world.admin, &["get", "virtualmachines"], "{.metadata.name} {.metadata.uid}")?;
    let names = burst(world, "slow")?;
    let control_plane = world.cluster.control_plane();
    let slow = Instant::now();
    while slow.elapsed() < SLOW {
        control_plane.suspend_datastore()?;
        thread::sleep(TURN.0);
        control_plane.resume_datastore()?;
        thread::sleep(TURN.1);
    }
    control_plane.suspend_datastore()?;
    thread::sleep(HANG);
    control_plane.resume_datastore()?;
    expect_once(world, &names, &watch)?;
    expect_same(world, &guests)?;
    stop_all(world, &guests)
}

pub(crate) fn an_api_server_that_turns_requests_away_loses_no_guest(world: &World) -> Result<()> {
    let guests = guests_on_both_nodes(world)?;
    let watch = Watch::start(&world.admin, &["get", "virtualmachines"], "{.metadata.name} {.metadata.uid}")?;
    let result = narrow(world).and_then(|()| {
        let names = burst(world, "narrow")?;
        expect_once(world, &names, &watch)?;
        turned_away(world)
    });
    world.admin.kubectl(&["delete", "flowschema,prioritylevelconfiguration", NARROW, "--ignore-not-found"])?;
    let count = result?;
    // Whoever is told to come again in a second and does not wait asks hundreds of times a second.
    ensure!(count > 0, "nobody was turned away");
    ensure!(count < 5000, "{count} requests were turned away");
    expect_same(world, &guests)?;
    stop_all(world, &guests)
}

fn burst(world: &World, name: &str) -> Result<Vec<String>> {
    let names: Vec<String> = (0..BURST).map(|index| format!("{name}-{index}")).collect();
    let items: Vec<_> = names.iter().map(|name| small(name, "idle", &json!({}))).collect();
    world.admin.create(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
    Ok(names)
}

/// Each runs on its node alone, and had one VirtualMachine since the watch began.
fn expect_once(world: &World, names: &[String], watch: &Watch) -> Result<()> {
    for name in names {
        let machine = world.wait_until_running(name)?;
        let node = machine["status"]["nodeName"].as_str().context("it has no node")?;
        let hosts = world.hosts_of("default", name)?;
        ensure!(hosts == [node], "{name} of node {node} has domains on {hosts:?}");
    }
    let mut made: Vec<String> = watch.values();
    made.retain(|line| names.iter().any(|name| line.split(' ').next() == Some(name)));
    made.sort();
    made.dedup();
    ensure!(made.len() == names.len(), "there have been VirtualMachines {made:?}");
    Ok(())
}

fn narrow(world: &World) -> Result<()> {
    let limited = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
    }});
    let kind = |kind: &str, spec| json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "metadata": {"name": NARROW}, "spec": spec});
    world.admin.create(&kind("PriorityLevelConfiguration", limited))?;
    let subjects = ["ovm-controller", "ovm-agent"]
        .map(|name| json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": SYSTEM}}));
    let everything =
        json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
    let schema = json!({
        "priorityLevelConfiguration": {"name": NARROW}, "matchingPrecedence": 2,
        "rules": [{"subjects": subjects, "resourceRules": [everything]}],
    });
    world.admin.create(&kind("FlowSchema", schema))?;
    wait_for("our programs' requests go through it", DEADLINE, || {
        ensure!(counter(world, "apiserver_flowcontrol_dispatched_requests_total")? > 0, "none has yet");
        Ok(())
    })
}

/// Requests that were answered with 429.
fn turned_away(world: &World) -> Result<u64> {
    counter(world, "apiserver_flowcontrol_rejected_requests_total")
}

/// A counter of the API server, of our priority level.
fn counter(world: &World, name: &str) -> Result<u64> {
    let metrics = world.admin.kubectl(&["get", "--raw", "/metrics"])?;
    let ours = format!("priority_level=\"{NARROW}\"");
    let of_ours = metrics.lines().filter(|line| line.starts_with(name) && line.contains(&ours));
    let numbers = of_ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of a short test")]
    Ok(numbers.sum::<f64>() as u64)
}

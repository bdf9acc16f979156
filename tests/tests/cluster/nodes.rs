//! What happens to nodes while guests run on them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::stack::uid;
use tests::wait::wait_for;

use crate::world::{DEADLINE, NODES, SYSTEM, World, on, small};

/// Our Leases say after 40 s that a node is lost.
const LOST_DEADLINE: Duration = Duration::from_mins(4);

pub(crate) fn no_guest_notices_that_agents_are_replaced(world: &World) -> Result<()> {
    let guests = guests_on_both_nodes(world)?;
    let pod = world.agent_pod(NODES[0])?;
    world.admin.kubectl(&["delete", "pod", &pod, "-n", SYSTEM])?;
    world.wait_for_rollout("daemonset/ovm-agent")?;
    ensure!(world.agent_pod(NODES[0])? != pod, "the agent is the old one");
    expect_same(world, &guests)?;
    world.admin.kubectl(&["rollout", "restart", "daemonset/ovm-agent", "-n", SYSTEM])?;
    world.wait_for_rollout("daemonset/ovm-agent")?;
    expect_same(world, &guests)?;
    // The new agents are in charge.
    stop_all(world, &guests)
}

pub(crate) fn no_guest_notices_a_restart_of_libvirtd(world: &World) -> Result<()> {
    let guests = guests_on_both_nodes(world)?;
    for node in NODES {
        world.cluster.node(node)?.restart_libvirtd()?;
    }
    expect_same(world, &guests)?;
    stop_all(world, &guests)
}

pub(crate) fn a_silent_kubelet_stops_no_guest(world: &World) -> Result<()> {
    let guests = guests_on_both_nodes(world)?;
    world.cluster.node(NODES[0])?.stop_kubelet()?;
    let silent = wait_for_ready(world, NODES[0], "Unknown").and_then(|()| expect_same(world, &guests));
    world.cluster.node(NODES[0])?.continue_kubelet()?;
    silent?;
    wait_for_ready(world, NODES[0], "True")?;
    expect_same(world, &guests)?;
    stop_all(world, &guests)
}

pub(crate) fn a_node_that_is_cut_off_keeps_its_guest_until_it_is_fenced(world: &World) -> Result<()> {
    let [lost, other] = NODES;
    // It may run on either, and is on the one that will be lost because the other takes none now.
    world.admin.kubectl(&["cordon", other])?;
    world.admin.create(&small("moves", "idle", &serde_json::json!({})))?;
    let before = world.wait_until_running("moves")?;
    world.admin.kubectl(&["uncordon", other])?;
    ensure!(before["status"]["nodeName"] == lost, "it is on {}", before["status"]["nodeName"]);
    world.cluster.cut_off(lost)?;
    let result = lost_then_fenced(world, &before);
    world.cluster.reconnect(lost)?;
    let after = result?;
    // The returned node finds that its guest is not its own any more.
    wait_for("the old guest is destroyed", LOST_DEADLINE, || {
        let hosts = world.hosts_of("default", "moves")?;
        ensure!(hosts == [other], "it has domains on {hosts:?}");
        Ok(())
    })?;
    world.admin.kubectl(&["taint", "node", lost, "node.kubernetes.io/out-of-service-"])?;
    wait_for_ready(world, lost, "True")?;
    ensure!(uid(&world.wait_until_running("moves")?) == uid(&after), "the successor was replaced");
    world.wait_for_rollout("daemonset/ovm-agent")
}

/// The guest is shown lost, stays where it is until the fence, and runs elsewhere after it.
fn lost_then_fenced(world: &World, before: &Value) -> Result<Value> {
    let [lost, other] = NODES;
    wait_for("the machine is shown lost", LOST_DEADLINE, || {
        let machine = world.machine("moves")?;
        let conditions = machine["status"]["conditions"].as_array().context("it has no conditions")?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        ensure!(ready.is_some_and(|ready| ready["status"] == "Unknown"), "its conditions are {conditions:?}");
        Ok(())
    })?;
    let kept = world.machine("moves")?;
    ensure!(uid(&kept) == uid(before) && kept["status"]["nodeName"] == lost, "it was replaced before the fence");
    ensure!(world.hosts_of("default", "moves")? == [lost], "it was started elsewhere before the fence");
    world.admin.kubectl(&["taint", "node", lost, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"])?;
    wait_for("a successor runs on the other node", LOST_DEADLINE, || {
        let machine = world.machine("moves")?;
        ensure!(uid(&machine) != uid(before), "it is still the old one: {}", machine["status"]);
        let status = &machine["status"];
        ensure!(status["phase"] == "Running" && status["nodeName"] == other, "its status is {status}");
        Ok(machine)
    })
}

/// A running machine: node, name, UID, process.
pub(crate) type Guest = (&'static str, String, String, String);

pub(crate) fn guests_on_both_nodes(world: &World) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for node in NODES {
        let name = format!("stays-{node}");
        world.admin.create(&small(&name, "idle", &on(node)))?;
        let machine = world.wait_until_running(&name)?;
        guests.push((node, name.clone(), uid(&machine).to_owned(), world.qemu(node, &name)?));
    }
    Ok(guests)
}

pub(crate) fn expect_same(world: &World, guests: &[Guest]) -> Result<()> {
    for (node, name, was, process) in guests {
        let machine = world.wait_until_running(name)?;
        ensure!(uid(&machine) == was, "{name} was replaced");
        ensure!(world.qemu(node, name)? == *process, "{name} was restarted");
    }
    Ok(())
}

pub(crate) fn stop_all(world: &World, guests: &[Guest]) -> Result<()> {
    for (_, name, ..) in guests {
        world.admin.virtctl(&["stop", name])?;
    }
    guests.iter().try_for_each(|(_, name, ..)| world.wait_until_gone("default", name))
}

fn wait_for_ready(world: &World, node: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("{node}'s condition Ready is {wanted}"), DEADLINE, || {
        let node = world.admin.get(&format!("/api/v1/nodes/{node}"))?.context("there is no such Node")?;
        let conditions = node["status"]["conditions"].as_array().context("it has no conditions")?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").context("it has no Ready")?;
        ensure!(ready["status"] == wanted, "it is {ready}");
        Ok(())
    })
}

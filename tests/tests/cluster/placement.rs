//! Where machines go.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::wait::wait_for;

use crate::world::{DEADLINE, NODES, World, on, small};

pub(crate) fn node_selector_and_affinity_choose_the_node(world: &World) -> Result<()> {
    for node in NODES {
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]},
        ]}}}});
        for (name, rule) in [(format!("selector-{node}"), on(node)), (format!("affinity-{node}"), affinity)] {
            world.admin.create(&small(&name, "idle", &rule))?;
            let machine = world.wait_until_running(&name)?;
            ensure!(machine["status"]["nodeName"] == node, "{name} is on {}", machine["status"]["nodeName"]);
            ensure!(
                world.hosts_of("default", &name)? == [node],
                "{name} runs on {:?}",
                world.hosts_of("default", &name)?
            );
        }
    }
    Ok(())
}

pub(crate) fn a_taint_keeps_machines_away(world: &World) -> Result<()> {
    world.admin.kubectl(&["taint", "node", NODES[0], "reserved=yes:NoSchedule"])?;
    let result = placed_beside_the_taint(world);
    world.admin.kubectl(&["taint", "node", NODES[0], "reserved-"])?;
    result?;
    // Whoever waits is placed when the taint goes.
    let waiting = world.wait_until_running("waits")?;
    ensure!(waiting["status"]["nodeName"] == NODES[0], "it is on {}", waiting["status"]["nodeName"]);
    Ok(())
}

fn placed_beside_the_taint(world: &World) -> Result<()> {
    for name in ["free-1", "free-2", "free-3"] {
        world.admin.create(&small(name, "idle", &json!({})))?;
        let machine = world.wait_until_running(name)?;
        ensure!(machine["status"]["nodeName"] == NODES[1], "{name} is on {}", machine["status"]["nodeName"]);
    }
    world.admin.create(&small("waits", "idle", &on(NODES[0])))?;
    wait_for_reason(world, "waits", "taint").map(drop)
}

pub(crate) fn a_machine_that_fits_nowhere_says_so(world: &World) -> Result<()> {
    let mut object = small("huge", "idle", &json!({}));
    object["spec"]["template"]["spec"]["domain"]["resources"]["requests"]["memory"] = json!("4Ti");
    world.admin.create(&object)?;
    let machine = wait_for_reason(world, "huge", "memory")?;
    ensure!(
        machine["status"]["nodeName"].as_str().unwrap_or_default().is_empty(),
        "it has a node: {}",
        machine["status"]
    );
    Ok(())
}

/// Waits until a condition of an unplaced machine names a cause, and returns the machine.
fn wait_for_reason(world: &World, name: &str, cause: &str) -> Result<Value> {
    wait_for(&format!("{name} names its cause"), DEADLINE, || {
        let machine = world.machine(name)?;
        let conditions = machine["status"]["conditions"].as_array().context("it has no conditions")?;
        let named = |condition: &Value| condition["message"].as_str().is_some_and(|message| message.contains(cause));
        ensure!(conditions.iter().any(named), "its conditions are {conditions:?}");
        Ok(machine)
    })
}

//! Hosts that join as hypervisors: to a real Kubernetes, and to an `ovm-standalone`.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::machines::offline_machine;
use tests::nodes::{Nodes, joining_scenario};
use tests::scenario::Api;
use tests::stack::NAMESPACE;

const HOSTS: [&str; 2] = ["h1", "h2"];

#[test]
fn hosts_join_a_kubernetes() -> Result<()> {
    joining_scenario(Api::Kubernetes, "hosts_join", hosts_join)
}

fn hosts_join(nodes: &mut Nodes) -> Result<()> {
    for host in HOSTS {
        nodes.add_host(host)?;
    }
    let command = nodes.client.virtctl(&["token", "create", "--ttl", "10m"])?;
    a_wrong_hash_is_refused(nodes, &command)?;
    nodes.join("h1", &command, &[])?;
    a_used_token_is_refused(nodes, &command)?;
    let second = nodes.client.virtctl(&["token", "create"])?;
    nodes.join("h2", &second, &[])?;
    for host in HOSTS {
        nodes.start_agent(host)?;
    }
    for host in HOSTS {
        nodes.wait_for_schedulable(host, "true")?;
        the_node_is_registered(nodes, host)?;
    }
    nodes.import_sector("idle", &IDLE)?;
    for host in HOSTS {
        let mut object = offline_machine(NAMESPACE, &format!("on-{host}"), "idle", true);
        object["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": host});
        nodes.client.create(&object)?;
    }
    for host in HOSTS {
        nodes.wait_for_guest(&format!("on-{host}"), Some(host), None)?;
    }
    a_name_that_lives_is_taken(nodes)
}

fn a_wrong_hash_is_refused(nodes: &Nodes, command: &str) -> Result<()> {
    let (start, hash) = command.split_once("sha256:").context("the command has a hash")?;
    let wrong = "0".repeat(64);
    let said = nodes.join_fails("h1", &format!("{start}sha256:{wrong}"))?;
    ensure!(said.contains(hash) && said.contains(&wrong) && said.contains("nothing was sent"), "it said {said}");
    Ok(())
}

fn a_used_token_is_refused(nodes: &Nodes, command: &str) -> Result<()> {
    let said = nodes.join_fails("h2", command)?;
    ensure!(said.contains("used up") && said.contains("virtctl token create"), "it said {said}");
    let listed = nodes.client.virtctl(&["token", "list"])?;
    ensure!(listed.lines().count() == 1, "the token is still there: {listed}");
    Ok(())
}

fn the_node_is_registered(nodes: &Nodes, host: &str) -> Result<()> {
    let node = nodes.client.get(&format!("/api/v1/nodes/{host}"))?.context("there is no Node")?;
    let labels = &node["metadata"]["labels"];
    for (label, value) in [("hostname", host), ("arch", "amd64"), ("os", "linux")] {
        ensure!(labels[format!("kubernetes.io/{label}")] == value, "its labels are {labels}");
    }
    let empty = Vec::new();
    let taints = node["spec"]["taints"].as_array().unwrap_or(&empty);
    let is_ours = |taint: &&Value| taint["key"] == "kubevirt.io/hypervisor" && taint["effect"] == "NoSchedule";
    ensure!(taints.iter().any(|taint| is_ours(&taint)), "its taints are {taints:?}");
    let room = &node["status"]["allocatable"];
    ensure!(room["pods"] == "0" && room["memory"].is_string() && room["cpu"].is_string(), "it has {room}");
    let conditions = node["status"]["conditions"].as_array().context("it has no conditions")?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").context("it says nothing of Ready")?;
    ensure!(ready["status"] == "True", "it is {ready}");
    Ok(())
}

fn a_name_that_lives_is_taken(nodes: &mut Nodes) -> Result<()> {
    nodes.add_host("thief")?;
    let command = nodes.client.virtctl(&["token", "create"])?;
    let said = nodes.join_fails("thief", &format!("{command} --node-name h1"))?;
    ensure!(said.contains("NameTaken") && said.contains("--replace h1"), "it said {said}");
    ensure!(nodes.run_by("on-h1")? == ["h1"], "the guest was touched");
    Ok(())
}

//! Hosts that join as hypervisors: to a real Kubernetes, and to an `ovm-standalone`.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{IDLE, SERIAL};
use tests::certificates::{certificate_hash, wait_for_renewal};
use tests::console::Console;
use tests::machines::offline_machine;
use tests::nodes::{Nodes, joining_scenario};
use tests::programs::{failure, output};
use tests::scenario::Api;
use tests::stack::{DEADLINE, NAMESPACE};

const HOSTS: [&str; 2] = ["h1", "h2"];

#[test]
fn hosts_join_a_kubernetes() -> Result<()> {
    joining_scenario(Api::Kubernetes, "hosts_join", hosts_join)
}

#[test]
fn hosts_join_a_standalone() -> Result<()> {
    joining_scenario(Api::Standalone, "hosts_join", hosts_join)
}

fn hosts_join(nodes: &mut Nodes) -> Result<()> {
    for host in HOSTS {
        nodes.add_host(host)?;
    }
    let command = nodes.client.virtctl(&["token", "create", "--ttl", "10m"])?;
    a_wrong_hash_is_refused(nodes, &command)?;
    nodes.join("h1", &command, &[])?;
    a_used_token_is_refused(nodes, &command)?;
    an_expired_token_is_refused(nodes)?;
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
    nodes.import_sector("serial", &SERIAL)?;
    for host in HOSTS {
        let mut object = offline_machine(NAMESPACE, &format!("on-{host}"), "serial", true);
        object["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": host});
        nodes.client.create(&object)?;
    }
    for host in HOSTS {
        nodes.wait_for_guest(&format!("on-{host}"), Some(host), None)?;
    }
    a_console_is_opened_at_the_agent(nodes)?;
    a_name_that_lives_is_taken(nodes)?;
    certificates_are_renewed_unnoticed(nodes)?;
    cordon_and_taint_hold(nodes)?;
    a_host_leaves_when_its_guests_are_gone(nodes)?;
    a_lost_host_is_fenced(nodes)
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

/// Its Secret goes when the next one is made.
fn an_expired_token_is_refused(nodes: &Nodes) -> Result<()> {
    let command = nodes.client.virtctl(&["token", "create"])?;
    let id = command.split_once("--token ").and_then(|(_, rest)| rest.split_once('.')).context("it has a token")?.0;
    let secret = format!("secret/bootstrap-token-{id}");
    // 2020-01-01T00:00:00Z
    let past = r#"{"data": {"expiration": "MjAyMC0wMS0wMVQwMDowMDowMFo="}}"#;
    nodes.client.kubectl(&["patch", &secret, "--namespace=kube-system", "--type=merge", "--patch", past])?;
    let said = nodes.join_fails("h2", &command)?;
    ensure!(said.contains("expired") && said.contains("virtctl token create"), "it said {said}");
    ensure!(nodes.client.virtctl(&["token", "list"])?.contains(&format!("{id}   expired")), "the list is silent");
    nodes.client.virtctl(&["token", "create"])?;
    let left =
        nodes.client.kubectl(&["get", &secret, "--namespace=kube-system", "--ignore-not-found", "--output=name"])?;
    ensure!(left.is_empty(), "its Secret is left: {left}");
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

/// By the server, at the address that the agent says of itself.
fn a_console_is_opened_at_the_agent(nodes: &Nodes) -> Result<()> {
    let mut console = Console::open(&nodes.client, NAMESPACE, "on-h2")?;
    console.wait_for_echo("hello", DEADLINE)?;
    let lease = nodes.client.get("/apis/coordination.k8s.io/v1/namespaces/kubevirt-system/leases/h2")?;
    let lease = lease.context("h2 has no Lease")?;
    let address = &lease["metadata"]["annotations"]["kubevirt.io/agent-address"];
    ensure!(address.as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "its address is {address}");
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

/// Twice: the second request is made with the first renewed certificate, as the API server says in it.
fn certificates_are_renewed_unnoticed(nodes: &mut Nodes) -> Result<()> {
    let credentials = nodes.directory("h1")?.join("data/pki/agent-current.pem");
    let run = nodes.virsh("h1", &["domid", &format!("{NAMESPACE}_on-h1")])?;
    let serial = || certificate_hash(&fs::read_to_string(&credentials).context("read the certificate")?);
    let first = serial()?;
    nodes.stop_agent("h1")?;
    // 90 days, less some seconds: it is renewed as soon as it is there.
    nodes.start_agent_with("h1", &["--renew-before", "2159h59m50s"])?;
    wait_for_renewal(&nodes.client, "h1", &first)?;
    ensure!(serial()? != first, "the file was not replaced");
    nodes.stop_agent("h1")?;
    nodes.start_agent("h1")?;
    ensure!(nodes.virsh("h1", &["domid", &format!("{NAMESPACE}_on-h1")])? == run, "the guest was started anew");
    nodes.wait_for_guest("on-h1", Some("h1"), None).map(drop)
}

fn cordon_and_taint_hold(nodes: &Nodes) -> Result<()> {
    nodes.client.kubectl(&["cordon", "h1"])?;
    nodes.client.kubectl(&["taint", "node", "h1", "example.com/reserved=yes:NoSchedule"])?;
    let node = nodes.client.get("/api/v1/nodes/h1")?.context("there is no Node")?;
    let taints = node["spec"]["taints"].as_array().context("it has no taints")?;
    let has = |key: &str| taints.iter().any(|taint| taint["key"] == key);
    ensure!(has("example.com/reserved") && has("kubevirt.io/hypervisor"), "its taints are {taints:?}");
    nodes.client.create(&offline_machine(NAMESPACE, "kept-away", "idle", true))?;
    let machine = nodes.wait_for_running("kept-away")?;
    ensure!(machine["status"]["nodeName"] != "h1", "it went to a node that is closed");
    nodes.client.kubectl(&["taint", "node", "h1", "example.com/reserved-"])?;
    nodes.client.kubectl(&["uncordon", "h1"])?;
    nodes.client.kubectl(&["delete", "ovm", "kept-away"])?;
    Ok(())
}

fn a_host_leaves_when_its_guests_are_gone(nodes: &mut Nodes) -> Result<()> {
    let before = nodes.machine("on-h1")?.context("there is no guest")?;
    let said = failure(&mut nodes.leave_command("h1", &[])?)?;
    ensure!(said.contains("default/on-h1") && said.contains("--stop-guests"), "it said {said}");
    ensure!(nodes.run_by("on-h1")? == ["h1"], "the guest was ended");
    let node = nodes.client.get("/api/v1/nodes/h1")?.context("the Node is gone")?;
    ensure!(node["spec"]["unschedulable"] != true, "it was closed, and nothing was done");

    // Without systemd somebody else ends the agent, which first stops the guests.
    let said = failure(&mut nodes.leave_command("h1", &["--stop-guests", "--timeout", "1m"])?)?;
    ensure!(said.contains("stop the agent of this host"), "it said {said}");
    ensure!(nodes.run_by("on-h1")?.is_empty(), "the guest still runs");
    nodes.stop_agent("h1")?;
    // Others' taints are not the agent's to lose; what was begun goes on when they are off.
    nodes.client.kubectl(&["taint", "node", "h1", "example.com/kept=yes:NoSchedule"])?;
    let said = failure(&mut nodes.leave_command("h1", &[])?)?;
    ensure!(said.contains("run the same again") && said.contains("take their taints off"), "it said {said}");
    nodes.client.kubectl(&["taint", "node", "h1", "example.com/kept-"])?;
    let said = output(&mut nodes.leave_command("h1", &[])?)?;
    ensure!(said.contains("node h1 has left"), "it said {said}");
    ensure!(nodes.client.get("/api/v1/nodes/h1")?.is_none(), "the Node is there");
    for file in ["agent.kubeconfig", "data/pki/agent-current.pem"] {
        ensure!(!nodes.directory("h1")?.join(file).exists(), "{file} is there");
    }
    // Its guest wants h1 and no other: it comes up where a host joins under that name.
    let command = nodes.client.virtctl(&["token", "create", "--replace", "h1"])?;
    nodes.join("h1", &command, &[])?;
    nodes.start_agent("h1")?;
    nodes.wait_for_guest("on-h1", Some("h1"), Some(&before)).map(drop)
}

/// F1, as for every node.
fn a_lost_host_is_fenced(nodes: &mut Nodes) -> Result<()> {
    let object = json!({"spec": {"template": {"spec": {"nodeSelector": null}}}});
    nodes.client.merge("ovm", NAMESPACE, "on-h2", &object)?;
    let before = nodes.machine("on-h2")?.context("there is no guest")?;
    nodes.lose_power("h2")?;
    nodes.wait_for_word("on-h2", "NodeLost")?;
    ensure!(nodes.run_by("on-h2")?.is_empty(), "it was started before the fence");
    nodes.client.kubectl(&["taint", "node", "h2", "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"])?;
    // The control host of a standalone is a node too.
    nodes.wait_for_successor("on-h2", &before).map(drop)
}

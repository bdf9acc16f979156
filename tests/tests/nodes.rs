//! Several nodes: placement, cordon, drain, taints, lost and fenced nodes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{IDLE, OBEYS_POWER_BUTTON};
use tests::machines::{bare_machine, claim, claim_spec, offline_machine, offline_machine_of, volume};
use tests::nodes::{Nodes, scenario};
use tests::stack::{DEADLINE, NAMESPACE, uid};
use tests::wait::wait_for;

const NODES: [&str; 2] = ["n1", "n2"];

#[test]
fn guests_go_where_they_may_and_move_with_taints_and_drain() -> Result<()> {
    scenario("guests_go_where_they_may_and_move_with_taints_and_drain", &NODES, |nodes| {
        nodes.import_sector("idle", &IDLE)?;
        nodes.import_sector("obeys", &OBEYS_POWER_BUTTON)?;
        placement(nodes)?;
        volumes(nodes)?;
        let home = taints(nodes)?;
        drain(nodes, home)
    })
}

/// A selector, and a cordon.
fn placement(nodes: &Nodes) -> Result<()> {
    for node in NODES {
        let mut object = offline_machine(NAMESPACE, &format!("on-{node}"), "idle", true);
        object["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        nodes.client.create(&object)?;
    }
    for node in NODES {
        nodes.wait_for_guest(&format!("on-{node}"), Some(node), None)?;
    }
    nodes.client.kubectl(&["cordon", "n1"])?;
    nodes.client.create(&offline_machine(NAMESPACE, "moves", "obeys", true))?;
    nodes.wait_for_guest("moves", Some("n2"), None)?;
    ensure!(nodes.run_by("on-n1")? == ["n1"], "a cordon ended a guest");
    nodes.client.kubectl(&["uncordon", "n1"]).map(drop)
}

/// A local volume of n2 takes its guest there, and keeps one from starting that may not go there.
fn volumes(nodes: &Nodes) -> Result<()> {
    let directory = nodes.make_volume("n2", "data", &IDLE)?;
    let mut local = volume("data", &directory, &["ReadWriteOnce"]);
    let spec = &mut local["spec"];
    spec["hostPath"] = Value::Null;
    spec["local"] = json!({ "path": directory });
    let on_n2 = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"] });
    spec["nodeAffinity"] = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [on_n2] }] } });
    nodes.client.create(&local)?;
    nodes.client.create(&claim(NAMESPACE, "data", "data", &["ReadWriteOnce"]))?;
    let spec = claim_spec(&json!({ "persistentVolumeClaim": { "claimName": "data" } }), "virtio");
    let mut kept_away = offline_machine_of(NAMESPACE, "kept-away", &spec, true);
    kept_away["spec"]["template"]["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "n1" });
    nodes.client.create(&kept_away)?;
    wait_for("the guest says what it waits for", DEADLINE, || {
        let machine = nodes.machine("kept-away")?.context("there is no such VirtualMachine")?;
        let said = machine["status"]["conditions"].to_string();
        ensure!(said.contains("didn't have PersistentVolume data"), "its conditions are {said}");
        Ok(())
    })?;
    nodes.client.kubectl(&["delete", "ovm", "kept-away"])?;
    // n1 has fewer guests, and would be chosen.
    nodes.client.create(&offline_machine_of(NAMESPACE, "beside", &spec, true))?;
    nodes.wait_for_guest("beside", Some("n2"), None)?;
    nodes.client.kubectl(&["delete", "ovm", "beside"]).map(drop)
}

/// A NoExecute taint on n2; returns the node that the guest came to.
fn taints(nodes: &Nodes) -> Result<&'static str> {
    let mut object = offline_machine(NAMESPACE, "stays", "idle", true);
    let spec = &mut object["spec"]["template"]["spec"];
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": "n2"});
    spec["tolerations"] = json!([{"key": "example.com/hot", "operator": "Exists"}]);
    nodes.client.create(&object)?;
    let stays = nodes.wait_for_guest("stays", Some("n2"), None)?;
    let moves = nodes.wait_for_guest("moves", Some("n2"), None)?;
    nodes.client.kubectl(&["taint", "node", "n2", "example.com/hot=very:NoExecute"])?;
    let moved = nodes.wait_for_guest("moves", Some("n1"), Some(&moves))?;
    let abi = |machine: &Value| machine["status"]["abi"]["firmwareUuid"].clone();
    ensure!(
        abi(&moves).is_string() && abi(&moved) == abi(&moves),
        "its firmware UUID was {} and is {}",
        abi(&moves),
        abi(&moved)
    );
    let kept = nodes.wait_for_guest("stays", Some("n2"), None)?;
    ensure!(uid(&kept) == uid(&stays), "a guest that tolerates the taint was replaced");
    nodes.wait_for_word("on-n2", "Unschedulable")?;
    let events =
        nodes.client.kubectl(&["get", "events", "-o", "jsonpath={.items[?(@.reason=='TaintEviction')].message}"])?;
    ensure!(events.contains("node n2 has taint example.com/hot=very"), "the events are {events}");
    nodes.client.kubectl(&["taint", "node", "n2", "example.com/hot-"])?;
    nodes.wait_for_guest("on-n2", Some("n2"), None)?;
    Ok("n1")
}

/// `kubectl drain` leaves guests alone, `virtctl drain` does not.
fn drain(nodes: &Nodes, home: &'static str) -> Result<()> {
    nodes.client.kubectl(&["drain", home, "--ignore-daemonsets", "--force", "--timeout=30s"])?;
    nodes.client.kubectl(&["uncordon", home])?;
    let mut bare = bare_machine(NAMESPACE, "bare", "idle");
    bare["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": home});
    nodes.client.create(&bare)?;
    let moves = nodes.wait_for_guest("moves", Some(home), None)?;
    nodes.wait_for_guest("bare", Some(home), None)?;

    let said = nodes.client.virtctl_fails(&["drain", home])?;
    ensure!(said.contains("default/bare") && said.contains("--force") && said.lines().count() == 1, "it said {said}");
    let node = nodes.client.get(&format!("/api/v1/nodes/{home}"))?.context("there is no Node")?;
    ensure!(node["spec"]["unschedulable"].is_null(), "it was cordoned, and nothing was done");
    ensure!(nodes.run_by("bare")? == [home], "a guest was ended");

    let said = nodes.client.virtctl(&["drain", home, "--force", "--timeout", "2m"])?;
    for line in [
        "node/n1 cordoned",
        "virtualmachine/moves in namespace default stopping",
        "virtualmachine/moves in namespace default gone; its OfflineVirtualMachine starts it elsewhere",
        "virtualmachine/bare in namespace default gone",
        "node/n1 drained",
    ] {
        ensure!(said.lines().any(|said| said == line), "no line {line:?} in\n{said}");
    }
    nodes.wait_for_guest("moves", Some("n2"), Some(&moves))?;
    ensure!(nodes.machine("bare")?.is_none(), "the bare machine is there");
    nodes.wait_for_word("on-n1", "Unschedulable")?;
    ensure!(nodes.client.virtctl(&["drain", home])? == "node/n1 already cordoned\nnode/n1 drained", "a second drain");
    let unknown = nodes.client.virtctl_fails(&["drain", "no-such-node"])?;
    ensure!(unknown.contains("no-such-node") && unknown.contains("not found"), "it said {unknown}");
    Ok(())
}

#[test]
fn f1_a_lost_node_s_guest_is_started_elsewhere_once_the_node_is_fenced() -> Result<()> {
    scenario("f1_a_lost_node_s_guest_is_started_elsewhere_once_the_node_is_fenced", &NODES, |nodes| {
        nodes.import_sector("idle", &IDLE)?;
        nodes.client.kubectl(&["cordon", "n2"])?;
        for name in ["tainted", "deleted"] {
            nodes.client.create(&offline_machine(NAMESPACE, name, "idle", true))?;
        }
        let tainted = nodes.wait_for_guest("tainted", Some("n1"), None)?;
        let deleted = nodes.wait_for_guest("deleted", Some("n1"), None)?;
        nodes.client.kubectl(&["uncordon", "n2"])?;
        nodes.lose_power("n1")?;
        for name in ["tainted", "deleted"] {
            nodes.wait_for_word(name, "NodeLost")?;
        }
        let machine = nodes.machine("tainted")?.context("the machine is gone")?;
        let conditions = machine["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").context("there is no Ready")?;
        ensure!(ready["status"] == "Unknown" && ready["reason"] == "NodeLost", "it is {ready}");
        nodes.wait_for_schedulable("n1", "false")?;
        // An administrator's impatience: neither a taint of another kind nor a delete starts it elsewhere.
        nodes.client.kubectl(&["taint", "node", "n1", "example.com/broken=yes:NoExecute"])?;
        nodes.client.kubectl(&["delete", "vm", "deleted", "--wait=false"])?;
        let waits = nodes.client.virtctl_fails(&["drain", "n1", "--timeout", "3s"])?;
        ensure!(waits.contains("its node is lost"), "it said {waits}");
        for (name, before) in [("tainted", &tainted), ("deleted", &deleted)] {
            let machine = nodes.machine(name)?.context("the machine is gone")?;
            ensure!(
                uid(&machine) == uid(before) && nodes.run_by(name)?.is_empty(),
                "{name} was started before the fence"
            );
        }
        nodes.client.kubectl(&["taint", "node", "n1", "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"])?;
        nodes.wait_for_guest("tainted", Some("n2"), Some(&tainted))?;
        nodes.wait_for_guest("deleted", Some("n2"), Some(&deleted))?;
        // Deletion of the Node fences, too: nothing is left that waits for it.
        nodes.client.kubectl(&["delete", "node", "n1"])?;
        wait_for("no placement is held", DEADLINE, || {
            let said = nodes.client.kubectl(&["get", "ovm", "-o", "jsonpath={.items[*].status.placement.nodeName}"])?;
            ensure!(said == "n2 n2", "placements are on {said}");
            Ok(())
        })
    })
}

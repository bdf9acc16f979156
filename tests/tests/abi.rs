//! I4 from the outside: what a guest sees of its machine, over edits of its template, restarts of the server, a restore from its record, a machine type
//! that libvirt resolves otherwise by now, and one that is gone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::client::Client;
use tests::libvirtd::{Signal, older_qemu};
use tests::machines::offline_machine;
use tests::programs::{demo_guest_disk, say_skipped};
use tests::seen::{disks, printed, printing_machine};
use tests::server::Server;
use tests::stack::{DEADLINE, NAMESPACE, Stack};
use tests::wait::wait_for;

tests::scenarios! {
    i4_what_stands_of_a_guest_stays_over_edits_and_restarts_of_the_server,
    i4_a_record_that_is_restored_first_gives_the_whole_abi,
    i4_a_machine_type_that_is_gone_is_named_until_a_reset,
    i4_the_guest_prints_the_same_at_every_start: Console,
}

/// Starts of the guest that prints; `ABI_STARTS` says otherwise.
const STARTS: usize = 3;

/// Machine type, serial number and each aliased device's address, as the running domain has them.
fn abi(stack: &Stack, name: &str) -> Result<BTreeMap<String, String>> {
    let domain = format!("{NAMESPACE}_{name}");
    let xml = stack.libvirtd.virsh(&["dumpxml", "--inactive", &domain])?;
    let mut seen = BTreeMap::new();
    let mut alias = String::new();
    for line in xml.lines().map(str::trim) {
        let value =
            |attribute: &str| line.split(&format!("{attribute}='")).nth(1)?.split('\'').next().map(str::to_owned);
        if let Some(name) = value("alias name") {
            alias = name;
        } else if line.starts_with("<address ") && !alias.is_empty() {
            seen.insert(std::mem::take(&mut alias), line.to_owned());
        } else if line.starts_with("<type arch=") {
            seen.insert("machine".to_owned(), value("machine").unwrap_or_default());
        } else if line.starts_with("<entry name='serial'>") || line.starts_with("<uuid>") || line.starts_with("<mac ") {
            seen.insert(line.split(['<', ' ', '>']).nth(1).unwrap_or_default().to_owned(), line.to_owned());
        } else if line.starts_with("<controller") || line.starts_with("</") {
            alias.clear();
        }
    }
    Ok(seen)
}

/// Gives the OfflineVirtualMachine these disks after its root disk, all virtio, and starts it anew.
fn restart_with(stack: &Stack, name: &str, disks: &[&str]) -> Result<BTreeMap<String, String>> {
    stack.client.virtctl(&["stop", name])?;
    stack.wait_until_gone(NAMESPACE, name)?;
    start_with(stack, name, disks)
}

/// As [`restart_with`], where the OfflineVirtualMachine is stopped.
fn start_with(stack: &Stack, name: &str, disks: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut all = vec![json!({"name": "root", "volumeName": "root", "disk": {}})];
    let mut volumes = vec![json!({"name": "root", "registryDisk": {"image": "idle"}})];
    for disk in disks {
        all.push(json!({"name": disk, "volumeName": disk, "disk": {"bus": "virtio"}}));
        volumes.push(json!({"name": disk, "emptyDisk": {"capacity": "1Mi"}}));
    }
    let spec = json!({"domain": {"devices": {"disks": all}}, "volumes": volumes});
    stack.client.merge("ovm", NAMESPACE, name, &json!({"spec": {"template": {"spec": spec}}}))?;
    stack.client.virtctl(&["start", name])?;
    stack.wait_for_status(NAMESPACE, name, true, true)?;
    abi(stack, name)
}

fn standing_is_the_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<()> {
    for (what, was) in before {
        if let Some(is) = after.get(what) {
            ensure!(is == was, "{what} was {was} and is {is}");
        }
    }
    Ok(())
}

fn record(stack: &Stack, name: &str) -> Result<Value> {
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/controllerrevisions");
    let list = stack.client.get(&path)?.context("ControllerRevisions are served")?;
    let own = list["items"].as_array().into_iter().flatten();
    let own = own.filter(|one| one["metadata"]["labels"]["kubevirt.io/abi-of"] == name);
    let mut newest = own.max_by_key(|one| one["revision"].as_i64()).cloned().context("there is no record")?;
    // What every item of a list is, is said once, by the list.
    newest["apiVersion"] = json!("apps/v1");
    newest["kind"] = json!("ControllerRevision");
    Ok(newest)
}

fn i4_what_stands_of_a_guest_stays_over_edits_and_restarts_of_the_server(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "stands", "idle", true))?;
    stack.wait_for_status(NAMESPACE, "stands", true, true)?;
    let mut before = abi(stack, "stands")?;
    let first = before.clone();
    ensure!(first.contains_key("ua-disk-root") && first.contains_key("ua-balloon0"), "the domain is {first:?}");
    let edits: [&[&str]; 5] = [&["a", "b", "c"], &["c", "a"], &["d", "c", "e", "a"], &["a"], &["f", "a", "g"]];
    for (round, disks) in edits.iter().enumerate() {
        if round % 2 == 1 {
            stack.server.restart(Signal::Kill)?;
        }
        let after = restart_with(stack, "stands", disks)?;
        standing_is_the_same(&before, &after).with_context(|| format!("round {round}, disks {disks:?}"))?;
        standing_is_the_same(&first, &after).with_context(|| format!("round {round}, since the first"))?;
        for disk in *disks {
            ensure!(after.contains_key(&format!("ua-disk-{disk}")), "there is no disk {disk} in {after:?}");
        }
        before = after;
    }
    wait_for("an event says what changed", DEADLINE, || {
        let events = stack.events(NAMESPACE, "OfflineVirtualMachine", "stands")?;
        let said =
            |(reason, message): &(String, String)| reason == "AbiChanged" && message.contains("ua-disk-b removed");
        ensure!(events.iter().any(said), "the events are {events:?}");
        Ok(())
    })?;
    let shown = stack.client.virtctl(&["abi", "show", "stands"])?;
    ensure!(shown.contains("stands-abi-6") && shown.contains("ua-disk-g"), "virtctl abi show prints {shown}");
    let changed = stack.client.virtctl(&["abi", "diff", "stands"])?;
    ensure!(changed.contains("ua-disk-f added"), "virtctl abi diff prints {changed}");
    let ovm = stack.offline_machine(NAMESPACE, "stands")?.context("it exists")?;
    ensure!(ovm["status"]["abi"]["revision"] == 6, "status.abi is {}", ovm["status"]["abi"]);
    Ok(())
}

/// The record says another version of the machine than libvirt makes of `q35`, as after an upgrade of QEMU.
fn i4_a_record_that_is_restored_first_gives_the_whole_abi(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "back", "idle", true))?;
    stack.wait_for_status(NAMESPACE, "back", true, true)?;
    restart_with(stack, "back", &["a", "b"])?;
    let before = restart_with(stack, "back", &["b"])?;
    let mut saved = record(stack, "back")?;
    stack.client.kubectl(&["delete", "ovm", "back"])?;
    wait_for("the records are gone with their owner", DEADLINE, || {
        ensure!(record(stack, "back").is_err(), "there is one");
        Ok(())
    })?;
    for field in ["ownerReferences", "uid", "resourceVersion", "creationTimestamp"] {
        saved["metadata"].as_object_mut().context("metadata")?.remove(field);
    }
    saved["data"]["machineType"] = json!("pc-q35-9.2");
    stack.client.create(&saved)?;
    stack.client.create(&offline_machine(NAMESPACE, "back", "idle", false))?;
    let after = start_with(stack, "back", &["b"])?;
    ensure!(
        after.get("machine").map(String::as_str) == Some("pc-q35-9.2"),
        "the machine is {:?}",
        after.get("machine")
    );
    let (mut before, mut after) = (before, after);
    before.remove("machine");
    after.remove("machine");
    ensure!(before == after, "before {before:?}\nafter {after:?}");
    let owner = record(stack, "back")?["metadata"]["ownerReferences"][0]["name"].clone();
    ensure!(owner == "back", "the record is not taken over, its owner is {owner}");
    Ok(())
}

fn i4_a_machine_type_that_is_gone_is_named_until_a_reset(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "gone", "idle", true))?;
    stack.wait_for_status(NAMESPACE, "gone", true, true)?;
    let mut saved = record(stack, "gone")?;
    stack.client.kubectl(&["delete", "ovm", "gone"])?;
    wait_for("the records are gone with their owner", DEADLINE, || {
        ensure!(record(stack, "gone").is_err(), "there is one");
        Ok(())
    })?;
    for field in ["ownerReferences", "uid", "resourceVersion", "creationTimestamp"] {
        saved["metadata"].as_object_mut().context("metadata")?.remove(field);
    }
    saved["data"]["machineType"] = json!("pc-q35-99.0");
    stack.client.create(&saved)?;
    stack.client.create(&offline_machine(NAMESPACE, "gone", "idle", true))?;
    wait_for("a condition names record and remedy", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "gone")?.context("there is no VirtualMachine")?;
        let conditions = machine["status"]["conditions"].to_string();
        for part in ["MachineTypeGone", "gone-abi-1", "pc-q35-99.0", "virtctl abi reset gone"] {
            ensure!(conditions.contains(part), "no {part} in {conditions}");
        }
        Ok(())
    })?;
    let user = editor(stack)?;
    ensure!(user.virtctl(&["abi", "show", "gone"])?.contains("pc-q35-99.0"), "an editor sees the record");
    user.virtctl(&["abi", "reset", "gone"])?;
    let said = user.virtctl_fails(&["abi", "show", "gone"])?;
    ensure!(said.contains("has no ABI record"), "it says {said}");
    user.virtctl(&["restart", "gone"])?;
    stack.wait_for_status(NAMESPACE, "gone", true, true)?;
    let machine = abi(stack, "gone")?.remove("machine").unwrap_or_default();
    ensure!(machine.starts_with("pc-q35-") && machine != "pc-q35-99.0", "the machine is {machine}");
    wait_for("the old record is gone and the new one counts", DEADLINE, || {
        let record = record(stack, "gone")?;
        ensure!(record["data"]["machineType"] == *machine, "the record is {record}");
        ensure!(record["revision"].as_i64() > Some(2), "it could be taken for one of before");
        let old = stack.client.kubectl(&["get", "controllerrevision", "gone-abi-1", "--ignore-not-found"])?;
        ensure!(old.is_empty(), "there is {old}");
        Ok(())
    })
}

/// Whoever has the role `edit` in the namespace; our own API server has no roles, and roles of a cluster that is not ours are not ours to bind.
fn editor(stack: &mut Stack) -> Result<Client> {
    let own = match &mut stack.server {
        Server::Separate(server) => server.api().control_plane().ok(),
        Server::Standalone(_) => None,
    };
    let Some(control_plane) = own else {
        return Ok(Client::new(stack.client.kubeconfig(), &stack.scratch("home")));
    };
    let kubeconfig = control_plane.user("editor", &[])?;
    let binding = ["create", "rolebinding", "editor", "-n", NAMESPACE, "--clusterrole=edit", "--user=editor"];
    stack.client.kubectl(&binding)?;
    let user = Client::new(&kubeconfig, &stack.scratch("home"));
    let said = user.kubectl_fails(&["delete", "controllerrevision", "--all", "-n", NAMESPACE])?;
    ensure!(said.contains("forbidden"), "an editor may delete ControllerRevisions: {said}");
    Ok(user)
}

/// The first start is under an older QEMU, where there is one: `q35` is another version there. The others are after its upgrade.
fn i4_the_guest_prints_the_same_at_every_start(stack: &mut Stack) -> Result<()> {
    let starts = std::env::var("ABI_STARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(STARTS);
    stack.import("demo", &demo_guest_disk()?)?;
    stack.import_sector("idle", &IDLE)?;
    let older = older_qemu();
    match &older {
        Some(root) => stack.libvirtd.downgrade_qemu(root)?,
        None => {
            say_skipped(
                "i4_the_guest_prints_the_same_at_every_start: over an upgrade of QEMU",
                "there is no older one",
            );
        }
    }
    stack.client.create(&printing_machine(NAMESPACE, "prints", "demo"))?;
    let mut first: Option<String> = None;
    for start in 0..starts {
        let order: &[&str] = if start % 2 == 0 { &["seed", "data"] } else { &["data", "seed"] };
        let template = json!({"spec": {"template": {"spec": disks("demo", order)}}});
        stack.client.merge("ovm", NAMESPACE, "prints", &template)?;
        if start % 2 == 1 {
            stack.server.restart(Signal::Term)?;
        }
        stack.client.virtctl(&["start", "prints"])?;
        let mut console = stack.console(NAMESPACE, "prints")?;
        let text = printed(&mut console)?;
        let before = first.get_or_insert_with(|| text.clone());
        ensure!(*before == text, "at start {start} the guest prints\n{text}\nand at the first\n{before}");
        if start == 0 && older.is_some() {
            // The guest runs on in the older one, and is started in the newer.
            stack.libvirtd.upgrade_qemu()?;
        }
        stack.client.virtctl(&["stop", "prints"])?;
        stack.wait_until_gone(NAMESPACE, "prints")?;
    }
    // The rest is not the API's affair, and boots are slow.
    if matches!(stack.server, Server::Separate(_)) {
        return Ok(());
    }
    an_earlier_builds_record_still_gives_its_machine(stack)?;
    let Some(root) = older else { return Ok(()) };
    another_version_is_newest(stack, &first.context("the guest was started")?)?;
    a_downgrade_is_told(stack, &root)
}

/// An upgrade of this software: an earlier build wrote this record under QEMU 7.2, and its guest printed this. Neither file is ever to change.
fn an_earlier_builds_record_still_gives_its_machine(stack: &Stack) -> Result<()> {
    let saved: Value = serde_json::from_str(include_str!("../golden/abi-record.json")).context("read the record")?;
    stack.client.kubectl(&["delete", "ovm", "prints"])?;
    wait_for("the records are gone with their owner", DEADLINE, || {
        ensure!(record(stack, "prints").is_err(), "there is one");
        Ok(())
    })?;
    stack.client.create(&saved)?;
    stack.client.create(&printing_machine(NAMESPACE, "prints", "demo"))?;
    stack.client.virtctl(&["start", "prints"])?;
    let text = printed(&mut stack.console(NAMESPACE, "prints")?)?;
    // How large the demo guest's disk is, is the demo guest's affair.
    let is_root = |line: &str| line.split(' ').next().is_some_and(|at| at.ends_with("/vda"));
    let line = |line: &str| if is_root(line) { line.split(' ').next().unwrap_or_default() } else { line }.to_owned();
    let text: Vec<String> = text.trim().lines().map(|all| line(all.trim_end())).collect();
    let text = text.join("\n") + "\n";
    let before = include_str!("../golden/abi-printed.txt");
    ensure!(text == before, "the guest prints\n{text}\nand under the earlier build\n{before}");
    stack.client.virtctl(&["stop", "prints"])?;
    stack.wait_until_gone(NAMESPACE, "prints")
}

/// That the upgrade was one: a new guest gets a machine that the first did not.
fn another_version_is_newest(stack: &Stack, printed: &str) -> Result<()> {
    stack.client.create(&offline_machine(NAMESPACE, "newer", "idle", true))?;
    stack.wait_for_status(NAMESPACE, "newer", true, true)?;
    let machine = abi(stack, "newer")?.remove("machine").context("it has a machine type")?;
    ensure!(!printed.contains(&machine), "{machine} is what the first guest has");
    stack.client.virtctl(&["stop", "newer"])?;
    stack.wait_until_gone(NAMESPACE, "newer")
}

/// A record from the newer QEMU on a node that has the older one only.
fn a_downgrade_is_told(stack: &mut Stack, root: &Path) -> Result<()> {
    stack.libvirtd.downgrade_qemu(root)?;
    stack.client.virtctl(&["start", "newer"])?;
    wait_for("a condition names record, machine type and remedy", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "newer")?.context("there is no VirtualMachine")?;
        let conditions = machine["status"]["conditions"].to_string();
        for part in ["MachineTypeGone", "newer-abi-1", "is not offered on node", "virtctl abi reset newer"] {
            ensure!(conditions.contains(part), "no {part} in {conditions}");
        }
        Ok(())
    })?;
    stack.libvirtd.upgrade_qemu()?;
    stack.wait_for_status(NAMESPACE, "newer", true, true).map(drop)
}

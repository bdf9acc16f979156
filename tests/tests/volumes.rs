//! Guests whose disks are on PersistentVolumes: found, explained, kept, shared and refused.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::WRITES;
use tests::machines::{claim, claim_spec, offline_machine_of, volume};
use tests::stack::{DEADLINE, NAMESPACE, Stack};
use tests::wait::wait_for;

tests::scenarios! {
    a_guest_boots_from_its_claim_and_what_it_writes_outlives_it,
}

/// Until a machine has this reason in a condition that is False; returns the message.
fn wait_for_reason(stack: &Stack, name: &str, reason: &str) -> Result<String> {
    wait_for(&format!("{name} says {reason}"), DEADLINE, || {
        let machine = stack.machine(NAMESPACE, name)?.context("there is no such VirtualMachine")?;
        let conditions = machine["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|one| one["reason"] == reason && one["status"] == "False");
        let found = found.with_context(|| format!("its status is {}", machine["status"]))?;
        Ok(found["message"].as_str().unwrap_or_default().to_owned())
    })
}

fn claims(name: &str) -> Value {
    json!({ "persistentVolumeClaim": { "claimName": name } })
}

/// Until the guest that writes itself everywhere has come to the end of its disk.
fn wait_until_written(disk: &Path) -> Result<()> {
    wait_for("the guest has written its whole disk", DEADLINE, || {
        let bytes = fs::read(disk).context("read the disk")?;
        // Its code; the packet behind that changes as it writes.
        ensure!(bytes[bytes.len() - 4096..].starts_with(&WRITES[..32]), "its end is not written");
        Ok(())
    })
}

fn a_guest_boots_from_its_claim_and_what_it_writes_outlives_it(stack: &mut Stack) -> Result<()> {
    let disk = stack.make_volume("boots", &WRITES)?;
    let spec = claim_spec(&claims("boots"), "sata");
    stack.client.create(&offline_machine_of(NAMESPACE, "boots", &spec, true))?;
    let said = wait_for_reason(stack, "boots", "ClaimMissing")?;
    ensure!(said.contains("PersistentVolumeClaim default/boots does not exist; create it"), "it says {said}");
    stack.client.create(&claim(NAMESPACE, "boots", "boots", &["ReadWriteOnce"]))?;
    let said = wait_for_reason(stack, "boots", "ClaimUnbound")?;
    ensure!(said.contains("default/boots") && said.contains("create a PersistentVolume that fits"), "it says {said}");
    let shown = stack.offline_machine(NAMESPACE, "boots")?.context("the machine is gone")?;
    ensure!(shown["status"]["printableStatus"] == "ClaimUnbound", "its status is {}", shown["status"]);
    let directory = disk.parent().context("a disk is in a directory")?;
    stack.client.create(&volume("boots", directory, &["ReadWriteOnce", "ReadOnlyMany"]))?;
    let machine = stack.wait_for_phase(NAMESPACE, "boots", "Running")?;
    ensure!(machine["status"]["volumes"][0]["persistentVolumeName"] == "boots", "its status is {}", machine["status"]);
    let source = stack.libvirtd.virsh(&["dumpxml", "default_boots", "--xpath", "//disk/source/@file"])?;
    ensure!(source.contains(&disk.display().to_string()), "its disk is {source}");
    wait_until_written(&disk)?;
    let table = stack.client.kubectl(&["get", "pv,pvc", "-n", NAMESPACE])?;
    ensure!(
        table.contains("default/boots") && table.contains("RWO,ROX") && table.contains("Bound"),
        "kubectl shows {table}"
    );

    stack.client.virtctl(&["stop", "boots"])?;
    stack.wait_until_gone(NAMESPACE, "boots")?;
    wait_until_written(&disk)?;
    stack.client.virtctl(&["start", "boots"])?;
    stack.wait_for_phase(NAMESPACE, "boots", "Running").map(drop)
}

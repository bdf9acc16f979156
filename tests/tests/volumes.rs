//! Guests whose disks are on PersistentVolumes: found, explained, kept, shared and refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{IDLE, POWER_OFF, WRITES};
use tests::libvirtd::{Signal, why_unsupported};
use tests::machines::{bare_machine, claim, claim_spec, offline_machine_of, volume};
use tests::programs::say_skipped;
use tests::small_disk::SmallDisk;
use tests::stack::{DEADLINE, NAMESPACE, Stack, uid};
use tests::wait::wait_for;

/// The volume of a guest that finds it full.
const SMALL_DISK_MIB: u32 = 32;
/// The guest's disk there, which has only its first megabyte when the guest starts.
const GROWN_BYTES: u64 = 16 << 20;

tests::scenarios! {
    a_guest_boots_from_its_claim_and_what_it_writes_outlives_it,
    one_claim_and_one_file_have_one_guest_that_writes,
    readers_and_guests_of_a_shared_claim_run_side_by_side,
    a_successor_gets_the_disk_of_a_vm_that_lost_its_finalizer,
    a_machine_that_ended_leaves_its_claim_to_others_while_its_object_stays,
    a_claim_deleted_under_its_guest_ends_nothing_and_is_waited_for_at_the_next_start,
}

fn a_claim_deleted_under_its_guest_ends_nothing_and_is_waited_for_at_the_next_start(stack: &mut Stack) -> Result<()> {
    let disk = stack.make_volume("kept", &IDLE)?;
    let directory = disk.parent().context("a disk is in a directory")?;
    stack.client.create(&volume("kept", directory, &["ReadWriteOnce"]))?;
    let own = claim(NAMESPACE, "kept", "kept", &["ReadWriteOnce"]);
    stack.client.create(&own)?;
    stack.client.create(&offline_machine_of(NAMESPACE, "kept", &claim_spec(&claims("kept"), "virtio"), true))?;
    let before = stack.wait_for_phase(NAMESPACE, "kept", "Running")?;
    stack.client.kubectl(&["delete", "pvc", "kept"])?;
    wait_for("the volume is nobody's", DEADLINE, || {
        let phase = stack.client.kubectl(&["get", "pv", "kept", "-o", "jsonpath={.status.phase}"])?;
        ensure!(phase == "Released", "it is {phase}");
        Ok(())
    })?;
    let after = stack.wait_for_phase(NAMESPACE, "kept", "Running")?;
    ensure!(uid(&after) == uid(&before), "the guest was replaced");
    ensure!(stack.domain_state(NAMESPACE, "kept")?.as_deref() == Some("running"), "the guest was ended");

    stack.client.virtctl(&["restart", "kept"])?;
    let said = stack.wait_for_reason(NAMESPACE, "kept", "ClaimMissing")?;
    ensure!(said.contains("PersistentVolumeClaim default/kept does not exist; create it"), "it says {said}");
    ensure!(fs::read(&disk)?.starts_with(&IDLE), "the disk is not what it was");
    stack.client.create(&own)?;
    // What it was bound to is offered again by its administrator alone.
    let said = stack.wait_for_reason(NAMESPACE, "kept", "ClaimUnbound")?;
    ensure!(said.contains("default/kept"), "it says {said}");
    stack.client.kubectl(&["patch", "pv", "kept", "--type=merge", "--patch", r#"{"spec":{"claimRef":null}}"#])?;
    stack.wait_for_phase(NAMESPACE, "kept", "Running").map(drop)
}

fn claims(name: &str) -> Value {
    json!({ "persistentVolumeClaim": { "claimName": name } })
}

/// A volume on a claim whose guest only reads.
fn read_only(mut source: Value) -> Value {
    source["persistentVolumeClaim"]["readOnly"] = json!(true);
    source
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
    let said = stack.wait_for_reason(NAMESPACE, "boots", "ClaimMissing")?;
    ensure!(said.contains("PersistentVolumeClaim default/boots does not exist; create it"), "it says {said}");
    stack.client.create(&claim(NAMESPACE, "boots", "boots", &["ReadWriteOnce"]))?;
    let said = stack.wait_for_reason(NAMESPACE, "boots", "ClaimUnbound")?;
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

/// A volume that names no claim's selector but its own: its claim, at once.
fn make_claimed(stack: &Stack, name: &str, directory: &Path, access_modes: &[&str]) -> Result<()> {
    stack.client.create(&volume(name, directory, access_modes))?;
    stack.client.create(&claim(NAMESPACE, name, name, access_modes)).map(drop)
}

fn one_claim_and_one_file_have_one_guest_that_writes(stack: &mut Stack) -> Result<()> {
    let disk = stack.make_volume("one", &IDLE)?;
    let directory = disk.parent().context("a disk is in a directory")?;
    make_claimed(stack, "one", directory, &["ReadWriteOnce"])?;
    // Another name of the same file.
    let twin = stack.volume_root().join("twin");
    fs::create_dir(&twin).context("make a directory")?;
    fs::hard_link(&disk, twin.join("disk.img")).context("give the disk another name")?;
    make_claimed(stack, "twin", &twin, &["ReadWriteOnce"])?;

    let machine = |name: &str, source: Value, running| {
        offline_machine_of(NAMESPACE, name, &claim_spec(&source, "virtio"), running)
    };
    stack.client.create(&machine("first", claims("one"), true))?;
    stack.wait_for_phase(NAMESPACE, "first", "Running")?;
    let ephemeral = json!({ "ephemeral": { "persistentVolumeClaim": { "claimName": "one" } } });
    stack.client.create(&machine("second", claims("one"), true))?;
    stack.client.create(&machine("layer", ephemeral, true))?;
    stack.client.create(&machine("linked", claims("twin"), true))?;
    for name in ["second", "layer"] {
        let said = stack.wait_for_reason(NAMESPACE, name, "ClaimInUse")?;
        ensure!(said.contains("default/one") && said.contains("VirtualMachine default/first"), "{name} says {said}");
    }
    let said = stack.wait_for_reason(NAMESPACE, "linked", "DiskInUse")?;
    ensure!(said.contains("twin/disk.img is in use by VirtualMachine default/first"), "it says {said}");

    // The guests outlive their agent, and so does what they have.
    stack.server.restart(Signal::Kill)?;
    let said = stack.wait_for_reason(NAMESPACE, "linked", "DiskInUse")?;
    ensure!(said.contains("default/first"), "after a restart it says {said}");
    ensure!(stack.domain_state(NAMESPACE, "first")?.as_deref() == Some("running"), "the first guest was ended");
    for name in ["second", "layer", "linked"] {
        ensure!(stack.domain_state(NAMESPACE, name)?.as_deref() != Some("running"), "{name} runs beside the first");
    }

    stack.client.kubectl(&["delete", "ovm", "second", "layer"])?;
    stack.client.virtctl(&["stop", "first"])?;
    stack.wait_for_phase(NAMESPACE, "linked", "Running")?;
    stack.client.virtctl(&["start", "first"])?;
    let said = stack.wait_for_reason(NAMESPACE, "first", "DiskInUse")?;
    ensure!(said.contains("default/linked"), "the first one says {said}");
    Ok(())
}

fn readers_and_guests_of_a_shared_claim_run_side_by_side(stack: &mut Stack) -> Result<()> {
    let golden = stack.make_volume("golden", &WRITES)?;
    let untouched = fs::read(&golden).context("read the disk")?;
    make_claimed(stack, "golden", golden.parent().context("a disk is in a directory")?, &["ReadOnlyMany"])?;
    let many = stack.make_volume("many", &IDLE)?;
    make_claimed(stack, "many", many.parent().context("a disk is in a directory")?, &["ReadWriteMany"])?;
    let ephemeral = json!({ "ephemeral": { "persistentVolumeClaim": { "claimName": "golden" } } });
    let machines = [
        ("layer-1", ephemeral.clone(), "sata"),
        ("layer-2", ephemeral, "sata"),
        ("reader", claims("golden"), "virtio"),
        ("many-1", claims("many"), "virtio"),
        ("many-2", claims("many"), "sata"),
        ("many-reader", read_only(claims("many")), "virtio"),
    ];
    for (name, source, bus) in &machines {
        stack.client.create(&offline_machine_of(NAMESPACE, name, &claim_spec(source, bus), true))?;
    }
    for (name, ..) in &machines {
        stack.wait_for_phase(NAMESPACE, name, "Running")?;
    }
    let disk = |name: &str| stack.libvirtd.virsh(&["dumpxml", &format!("default_{name}"), "--xpath", "//disk"]);
    ensure!(disk("reader")?.contains("<readonly/>"), "the reader's disk is {}", disk("reader")?);
    ensure!(disk("many-reader")?.contains("<readonly/>"), "the disk of many-reader is {}", disk("many-reader")?);
    for name in ["many-1", "many-2", "many-reader"] {
        let xml = disk(name)?;
        ensure!(xml.contains("<shareable/>") && xml.contains("cache=\"none\""), "the disk of {name} is {xml}");
    }
    // A disk that cannot be read-only says what to do.
    stack.client.create(&offline_machine_of(NAMESPACE, "stuck", &claim_spec(&claims("golden"), "sata"), true))?;
    let said = stack.wait_for_reason(NAMESPACE, "stuck", "ReadOnlyBus")?;
    ensure!(said.contains("use bus virtio, scsi or usb"), "it says {said}");
    let layer =
        stack.server.data().join("vms").join(uid(&stack.machine(NAMESPACE, "layer-1")?.context("it is gone")?));
    wait_for("the guest has written to its layer", DEADLINE, || {
        let written = fs::metadata(layer.join("disk-0.qcow2")).context("look at the layer")?.len();
        ensure!(written > 1 << 20, "it has {written} bytes");
        Ok(())
    })?;
    ensure!(fs::read(&golden).context("read the disk")? == untouched, "the claim's disk was written to");
    stack.client.virtctl(&["stop", "layer-1"])?;
    stack.wait_until_gone(NAMESPACE, "layer-1")?;
    ensure!(!layer.exists(), "the layer is left");
    Ok(())
}

/// Its object is gone before its guest, so that the successor finds the disk taken by a guest of its own name.
fn a_successor_gets_the_disk_of_a_vm_that_lost_its_finalizer(stack: &mut Stack) -> Result<()> {
    let disk = stack.make_volume("kept", &IDLE)?;
    make_claimed(stack, "kept", disk.parent().context("a disk is in a directory")?, &["ReadWriteOnce"])?;
    let mut spec = claim_spec(&claims("kept"), "virtio");
    // It ignores the power button: its guest outlives its object.
    spec["terminationGracePeriodSeconds"] = json!(5);
    stack.client.create(&offline_machine_of(NAMESPACE, "kept", &spec, true))?;
    let before = stack.wait_for_phase(NAMESPACE, "kept", "Running")?;
    let qemu = stack.qemu(NAMESPACE, "kept")?;
    stack.client.kubectl(&["delete", "vm", "kept", "-n", NAMESPACE, "--wait=false"])?;
    stack.client.merge("vm", NAMESPACE, "kept", &json!({ "metadata": { "finalizers": null } }))?;
    ensure!(stack.qemu(NAMESPACE, "kept")? == qemu, "the guest ended before its object");
    stack.wait_for_successor(NAMESPACE, "kept", &before)?;
    ensure!(stack.qemu(NAMESPACE, "kept")? != qemu, "the successor is the old guest");
    Ok(())
}

fn a_machine_that_ended_leaves_its_claim_to_others_while_its_object_stays(stack: &mut Stack) -> Result<()> {
    let disk = stack.make_volume("passed-on", &POWER_OFF)?;
    make_claimed(stack, "passed-on", disk.parent().context("a disk is in a directory")?, &["ReadWriteOnce"])?;
    for name in ["former", "latter"] {
        let mut machine = bare_machine(NAMESPACE, name, "unused");
        machine["spec"] = claim_spec(&claims("passed-on"), "virtio");
        stack.client.create(&machine)?;
        stack.wait_for_phase(NAMESPACE, name, "Succeeded")?;
    }
    ensure!(stack.machine(NAMESPACE, "former")?.is_some(), "the first one's object is gone");
    Ok(())
}

#[test]
fn a_guest_on_a_full_file_system_is_paused_says_so_and_goes_on_when_there_is_room() -> Result<()> {
    const NAME: &str = "a_guest_on_a_full_file_system_is_paused_says_so_and_goes_on_when_there_is_room";
    if let Some(reason) = why_unsupported() {
        say_skipped(NAME, &reason);
        return Ok(());
    }
    let small = SmallDisk::mount(SMALL_DISK_MIB)?;
    let mut stack = Stack::start()?;
    // The root's own link is the operator's.
    symlink(small.path(), stack.volume_root()).context("link the volume root")?;
    let disk = stack.make_volume("small", &WRITES)?;
    fs::OpenOptions::new().write(true).open(&disk)?.set_len(GROWN_BYTES).context("grow the disk")?;
    let directory = stack.volume_root().join("small");
    small.fill()?;
    make_claimed(&stack, "small", &directory, &["ReadWriteOnce"])?;
    stack.client.create(&offline_machine_of(NAMESPACE, "small", &claim_spec(&claims("small"), "virtio"), true))?;
    let said = stack.wait_for_reason(NAMESPACE, "small", "DiskFull")?;
    ensure!(said.contains("disk root has no space left") && said.contains("small/disk.img"), "it says {said}");
    wait_for("the OfflineVirtualMachine shows it", DEADLINE, || {
        let shown = stack.offline_machine(NAMESPACE, "small")?.context("the machine is gone")?;
        ensure!(shown["status"]["printableStatus"] == "DiskFull", "its status is {}", shown["status"]);
        Ok(())
    })?;
    let events = stack.events(NAMESPACE, "VirtualMachine", "small")?;
    ensure!(events.iter().any(|(reason, _)| reason == "DiskFull"), "its events are {events:?}");
    let (qemu, paused) = (stack.qemu(NAMESPACE, "small")?, stack.domain_state(NAMESPACE, "small")?);
    ensure!(paused.as_deref() == Some("paused"), "the domain is {paused:?}");

    // Nothing of the pause is in the agent's memory alone.
    stack.server.restart(Signal::Kill)?;
    small.make_room()?;
    wait_until_written(&disk)?;
    wait_for("the guest is shown as running", DEADLINE, || {
        let shown = stack.offline_machine(NAMESPACE, "small")?.context("the machine is gone")?;
        ensure!(shown["status"]["printableStatus"] == "Running", "its status is {}", shown["status"]);
        Ok(())
    })?;
    ensure!(stack.qemu(NAMESPACE, "small")? == qemu, "the guest was restarted");
    Ok(())
}

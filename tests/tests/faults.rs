//! What goes wrong around a guest: the server, libvirtd and QEMU are killed, finalizers are taken away or put there by others.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{IDLE, OBEYS_POWER_BUTTON};
use tests::libvirtd::Signal;
use tests::machines::{bare_machine, offline_machine};
use tests::stack::{DEADLINE, NAMESPACE, Stack, uid};
use tests::wait::wait_for;

tests::scenarios! {
    i5_a_restart_of_the_server_is_invisible_to_guests,
    i5_a_restart_of_libvirtd_is_invisible_to_guests,
    i3_a_guest_that_ends_while_nobody_looks_is_reported_as_it_ended,
    a_killed_qemu_is_a_crash_and_the_guest_is_created_again,
    i6_a_machine_stripped_of_its_finalizer_is_found_and_stopped,
    i1_the_successor_of_a_stripped_machine_waits_for_the_old_guest,
    s1_a_finalizer_taken_from_a_living_machine_is_put_back,
    i2_no_successor_while_a_foreign_finalizer_holds_the_old_machine,
    a_foreign_domain_in_the_way_is_named_and_left_alone,
}

fn i5_a_restart_of_the_server_is_invisible_to_guests(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "stays", "idle", true))?;
    let machine = stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
    let qemu = stack.qemu(NAMESPACE, "stays")?;
    for signal in [Signal::Term, Signal::Kill] {
        stack.server.restart(signal)?;
        let found = stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
        ensure!(uid(&found) == uid(&machine), "{signal:?}: the VirtualMachine was replaced");
        ensure!(stack.qemu(NAMESPACE, "stays")? == qemu, "{signal:?}: the guest was restarted");
    }
    // It is still in charge.
    stack.client.virtctl(&["stop", "stays"])?;
    stack.wait_until_gone(NAMESPACE, "stays")
}

fn i5_a_restart_of_libvirtd_is_invisible_to_guests(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "stays", "idle", true))?;
    let machine = stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
    let qemu = stack.qemu(NAMESPACE, "stays")?;
    for signal in [Signal::Term, Signal::Kill] {
        stack.libvirtd.restart_daemon(signal)?;
        let found = stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
        ensure!(uid(&found) == uid(&machine), "{signal:?}: the VirtualMachine was replaced");
        ensure!(stack.qemu(NAMESPACE, "stays")? == qemu, "{signal:?}: the guest was restarted");
    }
    // The agent has found its way back.
    stack.client.virtctl(&["stop", "stays"])?;
    stack.wait_until_gone(NAMESPACE, "stays")
}

fn i3_a_guest_that_ends_while_nobody_looks_is_reported_as_it_ended(stack: &mut Stack) -> Result<()> {
    stack.import_sector("obeys", &OBEYS_POWER_BUTTON)?;
    for name in ["asked", "killed"] {
        stack.client.create(&bare_machine(NAMESPACE, name, "obeys"))?;
        stack.wait_for_phase(NAMESPACE, name, "Running")?;
    }
    stack.server.stop(Signal::Kill)?;
    stack.kill_qemu(NAMESPACE, "killed")?;
    wait_for("both guests have ended", DEADLINE, || {
        // A guest drops a press that comes before it listens.
        let _ended_meanwhile = stack.libvirtd.virsh(&["shutdown", "default_asked"]);
        for name in ["asked", "killed"] {
            let state = stack.domain_state(NAMESPACE, name)?;
            ensure!(state.as_deref() == Some("shut off"), "{name} is {state:?}");
        }
        Ok(())
    })?;
    stack.server.start_again()?;
    stack.wait_for_phase(NAMESPACE, "asked", "Succeeded")?;
    stack.wait_for_phase(NAMESPACE, "killed", "Failed")?;
    Ok(())
}

fn a_killed_qemu_is_a_crash_and_the_guest_is_created_again(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "killed", "idle", true))?;
    let first = stack.wait_for_phase(NAMESPACE, "killed", "Running")?;
    stack.kill_qemu(NAMESPACE, "killed")?;
    stack.wait_for_successor(NAMESPACE, "killed", &first)?;
    let events = stack.events(NAMESPACE, "VirtualMachine", "killed")?;
    let crashed = ("Stopped".to_owned(), "The VM crashed.".to_owned());
    ensure!(events.contains(&crashed), "no {crashed:?} in {events:?}");
    Ok(())
}

fn i6_a_machine_stripped_of_its_finalizer_is_found_and_stopped(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let mut stripped = bare_machine(NAMESPACE, "stripped", "idle");
    stripped["spec"]["terminationGracePeriodSeconds"] = json!(5);
    stack.client.create(&stripped)?;
    stack.wait_for_phase(NAMESPACE, "stripped", "Running")?;
    strip_while_deleting(stack, "stripped")?;
    ensure!(stack.machine(NAMESPACE, "stripped")?.is_none(), "the object is gone with its finalizer");
    stack.wait_until_gone(NAMESPACE, "stripped")
}

fn i1_the_successor_of_a_stripped_machine_waits_for_the_old_guest(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let mut object = offline_machine(NAMESPACE, "stripped", "idle", true);
    object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(5);
    stack.client.create(&object)?;
    let first = stack.wait_for_phase(NAMESPACE, "stripped", "Running")?;
    let old = stack.qemu(NAMESPACE, "stripped")?;
    strip_while_deleting(stack, "stripped")?;
    stack.wait_for_successor(NAMESPACE, "stripped", &first)?;
    // `qemu` fails where there are two.
    ensure!(stack.qemu(NAMESPACE, "stripped")? != old, "the successor's domain is the old guest");
    Ok(())
}

fn s1_a_finalizer_taken_from_a_living_machine_is_put_back(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "bare", "idle", true))?;
    let machine = stack.wait_for_phase(NAMESPACE, "bare", "Running")?;
    let ours = &machine["metadata"]["finalizers"];
    ensure!(*ours == json!(["foregroundDeleteVirtualMachine"]), "the finalizers are {ours}");
    stack.client.merge("vm", NAMESPACE, "bare", &json!({"metadata": {"finalizers": null}}))?;
    wait_for("the finalizer is back", DEADLINE, || {
        let found = stack.machine(NAMESPACE, "bare")?.context("the machine is gone")?;
        ensure!(found["metadata"]["finalizers"] == *ours, "the finalizers are {}", found["metadata"]["finalizers"]);
        Ok(())
    })
}

fn i2_no_successor_while_a_foreign_finalizer_holds_the_old_machine(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "held", "idle", true))?;
    let first = stack.wait_for_phase(NAMESPACE, "held", "Running")?;
    let both = json!({"metadata": {"finalizers": ["foregroundDeleteVirtualMachine", "example.com/hold"]}});
    stack.client.merge("vm", NAMESPACE, "held", &both)?;
    stack.client.kubectl(&["delete", "vm", "held", "--wait=false"])?;
    let held = wait_for("our own finalizer is dropped", DEADLINE, || {
        let found = stack.machine(NAMESPACE, "held")?.context("the machine is gone")?;
        ensure!(found["metadata"]["finalizers"] == json!(["example.com/hold"]), "it is {}", found["metadata"]);
        Ok(found)
    })?;
    ensure!(uid(&held) == uid(&first), "it was replaced while it was held");
    // The controller has seen the state: it says that the machine is going, and makes no other.
    wait_for("the OfflineVirtualMachine is not ready", DEADLINE, || {
        let object = stack.offline_machine(NAMESPACE, "held")?.context("the object is gone")?;
        ensure!(object["status"]["ready"] != json!(true), "its status is {}", object["status"]);
        Ok(())
    })?;
    ensure!(stack.domain_state(NAMESPACE, "held")?.is_none(), "a guest runs while the old object is there");
    stack.client.merge("vm", NAMESPACE, "held", &json!({"metadata": {"finalizers": null}}))?;
    stack.wait_for_successor(NAMESPACE, "held", &first)?;
    Ok(())
}

fn a_foreign_domain_in_the_way_is_named_and_left_alone(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let xml = stack.scratch("foreign.xml");
    let text = "<domain type='qemu'><name>default_mine</name><memory unit='KiB'>16384</memory><os><type machine='q35'>hvm</type></os></domain>";
    std::fs::write(&xml, text)?;
    stack.libvirtd.virsh(&["define", &xml.display().to_string()])?;
    let foreign = stack.firmware_uuid(NAMESPACE, "mine")?;
    stack.client.create(&bare_machine(NAMESPACE, "mine", "idle"))?;
    wait_for("the machine says what is in its way", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "mine")?.context("the machine is gone")?;
        let conditions = machine["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let named =
            |condition: &Value| condition["message"].as_str().is_some_and(|message| message.contains("default_mine"));
        ensure!(conditions.iter().any(named), "its conditions are {conditions:?}");
        Ok(())
    })?;
    ensure!(stack.firmware_uuid(NAMESPACE, "mine")? == foreign, "the foreign domain was replaced");
    stack.client.kubectl(&["delete", "vm", "mine"])?;
    ensure!(stack.firmware_uuid(NAMESPACE, "mine")? == foreign, "the foreign domain went with the machine");
    Ok(())
}

/// Deletes a machine and takes its finalizers away while its guest still runs, as an impatient administrator would.
fn strip_while_deleting(stack: &Stack, name: &str) -> Result<()> {
    stack.client.kubectl(&["delete", "vm", name, "--wait=false"])?;
    stack.client.merge("vm", NAMESPACE, name, &json!({"metadata": {"finalizers": null}}))
}

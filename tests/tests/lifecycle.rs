//! How machines start, stop and change, from the outside: guests of 512 bytes, kubectl and virtctl.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{IDLE, OBEYS_POWER_BUTTON, SERIAL, SERIAL_BANNER};
use tests::machines::{bare_machine, offline_machine};
use tests::stack::{DEADLINE, NAMESPACE, Stack, uid};
use tests::wait::wait_for;

tests::scenarios! {
    five_rounds_of_start_and_stop_keep_the_firmware_uuid,
    a_template_edit_waits_for_the_restart,
    a_guest_that_ends_is_created_again: Console,
    a_console_shows_the_guest_from_its_first_words_and_takes_input: Console,
    a_guest_that_ignores_the_power_button_is_destroyed_after_its_grace_period,
    a_guest_that_obeys_the_power_button_is_not_kept_waiting,
    one_name_in_two_namespaces_is_two_machines,
    a_machine_of_its_own_runs_once: Console,
}

fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn five_rounds_of_start_and_stop_keep_the_firmware_uuid(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "five", "idle", false))?;
    let mut uuids = Vec::new();
    for round in 0..5 {
        // The guide's two ways, in turn.
        if round % 2 == 0 {
            stack.client.virtctl(&["start", "five"])?;
        } else {
            stack.client.merge("offlinevirtualmachine", NAMESPACE, "five", &json!({"spec": {"running": true}}))?;
        }
        stack.wait_for_status(NAMESPACE, "five", true, true)?;
        let state = stack.domain_state(NAMESPACE, "five")?;
        ensure!(state.as_deref() == Some("running"), "ready, but the domain is {state:?}");
        uuids.push(stack.firmware_uuid(NAMESPACE, "five")?);
        if round % 2 == 0 {
            stack.client.virtctl(&["stop", "five"])?;
        } else {
            stack.client.merge("offlinevirtualmachine", NAMESPACE, "five", &json!({"spec": {"running": false}}))?;
        }
        stack.wait_until_gone(NAMESPACE, "five")?;
        stack.wait_for_status(NAMESPACE, "five", false, false)?;
    }
    ensure!(uuids.iter().all(|uuid| *uuid == uuids[0]), "the UUIDs are {uuids:?}");
    Ok(())
}

fn a_template_edit_waits_for_the_restart(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "edit", "idle", true))?;
    let first = stack.wait_for_phase(NAMESPACE, "edit", "Running")?;
    let memory = |stack: &Stack| -> Result<u64> {
        let kib = stack.libvirtd.virsh(&["dumpxml", "default_edit", "--xpath", "/domain/memory/text()"])?;
        kib.trim().parse().with_context(|| format!("read {kib}"))
    };
    let before = memory(stack)?;
    let edit = json!({"spec": {"template": {"spec": {"domain": {"resources": {"requests": {"memory": "32M"}}}}}}});
    stack.client.merge("ovm", NAMESPACE, "edit", &edit)?;
    wait_for("the edit is shown as waiting for a restart", DEADLINE, || {
        let object = stack.offline_machine(NAMESPACE, "edit")?.context("there is no such object")?;
        let shown = condition(&object, "RestartRequired").is_some_and(|condition| condition["status"] == "True");
        ensure!(shown, "the status is {}", object["status"]);
        Ok(())
    })?;
    let untouched = stack.machine(NAMESPACE, "edit")?.context("the machine is gone")?;
    ensure!(uid(&untouched) == uid(&first), "the edit restarted the guest");
    ensure!(memory(stack)? == before, "the edit changed the running domain");

    stack.client.virtctl(&["restart", "edit"])?;
    stack.wait_for_successor(NAMESPACE, "edit", &first)?;
    // 32M are 31250 KiB; libvirt may round up, by less than a MiB.
    ensure!((31250..32274).contains(&memory(stack)?), "after the restart the domain has {} KiB", memory(stack)?);
    wait_for("nothing waits for a restart", DEADLINE, || {
        let object = stack.offline_machine(NAMESPACE, "edit")?.context("there is no such object")?;
        let shown = condition(&object, "RestartRequired").is_some_and(|condition| condition["status"] == "True");
        ensure!(!shown, "the status is {}", object["status"]);
        Ok(())
    })
}

fn a_guest_that_ends_is_created_again(stack: &mut Stack) -> Result<()> {
    stack.import_sector("serial", &SERIAL)?;
    stack.client.create(&offline_machine(NAMESPACE, "ends", "serial", true))?;
    let mut machine = stack.wait_for_phase(NAMESPACE, "ends", "Running")?;
    for (key, message) in [("!", "The VM was shut down."), ("#", "The VM crashed.")] {
        // A guest that ran for less than ten seconds comes again after a back-off; either way it comes.
        let mut console = stack.console(NAMESPACE, "ends")?;
        console.wait_for_echo("ping", DEADLINE)?;
        console.send(key)?;
        machine = stack.wait_for_successor(NAMESPACE, "ends", &machine)?;
        let events = stack.events(NAMESPACE, "VirtualMachine", "ends")?;
        let stopped = ("Stopped".to_owned(), message.to_owned());
        ensure!(events.contains(&stopped), "no {stopped:?} in {events:?}");
    }
    Ok(())
}

fn a_console_shows_the_guest_from_its_first_words_and_takes_input(stack: &mut Stack) -> Result<()> {
    stack.import_sector("serial", &SERIAL)?;
    stack.client.create(&offline_machine(NAMESPACE, "talks", "serial", false))?;
    let refused = stack.client.virtctl_fails(&["console", "talks", "--timeout", "0"])?;
    ensure!(refused.contains("virtctl start talks"), "a console without a guest says {refused}");
    stack.client.virtctl(&["start", "talks"])?;
    let mut first = stack.console(NAMESPACE, "talks")?;
    first.wait_for_echo("one", DEADLINE)?;
    // The newer console is the guest's; the older one is told.
    let mut console = stack.console(NAMESPACE, "talks")?;
    console.wait_for_echo("one two", DEADLINE)?;
    let told = first.told_at_the_end(DEADLINE)?;
    ensure!(told.contains("another client opened its console"), "the older console is told {told}");
    // The console may have missed the guest's first words. It shows them again after a reset.
    console.send("%")?;
    console.expect(SERIAL_BANNER.trim_end(), DEADLINE)?;
    Ok(())
}

fn a_guest_that_ignores_the_power_button_is_destroyed_after_its_grace_period(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let mut deaf = bare_machine(NAMESPACE, "deaf", "idle");
    deaf["spec"]["terminationGracePeriodSeconds"] = json!(4);
    stack.client.create(&deaf)?;
    stack.wait_for_phase(NAMESPACE, "deaf", "Running")?;
    let asked = Instant::now();
    stack.client.kubectl(&["delete", "vm", "deaf", "--wait=false"])?;
    stack.wait_until_gone(NAMESPACE, "deaf")?;
    let took = asked.elapsed();
    ensure!(took >= Duration::from_secs(4), "it was given {took:?} of its four seconds");
    ensure!(took < Duration::from_secs(25), "it was given {took:?}, not four seconds");
    let events = stack.events(NAMESPACE, "VirtualMachine", "deaf")?;
    let asked_for = ("ShuttingDown".to_owned(), "Signaled Graceful Shutdown".to_owned());
    ensure!(events.contains(&asked_for), "no {asked_for:?} in {events:?}");
    Ok(())
}

fn a_guest_that_obeys_the_power_button_is_not_kept_waiting(stack: &mut Stack) -> Result<()> {
    stack.import_sector("obeys", &OBEYS_POWER_BUTTON)?;
    let mut polite = bare_machine(NAMESPACE, "polite", "obeys");
    polite["spec"]["terminationGracePeriodSeconds"] = json!(300);
    stack.client.create(&polite)?;
    stack.wait_for_phase(NAMESPACE, "polite", "Running")?;
    stack.client.kubectl(&["delete", "vm", "polite", "--wait=false"])?;
    stack.wait_until_gone(NAMESPACE, "polite")?;
    let events = stack.events(NAMESPACE, "VirtualMachine", "polite")?;
    let stopped = ("Stopped".to_owned(), "The VM was shut down.".to_owned());
    ensure!(events.contains(&stopped), "no {stopped:?} in {events:?}");
    Ok(())
}

fn one_name_in_two_namespaces_is_two_machines(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let mut uuids = Vec::new();
    for namespace in ["red", "blue"] {
        stack.client.kubectl(&["create", "namespace", namespace])?;
        stack.client.create(&offline_machine(namespace, "twin", "idle", true))?;
    }
    for namespace in ["red", "blue"] {
        stack.wait_for_phase(namespace, "twin", "Running")?;
        uuids.push(stack.firmware_uuid(namespace, "twin")?);
    }
    ensure!(uuids[0] != uuids[1], "both have UUID {}", uuids[0]);

    // The UUID is the name's, not the object's.
    stack.client.kubectl(&["delete", "ovm", "twin", "-n", "red"])?;
    stack.wait_until_gone("red", "twin")?;
    ensure!(stack.domain_state("blue", "twin")?.as_deref() == Some("running"), "the other twin went with it");
    stack.client.create(&offline_machine("red", "twin", "idle", true))?;
    stack.wait_for_phase("red", "twin", "Running")?;
    ensure!(stack.firmware_uuid("red", "twin")? == uuids[0], "the UUID changed with the object");

    // A namespace takes its machines with it.
    stack.client.kubectl(&["delete", "namespace", "blue"])?;
    stack.wait_until_gone("blue", "twin")
}

fn a_machine_of_its_own_runs_once(stack: &mut Stack) -> Result<()> {
    stack.import_sector("serial", &SERIAL)?;
    stack.client.create(&bare_machine(NAMESPACE, "once", "serial"))?;
    let running = stack.wait_for_phase(NAMESPACE, "once", "Running")?;
    ensure!(stack.firmware_uuid(NAMESPACE, "once")? == uid(&running), "its firmware UUID is not its own UID");
    let mut console = stack.console(NAMESPACE, "once")?;
    console.wait_for_echo("ping", DEADLINE)?;
    console.send("!")?;
    let ended = stack.wait_for_phase(NAMESPACE, "once", "Succeeded")?;
    ensure!(uid(&ended) == uid(&running), "it was replaced");
    stack.client.kubectl(&["delete", "vm", "once"])?;
    stack.wait_until_gone(NAMESPACE, "once")
}

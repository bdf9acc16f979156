//! Deletion of an OfflineVirtualMachine, in each of the guide's ways.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::boot_sector::IDLE;
use tests::machines::{bare_machine, offline_machine};
use tests::stack::{DEADLINE, NAMESPACE, Stack, uid};
use tests::wait::wait_for;

tests::scenarios! {
    a_cascade_takes_the_machine_first,
    an_orphan_delete_leaves_the_guest_running_and_re_creation_adopts_it,
    a_machine_of_that_name_is_adopted_and_one_of_another_owner_is_not,
}

fn a_cascade_takes_the_machine_first(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    for (round, cascade) in
        ["", "--cascade=true", "--cascade=background", "--cascade=foreground"].into_iter().enumerate()
    {
        let name = format!("cascade{round}");
        stack.client.create(&offline_machine(NAMESPACE, &name, "idle", true))?;
        stack.wait_for_phase(NAMESPACE, &name, "Running")?;
        let mut delete = vec!["delete", "offlinevirtualmachine", &name];
        delete.extend(Some(cascade).filter(|flag| !flag.is_empty()));
        stack.client.kubectl(&delete)?;
        // kubectl has waited until the object was gone, and by then the machine was.
        ensure!(stack.machine(NAMESPACE, &name)?.is_none(), "{cascade}: the machine outlived its owner");
        ensure!(stack.domain_state(NAMESPACE, &name)?.is_none(), "{cascade}: the guest outlived its owner");
    }
    Ok(())
}

fn an_orphan_delete_leaves_the_guest_running_and_re_creation_adopts_it(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let object = offline_machine(NAMESPACE, "orphan", "idle", true);
    stack.client.create(&object)?;
    let first = stack.wait_for_phase(NAMESPACE, "orphan", "Running")?;
    let qemu = stack.qemu(NAMESPACE, "orphan")?;
    for cascade in ["--cascade=orphan", "--cascade=false"] {
        stack.client.kubectl(&["delete", "offlinevirtualmachine", "orphan", cascade])?;
        let orphan = stack.machine(NAMESPACE, "orphan")?.context("the machine went with its owner")?;
        let owners = &orphan["metadata"]["ownerReferences"];
        ensure!(owners.as_array().is_none_or(Vec::is_empty), "{cascade}: the owners are {owners}");
        ensure!(stack.qemu(NAMESPACE, "orphan")? == qemu, "{cascade}: the guest was restarted");

        stack.client.create(&object)?;
        let owner = stack.wait_for_status(NAMESPACE, "orphan", true, true)?;
        let adopted = stack.machine(NAMESPACE, "orphan")?.context("the machine is gone")?;
        ensure!(uid(&adopted) == uid(&first), "{cascade}: the machine was replaced");
        ensure!(
            adopted["metadata"]["ownerReferences"][0]["uid"] == uid(&owner),
            "{cascade}: it is not adopted: {}",
            adopted["metadata"]
        );
        ensure!(stack.qemu(NAMESPACE, "orphan")? == qemu, "{cascade}: the adoption restarted the guest");
    }
    Ok(())
}

fn a_machine_of_that_name_is_adopted_and_one_of_another_owner_is_not(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&bare_machine(NAMESPACE, "free", "idle"))?;
    let free = stack.wait_for_phase(NAMESPACE, "free", "Running")?;
    stack.client.create(&offline_machine(NAMESPACE, "free", "idle", true))?;
    stack.wait_for_status(NAMESPACE, "free", true, true)?;
    let adopted = stack.machine(NAMESPACE, "free")?.context("the machine is gone")?;
    ensure!(uid(&adopted) == uid(&free), "it was replaced, not adopted");

    let mut owned = bare_machine(NAMESPACE, "owned", "idle");
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "name": "free",
        "uid": stack.offline_machine(NAMESPACE, "free")?.context("the owner is gone")?["metadata"]["uid"], "controller": true,
    }]);
    stack.client.create(&owned)?;
    stack.client.create(&offline_machine(NAMESPACE, "owned", "idle", true))?;
    wait_for("the object says that somebody else owns the machine", DEADLINE, || {
        let object = stack.offline_machine(NAMESPACE, "owned")?.context("the object is gone")?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        ensure!(
            conditions.iter().any(|condition| condition["type"] == "Failure"),
            "its status is {}",
            object["status"]
        );
        Ok(())
    })
}

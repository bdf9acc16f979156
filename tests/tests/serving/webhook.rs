//! Admission as users meet it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::machines::{bare_machine, offline_machine};

use crate::world::{World, refused, scenario};

/// Makes the machine's first disk name a volume that is not there.
fn broken(mut object: Value, spec: &str) -> Value {
    object.pointer_mut(&format!("{spec}/domain/devices/disks/0")).expect("it has a disk")["volumeName"] = json!("nope");
    object
}

fn bind(world: &World, name: &str) -> Result<()> {
    let patch = json!({"status": {"nodeName": "node-x", "phase": "Scheduled"}}).to_string();
    world.admin().kubectl(&["patch", "vm", name, "--subresource=status", "--type=merge", "-p", &patch]).map(drop)
}

#[test]
fn a_broken_spec_is_refused_with_the_contracts_causes() -> Result<()> {
    scenario("a_broken_spec_is_refused_with_the_contracts_causes", |world| {
        world.start_controller()?;
        let vm = broken(bare_machine("default", "a", "idle"), "/spec");
        let ovm = broken(offline_machine("default", "b", "idle", false), "/spec/template/spec");
        for (object, plural, path) in
            [(vm, "virtualmachines", "spec"), (ovm, "offlinevirtualmachines", "spec.template.spec")]
        {
            let collection = format!("/apis/kubevirt.io/v1alpha1/namespaces/default/{plural}");
            let (code, status) = world.admin().post(&collection, &object)?;
            let field = format!("{path}.domain.devices.disks[0].volumeName");
            let cause =
                json!({"reason": "FieldValueInvalid", "message": format!("{field} 'nope' not found."), "field": field});
            ensure!(code == 422 && status["details"]["causes"] == json!([cause]), "{plural}: {code} {status}");
        }
        Ok(())
    })
}

#[test]
fn a_bound_machine_keeps_its_spec_with_the_webhook_and_without() -> Result<()> {
    scenario("a_bound_machine_keeps_its_spec_with_the_webhook_and_without", |world| {
        world.start_controller()?;
        let admin = world.admin();
        admin.create(&bare_machine("default", "a", "idle"))?;
        bind(world, "a")?;
        let cpu = json!({"spec": {"domain": {"cpu": {"cores": 2}}}}).to_string();
        let edit = || admin.kubectl(&["patch", "vm", "a", "--type=merge", "-p", &cpu]);
        let said = refused(edit())?;
        ensure!(said.contains("spec does not change once"), "{said}");
        admin.kubectl(&["delete", "validatingwebhookconfiguration", "ovm-controller"])?;
        let said = refused(edit())?;
        ensure!(said.contains("spec does not change once"), "without the webhook: {said}");
        let elsewhere = json!({"status": {"nodeName": "node-y"}}).to_string();
        let moved = admin.kubectl(&["patch", "vm", "a", "--subresource=status", "--type=merge", "-p", &elsewhere]);
        let said = refused(moved)?;
        ensure!(said.contains("stays on its node"), "{said}");
        admin.kubectl(&["label", "vm", "a", "colour=red"])?;
        Ok(())
    })
}

#[test]
fn whatever_ends_a_machine_does_without_the_webhook() -> Result<()> {
    scenario("whatever_ends_a_machine_does_without_the_webhook", |world| {
        world.start_controller()?;
        let admin = world.admin();
        admin.create(&bare_machine("default", "a", "idle"))?;
        admin.create(&offline_machine("default", "b", "idle", false))?;
        world.kill("controller");
        let said = refused(admin.create(&bare_machine("default", "c", "idle")))?;
        ensure!(said.contains("failed calling webhook"), "{said}");
        let template = json!({"spec": {"template": {"spec": {"domain": {"cpu": {"cores": 2}}}}}}).to_string();
        let said = refused(admin.kubectl(&["patch", "ovm", "b", "--type=merge", "-p", &template]))?;
        ensure!(said.contains("failed calling webhook"), "{said}");
        bind(world, "a")?;
        admin.kubectl(&["patch", "ovm", "b", "--type=merge", "-p", r#"{"spec":{"running":true}}"#])?;
        admin.kubectl(&["label", "vm", "a", "colour=red"])?;
        let finalizers = json!({"metadata": {"finalizers": ["example.org/hold"]}}).to_string();
        admin.kubectl(&["patch", "vm", "a", "--type=merge", "-p", &finalizers])?;
        admin.kubectl(&["delete", "vm", "a", "--wait=false"])?;
        admin.kubectl(&["patch", "vm", "a", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
        admin.kubectl(&["wait", "--for=delete", "vm/a", "--timeout=60s"])?;
        admin.kubectl(&["delete", "ovm", "b", "--cascade=orphan", "--wait=false"])?;
        Ok(())
    })
}

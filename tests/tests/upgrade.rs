//! New definitions of our kinds, under running guests.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::machines::offline_machine;
use tests::programs::repository;
use tests::scenario::{Api, run};
use tests::stack::{NAMESPACE, Stack, uid};
use tests::wait::wait_for;

const KINDS: [&str; 2] = ["offlinevirtualmachines.kubevirt.io", "virtualmachines.kubevirt.io"];

#[test]
fn i5_definitions_are_replaced_while_a_guest_runs() -> Result<()> {
    run(Api::Kubernetes, "i5_definitions_are_replaced_while_a_guest_runs", &[], |stack| {
        stack.import_sector("idle", &IDLE)?;
        // Definitions of before: without the columns, and without what says how long a guest may take to end.
        for kind in KINDS {
            let mut older = definition(stack, kind)?;
            older["spec"]["versions"][0]["additionalPrinterColumns"] = json!([]);
            let grace = if kind.starts_with("offline") {
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/template/properties/spec/properties"
            } else {
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
            };
            let properties = older.pointer_mut(grace).and_then(Value::as_object_mut).context("the schema of a spec")?;
            properties.remove("terminationGracePeriodSeconds").context("the schema knows the grace period")?;
            stack.client.replace(&older)?;
        }
        stack.client.create(&offline_machine(NAMESPACE, "older", "idle", true))?;
        let before = stack.wait_for_phase(NAMESPACE, "older", "Running")?;
        let qemu = stack.qemu(NAMESPACE, "older")?;

        let folder = repository().join("manifests/crd").display().to_string();
        stack.client.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &folder])?;
        wait_for("the new definitions are in use", Duration::from_mins(1), || {
            let table = stack.client.kubectl(&["get", "ovm", "-n", NAMESPACE])?;
            ensure!(table.contains("RUNNING"), "kubectl get ovm prints\n{table}");
            Ok(())
        })?;
        let after = stack.wait_for_phase(NAMESPACE, "older", "Running")?;
        ensure!(uid(&after) == uid(&before) && stack.qemu(NAMESPACE, "older")? == qemu, "the guest was replaced");
        let edit = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
        stack.client.merge("ovm", NAMESPACE, "older", &edit)?;
        stack.client.kubectl(&["delete", "vm", "older", "-n", NAMESPACE])?;
        let successor = stack.wait_for_successor(NAMESPACE, "older", &before)?;
        ensure!(
            successor["spec"]["terminationGracePeriodSeconds"] == 1,
            "the new field is lost: {}",
            successor["spec"]
        );
        Ok(())
    })
}

/// A definition, as it may be written again.
fn definition(stack: &Stack, name: &str) -> Result<Value> {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let mut object = stack.client.get(&path)?.with_context(|| format!("there is no {name}"))?;
    let fields = object.as_object_mut().context("an object")?;
    fields.remove("status");
    object["metadata"] = json!({"name": name, "labels": object["metadata"]["labels"], "resourceVersion": object["metadata"]["resourceVersion"]});
    Ok(object)
}

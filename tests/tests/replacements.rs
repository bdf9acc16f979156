//! What is replaced in a cluster under running guests: definitions of our kinds, tokens of our programs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::kube::why_no_cluster;
use tests::machines::offline_machine;
use tests::programs::{repository, say_skipped};
use tests::scenario::{Api, Need, run};
use tests::server::Server;
use tests::stack::{NAMESPACE, Stack, uid};
use tests::wait::wait_for;

/// A client reads its token's file anew once a minute, and a watch that is broken comes back within another half.
const TOKEN_DEADLINE: Duration = Duration::from_mins(4);

const KINDS: [&str; 2] = ["offlinevirtualmachines.kubevirt.io", "virtualmachines.kubevirt.io"];

#[test]
fn i5_definitions_are_replaced_while_a_guest_runs() -> Result<()> {
    run(Api::Kubernetes, "i5_definitions_are_replaced_while_a_guest_runs", &[], |stack| {
        stack.import_sector("idle", &IDLE)?;
        // Definitions of before: without the columns, and without what chooses a node.
        for kind in KINDS {
            let mut older = definition(stack, kind)?;
            older["spec"]["versions"][0]["additionalPrinterColumns"] = json!([]);
            let spec = if kind.starts_with("offline") {
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/template/properties/spec/properties"
            } else {
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
            };
            let properties = older.pointer_mut(spec).and_then(Value::as_object_mut).context("the schema of a spec")?;
            properties.remove("nodeSelector").context("the schema knows node selectors")?;
            stack.client.replace(&older)?;
        }
        stack.client.create(&offline_machine(NAMESPACE, "older", "idle", true))?;
        let before = stack.wait_for_phase(NAMESPACE, "older", "Running")?;
        let qemu = stack.qemu(NAMESPACE, "older")?;

        let folder = repository().join("manifests/crd").display().to_string();
        stack.client.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &folder])?;
        wait_for("the new definitions are in use", Duration::from_mins(1), || {
            // The API server takes up each by itself, and cuts off what the former did not know.
            for (kind, column) in [("ovm", "RUNNING"), ("vm", "PHASE")] {
                let table = stack.client.kubectl(&["get", kind, "-n", NAMESPACE])?;
                ensure!(table.contains(column), "kubectl get {kind} prints\n{table}");
            }
            Ok(())
        })?;
        let after = stack.wait_for_phase(NAMESPACE, "older", "Running")?;
        ensure!(uid(&after) == uid(&before) && stack.qemu(NAMESPACE, "older")? == qemu, "the guest was replaced");
        let selector = json!({"kubernetes.io/os": "linux"});
        let edit = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
        stack.client.merge("ovm", NAMESPACE, "older", &edit)?;
        stack.client.kubectl(&["delete", "vm", "older", "-n", NAMESPACE])?;
        let successor = stack.wait_for_successor(NAMESPACE, "older", &before)?;
        ensure!(successor["spec"]["nodeSelector"] == selector, "the new field is lost: {}", successor["spec"]);
        Ok(())
    })
}

#[test]
fn i5_tokens_end_and_are_replaced_while_a_guest_runs() -> Result<()> {
    if why_no_cluster().is_none() {
        let reason = "the suite `cluster` shows it, with kubelets that replace the tokens";
        say_skipped("i5_tokens_end_and_are_replaced_while_a_guest_runs", reason);
        return Ok(());
    }
    // Tokens are ours to end only on an API server of ours.
    run(Api::Kubernetes, "i5_tokens_end_and_are_replaced_while_a_guest_runs", &[Need::UserData], |stack| {
        stack.import_sector("idle", &IDLE)?;
        stack.client.create(&offline_machine(NAMESPACE, "stays", "idle", true))?;
        stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
        let qemu = stack.qemu(NAMESPACE, "stays")?;
        let Server::Separate(server) = &mut stack.server else { bail!("this is about a real API") };
        server.end_tokens()?;
        server.renew_tokens()?;
        ensure!(stack.qemu(NAMESPACE, "stays")? == qemu, "the guest was restarted");
        // Both are in charge again: the controller deletes the machine, the agent ends the guest.
        stack.client.virtctl(&["stop", "stays"])?;
        wait_for("the guest is stopped", TOKEN_DEADLINE, || {
            ensure!(stack.domain_state(NAMESPACE, "stays")?.is_none(), "the domain is there");
            ensure!(stack.machine(NAMESPACE, "stays")?.is_none(), "the machine is there");
            Ok(())
        })
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

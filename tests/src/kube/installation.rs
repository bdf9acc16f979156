//! Our installation on a control plane without nodes, as `manifests/base` has it but for the pods: kinds, roles, service accounts, policies, webhook and
//! aggregated API. The controller runs as a process beside the API server, which is led there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::client::Client;
use crate::kube::control_plane::ControlPlane;
use crate::kube::servers::Server;
use crate::programs::repository;
use crate::wait::wait_for;

/// The namespace of our own objects.
pub(crate) const SYSTEM_NAMESPACE: &str = "kubevirt-system";

/// For the API server to take something up.
const DEADLINE: Duration = Duration::from_mins(1);

/// What stands for the controller's pods, or needs pods.
const OF_PODS: [&str; 4] = ["Deployment", "DaemonSet", "PodDisruptionBudget", "Service"];

const API_SERVICE: &str = "v1alpha1.subresources.kubevirt.io";

/// Puts our installation on a control plane, starts its controller at `listen`, and waits until the API server reaches it.
///
/// # Errors
/// When the API server does not take the installation, or does not reach the controller in time.
pub fn install_with_controller(control_plane: &ControlPlane, listen: SocketAddr) -> Result<Server> {
    let admin = control_plane.admin();
    install(&admin, listen)?;
    let rights = control_plane.service_account(SYSTEM_NAMESPACE, "ovm-controller", None)?;
    let controller = control_plane.start_controller(&rights, &[format!("--listen={listen}")])?;
    wait_until_served(&admin).with_context(|| control_plane.log())?;
    Ok(controller)
}

/// Puts our installation on a control plane whose controller is to listen at `controller`.
pub(crate) fn install(client: &Client, controller: SocketAddr) -> Result<()> {
    let base = repository().join("manifests/base").display().to_string();
    let text = client.kubectl(&["create", "--dry-run=client", "-o", "json", "-k", &base])?;
    let mut list = read_list(&text)?;
    let items = list["items"].as_array_mut().context("a list has items")?;
    items.retain(|item| !OF_PODS.iter().any(|kind| item["kind"] == *kind));
    for item in items.iter_mut() {
        lead_to(item, controller);
    }
    // Without endpoints: the API server connects to the name of the service itself.
    items.push(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "ovm-controller", "namespace": SYSTEM_NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": controller.ip().to_string()},
    }));
    client.apply(&list)?;
    let kinds = ["crd/offlinevirtualmachines.kubevirt.io", "crd/virtualmachines.kubevirt.io"];
    client.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", kinds[0], kinds[1]]).map(drop)
}

/// Our kinds alone, for a cluster that cannot reach a controller on this host.
pub(crate) fn install_kinds(client: &Client) -> Result<()> {
    let folder = repository().join("manifests/crd").display().to_string();
    client.kubectl(&["apply", "--server-side", "-k", &folder])?;
    let kinds = ["crd/offlinevirtualmachines.kubevirt.io", "crd/virtualmachines.kubevirt.io"];
    client.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", kinds[0], kinds[1]]).map(drop)
}

/// Waits until the API server passes requests on to the controller.
pub(crate) fn wait_until_served(client: &Client) -> Result<()> {
    let mut touched = 0;
    wait_for("the API server reaches the controller", DEADLINE, || {
        let service = client
            .get(&format!("/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}"))?
            .context("there is no APIService")?;
        let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let available = conditions.iter().find(|condition| condition["type"] == "Available");
        let answers = client.get("/apis/subresources.kubevirt.io/v1alpha1");
        if answers.is_err() {
            // The API server looks again after half a minute, or when the object changes.
            touched += 1;
            let touch = json!({"metadata": {"annotations": {"test/looked": touched.to_string()}}});
            client.kubectl(&["patch", "apiservice", API_SERVICE, "--type", "merge", "-p", &touch.to_string()])?;
        }
        ensure!(available.is_some_and(|condition| condition["status"] == "True"), "its state is {available:?}");
        answers?.context("it is not served").map(drop)
    })
}

/// Makes the Node of a scenario's agent, as a kubelet would: Ready, with room for guests.
pub(crate) fn make_node(client: &Client, name: &str) -> Result<()> {
    let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"});
    client.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}))?;
    let room = json!({"cpu": "16", "memory": "16Gi", "pods": "110"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "Test", "message": "made by a test"});
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
    client.kubectl(&["patch", "node", name, "--subresource=status", "--type", "merge", "-p", &status.to_string()])?;
    wait_for("the new node's taint is gone", DEADLINE, || {
        let node = client.get(&format!("/api/v1/nodes/{name}"))?.context("there is no Node")?;
        ensure!(node["spec"]["taints"].is_null(), "its taints are {}", node["spec"]["taints"]);
        Ok(())
    })
}

/// kubectl prints one object after another, or a list.
fn read_list(text: &str) -> Result<Value> {
    let objects = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut items = Vec::new();
    for object in objects {
        let mut object = object.context("read the rendered manifests")?;
        match object.get_mut("items").and_then(Value::as_array_mut) {
            Some(inner) => items.append(inner),
            None => items.push(object),
        }
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

/// Service ports are the pods'; the controller's is its own here.
fn lead_to(item: &mut Value, controller: SocketAddr) {
    if item["kind"] == "APIService" {
        item["spec"]["service"]["port"] = json!(controller.port());
    }
    for webhook in item.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        webhook["clientConfig"]["service"]["port"] = json!(controller.port());
    }
}

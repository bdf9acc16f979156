//! The objects that the table names. Where a controller runs it leaves them alone: nothing is to be started, and no node takes `new`.

use anyhow::Result;
use serde_json::{Value, json};
use tests::client::Client;

use crate::{NODE, OTHER_NODE, SYSTEM};

/// What an attempt to create sends.
pub(crate) fn new_object(what: &str) -> Value {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE, "namespace": SYSTEM}, "spec": {"holderIdentity": NODE}});
    match what {
        "virtualmachines" => vm("another", &[]),
        "nodes" => json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "another"}}),
        "leases" => lease,
        "events" => event("another", Some(NODE)),
        "events without source" => event("another", None),
        "pods" => pod("another", NODE),
        other => json!({"kind": other}),
    }
}

fn event(name: &str, host: Option<&str>) -> Value {
    let about =
        json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine", "namespace": "default", "name": "mine"});
    let source = host.map_or(json!({}), |host| json!({"component": "virt-handler", "host": host}));
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"}, "involvedObject": about,
        "reason": "Started", "message": "VM started.", "type": "Normal", "source": source})
}

fn vm(name: &str, finalizers: &[&str]) -> Value {
    json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}, "finalizers": finalizers},
        "spec": {"domain": {"devices": {}}, "nodeSelector": {"kubernetes.io/hostname": "nowhere"}}})
}

pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM},
        "spec": {"nodeName": node, "serviceAccountName": "ovm-agent", "containers": [{"name": "agent", "image": "none"}]}})
}

/// Machines, nodes, and what else is in namespace `default`.
pub(crate) fn make_machines(admin: &Client) -> Result<()> {
    let hold = ["foregroundDeleteVirtualMachine", "example.com/hold"];
    for (name, finalizers) in [("mine", &hold[..1]), ("new", &hold[..1]), ("leaving", &hold[..])] {
        admin.create(&vm(name, finalizers))?;
    }
    for name in ["mine", "leaving"] {
        set_status(admin, "vm", name, &json!({"nodeName": NODE, "phase": "Scheduled"}))?;
    }
    admin.kubectl(&["delete", "vm", "leaving", "--wait=false"])?;
    for (name, placement) in [
        ("placed", json!({"vmUID": "1", "nodeName": NODE, "released": false})),
        ("done", json!({"vmUID": "1", "nodeName": NODE, "released": true})),
        ("free", Value::Null),
    ] {
        admin.create(&json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine",
            "metadata": {"name": name, "namespace": "default", "finalizers": ["example.com/hold"]},
            "spec": {"running": false, "template": {"spec": {"domain": {"devices": {}}}}}}))?;
        set_status(admin, "ovm", name, &json!({"observedGeneration": 1, "placement": placement}))?;
    }
    for node in [NODE, OTHER_NODE] {
        admin.create(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"zone": "one"}},
            "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}}),
        )?;
    }
    admin.create(&event("told", Some(NODE)))?;
    admin.kubectl(&["create", "secret", "generic", "user-data", "--from-literal=userdata=x"]).map(drop)
}

/// Leases, whose namespaces are there now.
pub(crate) fn make_leases(admin: &Client) -> Result<()> {
    for (name, namespace) in [("ovm-controller", SYSTEM), (NODE, SYSTEM), (NODE, "kube-node-lease")] {
        let metadata = json!({"name": name, "namespace": namespace});
        admin.create(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}))?;
    }
    Ok(())
}

/// The node's sign of life. A controller fences one that is out of service and has given none for 40 s.
pub(crate) fn renew_lease(admin: &Client, holder: &str) -> Result<()> {
    admin.merge("lease", SYSTEM, NODE, &json!({"spec": {"holderIdentity": holder}}))
}

fn set_status(admin: &Client, kind: &str, name: &str, status: &Value) -> Result<()> {
    let patch = json!({"status": status}).to_string();
    admin.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]).map(drop)
}

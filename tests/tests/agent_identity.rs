//! What an agent may do, by verb and resource, with the real token of a pod: on the objects of its own node, and on those of another's.
//!
//! The table is the contract. Each row is tried by the agent of the node that the objects belong to, by the agent of another node, and with a token of the same
//! service account that is bound to no pod; then by agents that joined, with certificates of the two nodes, and of their group but no node.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::client::Client;
use tests::kube::{ControlPlane, why_unavailable};
use tests::programs::{output, repository};
use tests::wait::wait_for;

const NODE: &str = "here";
const OTHER_NODE: &str = "there";
const SYSTEM: &str = "kubevirt-system";
const DEADLINE: Duration = Duration::from_mins(2);

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Allowed,
    /// The role does not have it.
    Unauthorized,
    /// The role has it, a policy refuses it.
    Refused,
    /// The definition's own rules refuse it, whoever asks: what is bound stays as it is.
    Invalid,
}
use Is::{Allowed, Invalid, Refused, Unauthorized};

/// An agent, as the API server sees it.
struct Agent {
    server: String,
    authority: PathBuf,
    /// curl's arguments.
    credentials: Vec<String>,
}

/// One attempt: verb, object, for a patch what is merged into it. And what becomes of it: by the node's agent, by another's, by a token of no node.
type Row = (&'static str, [Is; 3]);

/// Whoever is asked, reads are for all agents; writes are for the node's alone.
const ALL: [Is; 3] = [Allowed; 3];
const OWN: [Is; 3] = [Allowed, Refused, Refused];
const NO_ONE: [Is; 3] = [Refused; 3];
const NOT_EVEN_AN_ADMIN: [Is; 3] = [Invalid; 3];
const NOT_GRANTED: [Is; 3] = [Unauthorized; 3];

/// What a joined agent, which has no kubelet beside it, may do beyond the table. Node `here` is out of service: it is not its agent's to remove.
const JOINED: &[Row] = &[
    (r#"patch nodes/here/status {"status":{"conditions":null}}"#, OWN),
    (r#"patch nodes/here {"spec":{"unschedulable":true}}"#, OWN),
    ("delete nodes/here", NO_ONE),
    ("create nodes", NO_ONE),
    ("delete leases/here", OWN),
    (r#"patch node-leases/here {"spec":{"holderIdentity":"here"}}"#, OWN),
];

const TABLE: &[Row] = &[
    // VirtualMachines: `mine` is bound to the node, `new` to none, `leaving` is bound to it and being deleted.
    ("get virtualmachines/mine", ALL),
    ("get virtualmachines", ALL),
    (r#"update virtualmachines/mine/status {"status":{"phase":"Running"}}"#, OWN),
    (r#"update virtualmachines/mine/status {"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#, OWN),
    (r#"update virtualmachines/mine/status {"status":{"nodeName":"there"}}"#, NOT_EVEN_AN_ADMIN),
    (r#"update virtualmachines/mine/status {"status":{"nodeName":null}}"#, NOT_EVEN_AN_ADMIN),
    (r#"update virtualmachines/mine/status {"status":null}"#, NOT_EVEN_AN_ADMIN),
    (r#"update virtualmachines/new/status {"status":{"nodeName":"here"}}"#, NO_ONE),
    (r#"update virtualmachines/new/status {"status":{"phase":"Failed"}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"kubevirt.io/nodeName":"here"}}}"#, OWN),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"kubevirt.io/nodeName":"there"}}}"#, NO_ONE),
    (r#"patch virtualmachines/new {"metadata":{"labels":{"kubevirt.io/nodeName":"here"}}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"app":"other"}}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"app":null}}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"annotations":{"note":"other"}}}"#, NO_ONE),
    (
        r#"patch virtualmachines/mine {"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"x"}]}}"#,
        NO_ONE,
    ),
    (r#"patch virtualmachines/mine {"spec":{"terminationGracePeriodSeconds":0}}"#, NOT_EVEN_AN_ADMIN),
    (r#"patch virtualmachines/new {"spec":{"terminationGracePeriodSeconds":0}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"finalizers":null}}"#, NO_ONE),
    (r#"patch virtualmachines/leaving {"metadata":{"finalizers":["example.com/hold"]}}"#, OWN),
    (r#"patch virtualmachines/leaving {"metadata":{"finalizers":["foregroundDeleteVirtualMachine"]}}"#, NO_ONE),
    (r#"patch virtualmachines/leaving {"metadata":{"finalizers":null}}"#, NO_ONE),
    ("delete virtualmachines/mine", NOT_GRANTED),
    ("create virtualmachines", NOT_GRANTED),
    // OfflineVirtualMachines: `mine` is placed on the node, `free` on none, `done` is released.
    ("get offlinevirtualmachines/mine", ALL),
    (r#"patch offlinevirtualmachines/mine/status {"status":{"placement":{"released":true}}}"#, OWN),
    (r#"patch offlinevirtualmachines/mine/status {"status":{"placement":{"released":true},"ready":true}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/mine/status {"status":{"placement":{"nodeName":"there"}}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/mine/status {"status":{"placement":null}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/mine/status {"status":{"created":null}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/done/status {"status":{"placement":{"released":false}}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/done/status {"status":{"placement":{"released":null}}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/free/status {"status":{"ready":true}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/mine {"spec":{"running":false}}"#, NOT_GRANTED),
    (r#"patch offlinevirtualmachines/mine {"metadata":{"finalizers":null}}"#, NOT_GRANTED),
    ("delete offlinevirtualmachines/mine", NOT_GRANTED),
    // Nodes. Its taints, by which it is fenced, are not its own to take off.
    ("get nodes/here", ALL),
    (r#"patch nodes/here {"metadata":{"labels":{"kubevirt.io/schedulable":"true"}}}"#, OWN),
    (r#"patch nodes/here {"metadata":{"annotations":{"kubevirt.io/heartbeat":"2026-01-01T00:00:00Z"}}}"#, OWN),
    (r#"patch nodes/here {"metadata":{"labels":{"zone":"other"}}}"#, NO_ONE),
    (r#"patch nodes/here {"metadata":{"labels":{"zone":null}}}"#, NO_ONE),
    (r#"patch nodes/here {"metadata":{"annotations":{"note":"other"}}}"#, NO_ONE),
    (r#"patch nodes/here {"metadata":{"finalizers":["example.com/hold"]}}"#, NO_ONE),
    (r#"patch nodes/here {"spec":{"taints":null}}"#, NO_ONE),
    (r#"patch nodes/here {"spec":{"unschedulable":true}}"#, NO_ONE),
    (r#"patch nodes/here/status {"status":{"conditions":null}}"#, NOT_GRANTED),
    ("delete nodes/here", NOT_GRANTED),
    ("create nodes", NOT_GRANTED),
    // Leases: the node's own. `ovm-controller` is the controllers' election.
    ("create leases", OWN),
    (r#"patch leases/here {"spec":{"holderIdentity":"here"}}"#, OWN),
    (r#"patch leases/ovm-controller {"spec":{"holderIdentity":"here"}}"#, NO_ONE),
    ("delete leases/here", NOT_GRANTED),
    (r#"patch node-leases/here {"spec":{"holderIdentity":"here"}}"#, NOT_GRANTED),
    // Events: in its own name.
    ("create events", OWN),
    ("create events without source", NO_ONE),
    (r#"patch events/told {"count":2}"#, OWN),
    (r#"patch events/told {"source":{"host":"there"}}"#, NO_ONE),
    ("delete events/told", NOT_GRANTED),
    // Nothing else, and no secrets at all.
    ("get secrets/user-data", NOT_GRANTED),
    ("get secrets", NOT_GRANTED),
    ("get system-secrets/ovm-controller-tls", NOT_GRANTED),
    ("get configmaps/ovm-controller-ca", ALL),
    ("get configmaps", NOT_GRANTED),
    (r#"patch configmaps/ovm-controller-ca {"data":{"ca.crt":"other"}}"#, NOT_GRANTED),
    ("get namespaces/kube-system", ALL),
    ("get namespaces/default", NOT_GRANTED),
    ("get pods", NOT_GRANTED),
    ("create pods", NOT_GRANTED),
    ("delete policies/ovm-agent-nodes", NOT_GRANTED),
    ("delete crds/virtualmachines.kubevirt.io", NOT_GRANTED),
];

#[test]
fn an_agent_writes_what_is_of_its_node_and_nothing_else() -> Result<()> {
    if let Some(reason) = why_unavailable() {
        tests::programs::say_skipped("an_agent_writes_what_is_of_its_node_and_nothing_else", &reason);
        return Ok(());
    }
    let control_plane = ControlPlane::start()?;
    let admin = control_plane.admin();
    prepare(&admin)?;
    let agents = [Some(NODE), Some(OTHER_NODE), None].map(|node| agent(&control_plane, node));
    let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
    wait_for("the policies are in force", DEADLINE, || {
        let (is, said) = attempt_as(&agents[1], r#"patch nodes/here {"metadata":{"annotations":{"note":"other"}}}"#)?;
        ensure!(is == Some(Refused), "{said}");
        Ok(())
    })?;
    let joined =
        ["kubevirt.io:node:here", "kubevirt.io:node:there", "somebody"].map(|user| joined(&control_plane, user));
    let joined = joined.into_iter().collect::<Result<Vec<_>>>()?;
    let wrong: Vec<String> = thread::scope(|scope| {
        let tokens = agents.iter().enumerate().map(|(column, agent)| scope.spawn(move || try_all(agent, column, &[])));
        let certificates =
            joined.iter().enumerate().map(|(column, agent)| scope.spawn(move || try_all(agent, column, JOINED)));
        let columns: Vec<_> = tokens.chain(certificates).collect();
        columns
            .into_iter()
            .flat_map(|column| column.join().unwrap_or_else(|_| vec!["a column panicked".to_owned()]))
            .collect()
    });
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Tries each row of the table as one agent. Where it did not go as the table says.
fn try_all(agent: &Agent, column: usize, instead: &[Row]) -> Vec<String> {
    let kind = if instead.is_empty() { "" } else { "joined: " };
    let who = ["the node's agent", "another node's agent", "an agent of no node"][column];
    let found = TABLE.iter().filter_map(|(attempt, expected)| {
        let (is, said) = attempt_as(agent, attempt).unwrap_or_else(|error| (None, format!("{error:#}")));
        let instead = instead.iter().find(|(row, _)| row == attempt).map(|(_, expected)| expected);
        let expected = instead.unwrap_or(expected)[column];
        (is != Some(expected)).then(|| format!("{kind}{who}: {attempt}: expected {expected:?}, found {is:?}: {said}"))
    });
    found.collect()
}

/// Past kubectl, which reads before it writes. Nothing is stored: authorization and admission are the same in a dry run.
fn attempt_as(agent: &Agent, attempt: &str) -> Result<(Option<Is>, String)> {
    let (verb, rest) = attempt.split_once(' ').context("a row begins with a verb")?;
    let (target, body) = match rest.split_once(' ') {
        _ if verb == "create" => (rest.split(' ').next().unwrap_or(rest), new_object(rest).to_string()),
        Some((target, body)) => (target, body.to_owned()),
        None => (rest, String::new()),
    };
    let (kind, name) =
        target.split_once('/').map_or((target, String::new()), |(kind, name)| (kind, format!("/{name}")));
    let path = format!("{}{name}", path(kind)?);
    let (code, said) = match verb {
        "get" => agent.call("GET", &path, None)?,
        "create" => agent.call("POST", &path, Some(&body))?,
        "delete" => agent.call("DELETE", &path, None)?,
        "update" => agent.call("PUT", &path, Some(&agent.read_and_merge(&path, &body)?))?,
        _ => agent.call("PATCH", &path, Some(&body))?,
    };
    let is = match code.as_str() {
        // It was let through to the store, where there is one already.
        "200" | "201" | "409" => Some(Allowed),
        _ if said.contains("denied request") && said.contains("ValidatingAdmissionPolicy 'ovm-agent-") => Some(Refused),
        "422" => Some(Invalid),
        "403" if said.contains("cannot ") => Some(Unauthorized),
        _ => None,
    };
    Ok((is, format!("{code} {said}")))
}

impl Agent {
    /// Status and body of the answer.
    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<(String, String)> {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--write-out",
            "\n%{http_code}",
            "--request",
            method,
        ]);
        curl.arg("--cacert").arg(&self.authority).args(&self.credentials);
        if let Some(body) = body {
            curl.args(["--header", &format!("Content-Type: {media}"), "--data-binary", body]);
        }
        let dry = if method == "GET" { "" } else { "?dryRun=All" };
        let answer = output(curl.arg(format!("{}{path}{dry}", self.server)))?;
        let (said, code) = answer.rsplit_once('\n').context("curl prints the status last")?;
        Ok((code.to_owned(), said.to_owned()))
    }

    /// The whole object, changed.
    fn read_and_merge(&self, path: &str, patch: &str) -> Result<String> {
        let (_, body) = self.call("GET", path.trim_end_matches("/status"), None)?;
        let mut object = serde_json::from_str(&body).with_context(|| format!("read {body}"))?;
        merge(&mut object, &serde_json::from_str(patch).with_context(|| format!("read {patch}"))?);
        Ok(object.to_string())
    }
}

/// RFC 7396, as far as the table needs it.
fn merge(object: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(object.as_object_mut().and_then(|object| object.remove(key))),
            Value::Object(_) => merge(&mut object[key.as_str()], value),
            _ => object[key.as_str()] = value.clone(),
        }
    }
}

/// The collection of a kind, in the namespace that the table means.
fn path(kind: &str) -> Result<String> {
    Ok(match kind {
        "virtualmachines" | "offlinevirtualmachines" => format!("/apis/kubevirt.io/v1alpha1/namespaces/default/{kind}"),
        "nodes" | "namespaces" => format!("/api/v1/{kind}"),
        "events" | "secrets" => format!("/api/v1/namespaces/default/{kind}"),
        "configmaps" | "pods" => format!("/api/v1/namespaces/{SYSTEM}/{kind}"),
        "system-secrets" => format!("/api/v1/namespaces/{SYSTEM}/secrets"),
        "leases" => format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"),
        "node-leases" => "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".to_owned(),
        "policies" => "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies".to_owned(),
        "crds" => "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
        other => bail!("the table names {other}, which has no path"),
    })
}

fn new_object(what: &str) -> Value {
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
        "spec": {"domain": {"devices": {}}}})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM},
        "spec": {"nodeName": node, "serviceAccountName": "ovm-agent", "containers": [{"name": "agent", "image": "none"}]}})
}

/// The objects of the table, and then the manifests: with nobody behind the webhook, no VirtualMachine is created any more.
fn prepare(admin: &Client) -> Result<()> {
    let manifests = repository().join("manifests");
    admin.kubectl(&["apply", "-k", &manifests.join("crd").display().to_string()])?;
    admin.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    let hold = ["foregroundDeleteVirtualMachine", "example.com/hold"];
    for (name, finalizers) in [("mine", &hold[..1]), ("new", &hold[..1]), ("leaving", &hold[..])] {
        admin.create(&vm(name, finalizers))?;
    }
    for name in ["mine", "leaving"] {
        set_status(admin, "vm", name, &json!({"nodeName": NODE, "phase": "Scheduled"}))?;
    }
    admin.kubectl(&["delete", "vm", "leaving", "--wait=false"])?;
    for (name, placement) in [
        ("mine", json!({"vmUID": "1", "nodeName": NODE, "released": false})),
        ("done", json!({"vmUID": "1", "nodeName": NODE, "released": true})),
        ("free", Value::Null),
    ] {
        admin.create(&json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine",
            "metadata": {"name": name, "namespace": "default", "finalizers": ["example.com/hold"]},
            "spec": {"running": true, "template": {"spec": {"domain": {"devices": {}}}}}}))?;
        set_status(admin, "ovm", name, &json!({"created": true, "placement": placement}))?;
    }
    for node in [NODE, OTHER_NODE] {
        admin.create(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"zone": "one"}},
            "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}}),
        )?;
    }
    admin.create(&event("told", Some(NODE)))?;
    admin.kubectl(&["create", "secret", "generic", "user-data", "--from-literal=userdata=x"])?;
    admin.kubectl(&["apply", "-k", &manifests.join("overlays/dev").display().to_string()])?;
    admin.kubectl(&["create", "configmap", "ovm-controller-ca", "-n", SYSTEM])?;
    for lease in ["ovm-controller", NODE] {
        admin.create(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": lease, "namespace": SYSTEM}}))?;
    }
    admin.create(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE, "namespace": "kube-node-lease"}}))?;
    for node in [NODE, OTHER_NODE] {
        admin.create(&pod(node, node))?;
    }
    Ok(())
}

fn set_status(admin: &Client, kind: &str, name: &str, status: &Value) -> Result<()> {
    let patch = json!({"status": status}).to_string();
    admin.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]).map(drop)
}

/// The agent of a node, with the token of its pod; without node, with one of the service account alone.
fn agent(control_plane: &ControlPlane, node: Option<&str>) -> Result<Agent> {
    let mut token = control_plane.own_kubectl()?;
    token.args(["create", "token", "ovm-agent", "-n", SYSTEM]);
    if let Some(node) = node {
        token.args(["--bound-object-kind", "Pod", "--bound-object-name", node]);
    }
    let authority = control_plane.authority().certificate().to_owned();
    let credentials = vec!["--header".to_owned(), format!("Authorization: Bearer {}", output(&mut token)?)];
    Ok(Agent { server: control_plane.url(), authority, credentials })
}

/// A joined agent, with a certificate as the controller approves it; or a member of their group with another name, which it does not approve.
fn joined(control_plane: &ControlPlane, user: &str) -> Result<Agent> {
    let authority = control_plane.authority();
    let issued = authority.issue(&user.replace([':', '.'], "-"), user, &["kubevirt.io:nodes"], &[])?;
    let file = |path: &PathBuf| path.display().to_string();
    let credentials = vec!["--cert".to_owned(), file(&issued.certificate), "--key".to_owned(), file(&issued.key)];
    Ok(Agent { server: control_plane.url(), authority: authority.certificate().to_owned(), credentials })
}

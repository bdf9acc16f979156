//! What an agent may do, by verb and resource: on the objects of its own node, and on those of another's.
//!
//! The table is the contract, one for both API servers. Each row is tried by the agent of the node that the objects belong to, by the agent of another
//! node, and by one of no node:
//!
//! | API server | in a pod | joined |
//! |---|---|---|
//! | a real kube-apiserver | tokens of pods on the two nodes, and one of the same service account that is bound to no pod | certificates of the two nodes, and of their group but no node |
//! | that of `ovm-standalone` | cannot be: it has neither pods nor service accounts | the same, as hosts that join get them, and as an administrator approves one |

mod attempt;
mod objects;
mod table;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::client::Client;
use tests::kube::{ControlPlane, why_unavailable};
use tests::libvirtd::why_unsupported;
use tests::programs::{output, program, repository, say_skipped};
use tests::stack::Stack;
use tests::wait::wait_for;

use attempt::{Agent, Is};
use objects::{make_leases, make_machines, pod, renew_lease};
use table::{JOINED, Row, TABLE};

/// The node that the objects belong to.
const NODE: &str = "here";
const OTHER_NODE: &str = "there";
/// Our namespace.
const SYSTEM: &str = "kubevirt-system";
/// Where the controller says by whom it is known to agents.
const AUTHORITIES: &str = "ovm-controller-ca";
const DEADLINE: Duration = Duration::from_mins(2);

#[test]
fn an_agent_writes_what_is_of_its_node_and_nothing_else() -> Result<()> {
    if let Some(reason) = why_unavailable() {
        say_skipped("an_agent_writes_what_is_of_its_node_and_nothing_else", &reason);
        return Ok(());
    }
    let control_plane = ControlPlane::start()?;
    prepare_kubernetes(&control_plane.admin())?;
    let agents = [Some(NODE), Some(OTHER_NODE), None].map(|node| agent(&control_plane, node));
    let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
    wait_for("the policies are in force", DEADLINE, || {
        let (is, said) = agents[1].attempt(r#"patch nodes/here {"metadata":{"annotations":{"note":"other"}}}"#)?;
        ensure!(is == Some(Is::Refused), "{said}");
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

#[test]
fn a_joined_agent_writes_the_same_where_ovm_standalone_is_its_server() -> Result<()> {
    if let Some(reason) = why_unsupported() {
        say_skipped("a_joined_agent_writes_the_same_where_ovm_standalone_is_its_server", &reason);
        return Ok(());
    }
    let stack = Stack::start()?;
    // They join first: names of Nodes that are there are taken.
    let agents = [join(&stack, NODE)?, join(&stack, OTHER_NODE)?, approved_by_hand(&stack, "somebody")?];
    make_machines(&stack.client)?;
    make_leases(&stack.client)?;
    wait_for("the controller has looked at all of it", DEADLINE, || {
        stack
            .client
            .get(&format!("/api/v1/namespaces/{SYSTEM}/configmaps/{AUTHORITIES}"))?
            .context("no authorities")?;
        for name in ["placed", "done", "free"] {
            let machine = stack.offline_machine("default", name)?.context("there is no such OfflineVirtualMachine")?;
            ensure!(machine["status"]["printableStatus"] == "Stopped", "{name}: its status is {}", machine["status"]);
        }
        stack.wait_for_reason("default", "new", "Unschedulable").map(drop)
    })?;
    let mut wrong = Vec::new();
    for (column, agent) in agents.iter().enumerate() {
        renew_lease(&stack.client, &format!("test-{column}"))?;
        wrong.extend(try_all(agent, column, JOINED));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Tries each row of the table as one agent. Where it did not go as the table says.
fn try_all(agent: &Agent, column: usize, instead: &[Row]) -> Vec<String> {
    let kind = if instead.is_empty() { "" } else { "joined: " };
    let who = ["the node's agent", "another node's agent", "an agent of no node"][column];
    let found = TABLE.iter().filter_map(|(attempt, expected)| {
        let (is, said) = agent.attempt(attempt).unwrap_or_else(|error| (None, format!("{error:#}")));
        let instead = instead.iter().find(|(row, _)| row == attempt).map(|(_, expected)| expected);
        let expected = instead.unwrap_or(expected)[column];
        (is != Some(expected)).then(|| format!("{kind}{who}: {attempt}: expected {expected:?}, found {is:?}: {said}"))
    });
    found.collect()
}

/// The objects of the table, and then the manifests: with nobody behind the webhook, no VirtualMachine is created any more.
fn prepare_kubernetes(admin: &Client) -> Result<()> {
    let manifests = repository().join("manifests");
    admin.kubectl(&["apply", "-k", &manifests.join("crd").display().to_string()])?;
    admin.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    make_machines(admin)?;
    admin.kubectl(&["apply", "-k", &manifests.join("overlays/dev").display().to_string()])?;
    make_leases(admin)?;
    admin.kubectl(&["create", "configmap", AUTHORITIES, "-n", SYSTEM])?;
    for node in [NODE, OTHER_NODE] {
        admin.create(&pod(node, node))?;
    }
    Ok(())
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
    let credentials = certificate(&issued.certificate, &issued.key);
    Ok(Agent { server: control_plane.url(), authority: authority.certificate().to_owned(), credentials })
}

/// An agent of `ovm-standalone`, with the certificate that its host gets when it joins.
fn join(stack: &Stack, node: &str) -> Result<Agent> {
    let printed = stack.client.virtctl(&["token", "create"])?;
    let arguments = printed.strip_prefix("ovm-agent ").context("it prints how to join")?;
    let data = stack.scratch(node);
    let mut join = Command::new(program("ovm-agent")?);
    join.args(arguments.split_whitespace()).args(["--no-start", "--node-name", node]);
    output(join.arg("--data-dir").arg(&data).arg("--kubeconfig").arg(data.with_extension("kubeconfig")))?;
    let both = data.join("pki/agent-current.pem");
    of_standalone(stack, certificate(&both, &both))
}

/// A user in the group of joined agents, whose signing request the controller leaves to administrators.
fn approved_by_hand(stack: &Stack, user: &str) -> Result<Agent> {
    let [key, request, signed] = ["key", "csr", "crt"].map(|ending| stack.scratch(&format!("{user}.{ending}")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-subj", &format!("/O=kubevirt.io:nodes/CN={user}")]);
    output(openssl.arg("-keyout").arg(&key).arg("-out").arg(&request))?;
    let pem = fs::read(&request).context("read the request")?;
    let spec = json!({"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]});
    let kind = "CertificateSigningRequest";
    let metadata = json!({ "name": user });
    stack
        .client
        .create(&json!({"apiVersion": "certificates.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}))?;
    stack.client.kubectl(&["certificate", "approve", user])?;
    let certificate_data = stack.client.kubectl(&["get", "csr", user, "-o", "jsonpath={.status.certificate}"])?;
    let pem = STANDARD.decode(&certificate_data).with_context(|| format!("decode {certificate_data}"))?;
    fs::write(&signed, pem).context("write the certificate")?;
    of_standalone(stack, certificate(&signed, &key))
}

fn of_standalone(stack: &Stack, credentials: Vec<String>) -> Result<Agent> {
    let server = stack.server.standalone()?;
    let authority = server.data().join("pki/ca.crt");
    Ok(Agent { server: format!("https://{}", server.address()), authority, credentials })
}

/// curl's arguments.
fn certificate(certificate: &Path, key: &Path) -> Vec<String> {
    let file = |path: &Path| path.display().to_string();
    vec!["--cert".to_owned(), file(certificate), "--key".to_owned(), file(key)]
}

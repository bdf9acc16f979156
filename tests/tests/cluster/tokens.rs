//! Tokens of our pods, which the kubelet replaces.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::programs::{repository, say_skipped};
use tests::wait::wait_for;

use crate::nodes::{expect_same, guests_on_both_nodes, stop_all};
use crate::world::{DEADLINE, NODES, SYSTEM, World};

/// What has our pods, and the container in each.
const WORKLOADS: [(&str, &str); 2] = [("deployment/ovm-controller", "controller"), ("daemonset/ovm-agent", "agent")];

/// Where a pod finds its token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The shortest life that Kubernetes gives a token. Its kubelet asks for the next after four fifths of it.
const SHORTEST_LIFE: Duration = Duration::from_mins(10);

/// The service accounts are made anew, which ends every token of before, and the kubelets ask for new ones: what is in the pods' files changes under programs
/// that are being refused.
pub(crate) fn tokens_end_and_the_kubelet_replaces_them(world: &World) -> Result<()> {
    let guests = guests_on_both_nodes(world)?;
    let before = tokens(world)?;
    world.admin.kubectl(&["delete", "serviceaccount", "ovm-controller", "ovm-agent", "-n", SYSTEM])?;
    world.admin.kubectl(&["apply", "-k", &repository().join("manifests/overlays/dev").display().to_string()])?;
    // The API server remembers for some seconds whom it has let in.
    wait_for("the old tokens are refused", DEADLINE, || expect_refused(world, &before))?;
    for node in NODES {
        world.cluster.node(node)?.restart_kubelet()?;
    }
    wait_for("the kubelets have replaced the tokens", DEADLINE, || {
        let now = tokens(world)?;
        ensure!(now.iter().all(|token| !before.contains(token)), "some are the old ones");
        Ok(())
    })?;
    expect_in_charge(world, &guests)
}

/// The same, by the clock: tokens with the shortest life there is, in both workloads, until after their end.
pub(crate) fn tokens_expire(world: &World) -> Result<()> {
    if std::env::var_os("OVM_TEST_TOKEN_EXPIRY").is_none() {
        let reason = "it takes eleven minutes; set OVM_TEST_TOKEN_EXPIRY=1";
        say_skipped("cluster::tokens_expire", reason);
        return Ok(());
    }
    for (workload, container) in WORKLOADS {
        let patch = short_lived(container).to_string();
        world.admin.kubectl(&["patch", workload, "-n", SYSTEM, "--type=strategic", "-p", &patch])?;
        world.wait_for_rollout(workload)?;
    }
    let guests = guests_on_both_nodes(world)?;
    let before = tokens(world)?;
    wait_for("the tokens of the start have expired", SHORTEST_LIFE + DEADLINE, || expect_refused(world, &before))?;
    let restarts = ["get", "pods", "-n", SYSTEM, "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"];
    let restarts = world.admin.kubectl(&restarts)?;
    println!("tokens expired; containers were restarted {restarts} times");
    expect_in_charge(world, &guests)
}

/// A projected volume in the place of the one that every pod has.
fn short_lived(container: &str) -> Value {
    let life = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": SHORTEST_LIFE.as_secs()}});
    let authority = json!({"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}});
    let namespace =
        json!({"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}});
    let mount =
        json!({"name": "short-lived", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    let containers = [json!({"name": container, "volumeMounts": [mount]})];
    let volume = json!({"name": "short-lived", "projected": {"sources": [life, authority, namespace]}});
    json!({"spec": {"template": {"spec": {"automountServiceAccountToken": false, "volumes": [volume], "containers": containers}}}})
}

/// What all our pods have in their files: by way of their processes, since their images have no shell.
fn tokens(world: &World) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in NODES {
        let read = r#"for comm in $(grep -lx -e "$1" -e "$2" /proc/[0-9]*/comm 2>/dev/null); do cat "${comm%comm}root$3"; echo; done"#;
        let words = ["bash", "-c", read, "read", "ovm-agent", "ovm-controller", TOKEN];
        found.extend(world.cluster.node(name)?.run(&words)?.lines().map(str::to_owned));
    }
    let pods = NODES.len() + 2;
    ensure!(
        found.len() == pods && found.iter().all(|token| token.matches('.').count() == 2),
        "the tokens are {found:?}"
    );
    Ok(found)
}

/// That the API server lets nobody in by these tokens.
fn expect_refused(world: &World, tokens: &[String]) -> Result<()> {
    let server = format!("--server={}", world.cluster.control_plane().url());
    for token in tokens {
        let token = format!("--token={token}");
        let whoami = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &server, &token, "auth", "whoami"];
        let said = world.admin.kubectl_fails(&whoami).ok().context("a token is still taken")?;
        ensure!(said.contains("Unauthorized") || said.contains("must be logged in"), "it says {said}");
    }
    Ok(())
}

/// Guests are what they were, and both programs work: the controller deletes a machine, the agent ends its guest.
fn expect_in_charge(world: &World, guests: &[crate::nodes::Guest]) -> Result<()> {
    wait_for("the agents are heard", DEADLINE, || {
        for node in NODES {
            let found = world.admin.get(&format!("/api/v1/nodes/{node}"))?.context("there is no Node")?;
            let label = &found["metadata"]["labels"]["kubevirt.io/schedulable"];
            ensure!(label == "true", "{node} has schedulable {label}");
        }
        Ok(())
    })?;
    expect_same(world, guests)?;
    stop_all(world, guests)
}

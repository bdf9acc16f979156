//! What people type, through real kubectl.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Kubectl, Server, WIDGETS, widget};

const MANIFEST: &str = "
apiVersion: test.io/v1
kind: Widget
metadata:
  name: a
  creationTimestamp: null
spec:
  size: 3
";

async fn start(test: &str) -> Option<(Server, Kubectl)> {
    if !Kubectl::is_installed(test) {
        return None;
    }
    let server = Server::start().await;
    let kubectl = server.listen().await;
    Some((server, kubectl))
}

#[tokio::test]
async fn kubectl_creates_shows_and_deletes() {
    let Some((_server, kubectl)) = start("kubectl_creates_shows_and_deletes").await else { return };
    let created = kubectl.run_with(&["create", "-f", "-"], MANIFEST).await;
    assert_eq!((created.out.as_str(), created.err.as_str()), ("widget.test.io/a created\n", ""));
    let again = kubectl.run_with(&["create", "-f", "-"], MANIFEST).await;
    assert_eq!(
        again.err,
        "Error from server (AlreadyExists): error when creating \"STDIN\": widgets.test.io \"a\" already exists\n"
    );
    assert_eq!(kubectl.ok(&["get", "widgets"]).await, "NAME   SIZE   PHASE\na      3      \n");
    assert_eq!(kubectl.ok(&["get", "wd", "-o", "name"]).await, "widget.test.io/a\n");
    assert_eq!(kubectl.ok(&["get", "wd", "a", "-o", "jsonpath={.spec.color}"]).await, "red");
    assert!(kubectl.ok(&["get", "wd", "a", "--show-labels"]).await.contains("LABELS"));
    assert_eq!(kubectl.ok(&["get", "wd", "-A", "--no-headers"]).await, "default   a     3     \n");
    assert_eq!(kubectl.ok(&["delete", "wd", "a"]).await, "widget.test.io \"a\" deleted\n");
    let gone = kubectl.run(&["get", "wd"]).await;
    assert_eq!(gone.err, "No resources found in default namespace.\n");
    assert_eq!(
        kubectl.fails(&["get", "wd", "a"]).await,
        "Error from server (NotFound): widgets.test.io \"a\" not found\n"
    );
}

#[tokio::test]
async fn kubectl_explains_what_is_wrong() {
    let Some((_server, kubectl)) = start("kubectl_explains_what_is_wrong").await else { return };
    let create = async |manifest: &str, options: &[&str]| {
        kubectl.run_with(&[&["create", "-f", "-"], options].concat(), manifest).await
    };
    let unknown = MANIFEST.replace("size", "sizes");
    assert_eq!(
        create(&unknown, &[]).await.err,
        "Error from server (BadRequest): error when creating \"STDIN\": strict decoding error: unknown field \
         \"spec.sizes\"\n"
    );
    let warned = create(&MANIFEST.replace("size: 3", "size: 3\n  shape: round"), &["--validate=warn"]).await;
    assert!(warned.ok && warned.err == "Warning: unknown field \"spec.shape\"\n", "{}", warned.err);
    let small = create(&MANIFEST.replace("name: a", "name: b").replace("size: 3", "size: 0"), &[]).await;
    assert_eq!(
        small.err,
        "The Widget \"b\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal \
         to 1\n"
    );
    let unlucky = create(&MANIFEST.replace("name: a", "name: b").replace("size: 3", "size: 13"), &[]).await;
    assert_eq!(unlucky.err, "The Widget \"b\" is invalid: spec.size: spec.size must not be unlucky.\n");
    assert_eq!(
        kubectl.fails(&["delete", "ns", "default"]).await,
        "Error from server (Forbidden): namespaces \"default\" is forbidden: this namespace may not be deleted\n"
    );
}

#[tokio::test]
async fn kubectl_changes_objects() {
    let Some((server, kubectl)) = start("kubectl_changes_objects").await else { return };
    server.create(WIDGETS, &widget("a", 3)).await;
    kubectl.ok(&["patch", "wd", "a", "--type", "merge", "-p", "{\"spec\":{\"size\":4}}"]).await;
    kubectl
        .ok(&[
            "patch",
            "wd",
            "a",
            "--type",
            "json",
            "-p",
            "[{\"op\":\"replace\",\"path\":\"/spec/color\",\"value\":\"blue\"}]",
        ])
        .await;
    kubectl
        .ok(&[
            "patch",
            "wd",
            "a",
            "--subresource",
            "status",
            "--type",
            "merge",
            "-p",
            "{\"status\":{\"phase\":\"Running\"}}",
        ])
        .await;
    kubectl.ok(&["label", "wd", "a", "tier=front"]).await;
    kubectl.ok(&["annotate", "wd", "a", "note=hello"]).await;
    let (_, object) = server.get(&format!("{WIDGETS}/a")).await;
    assert_eq!(object["spec"], json!({"size": 4, "color": "blue"}));
    assert_eq!(object["status"], json!({"phase": "Running"}));
    assert_eq!(kubectl.ok(&["get", "wd", "-l", "tier=front", "-o", "name"]).await, "widget.test.io/a\n");
    assert_eq!(
        kubectl.ok(&["get", "wd", "--field-selector", "status.phase=Running", "-o", "name"]).await,
        "widget.test.io/a\n"
    );
    let mut old = object.clone();
    old["spec"]["size"] = json!(9);
    old["metadata"]["resourceVersion"] = json!("1");
    let replaced = kubectl.run_with(&["replace", "-f", "-"], &old.to_string()).await;
    assert!(
        replaced.err.contains("(Conflict)") && replaced.err.contains("the object has been modified"),
        "{}",
        replaced.err
    );
    old["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let replaced = kubectl.run_with(&["replace", "-f", "-"], &old.to_string()).await;
    assert_eq!(replaced.out, "widget.test.io/a replaced\n", "{}", replaced.err);
}

#[tokio::test]
async fn kubectl_applies_and_says_that_it_cannot_on_the_server() {
    let Some((server, kubectl)) = start("kubectl_applies").await else { return };
    let apply = async |manifest: &str, options: &[&str]| {
        kubectl.run_with(&[&["apply", "-f", "-"], options].concat(), manifest).await
    };
    let labelled = MANIFEST.replace("name: a", "name: a\n  labels: {tier: front}");
    let created = apply(&labelled, &[]).await;
    assert_eq!(created.out, "widget.test.io/a created\n", "{}", created.err);
    assert_eq!(apply(&labelled, &[]).await.out, "widget.test.io/a unchanged\n");
    assert_eq!(apply(&MANIFEST.replace('3', "4"), &[]).await.out, "widget.test.io/a configured\n");
    let (_, object) = server.get(&format!("{WIDGETS}/a")).await;
    assert_eq!((&object["spec"]["size"], object["metadata"].get("labels")), (&json!(4), None), "a removed label goes");
    let refused = apply(MANIFEST, &["--server-side"]).await;
    assert!(!refused.ok && refused.err.contains("Server-side apply not available on the server"), "{}", refused.err);
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {a: b}}";
    assert_eq!(apply(node, &[]).await.out, "node/n1 created\n");
    assert_eq!(apply(&node.replace("a: b", "a: c"), &[]).await.out, "node/n1 configured\n");
}

#[tokio::test]
async fn kubectl_watches_and_waits() {
    let Some((server, kubectl)) = start("kubectl_watches_and_waits").await else { return };
    server.create(WIDGETS, &widget("a", 3)).await;
    let mut watch = tokio::process::Command::from(kubectl.command(&["get", "wd", "-w", "--output-watch-events"]));
    let mut watch = watch.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(watch.stdout.take().unwrap()));
    let mut next = async || {
        let line = tokio::time::timeout(crate::harness::DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(next().await, "EVENT NAME SIZE PHASE");
    assert_eq!(next().await, "ADDED a 3");
    server.merge(&format!("{WIDGETS}/a/status"), &json!({"status": {"phase": "Running"}})).await;
    assert_eq!(next().await, "MODIFIED a 3 Running");
    kubectl.ok(&["wait", "wd/a", "--for=jsonpath={.status.phase}=Running", "--timeout=10s"]).await;
    assert!(kubectl.fails(&["wait", "wd/a", "--for=delete", "--timeout=100ms"]).await.contains("timed out"));
    let waiting = kubectl.ok(&["wait", "wd/a", "--for=delete", "--timeout=20s"]);
    let deleting = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        kubectl.ok(&["delete", "wd", "a", "--wait=false"]).await
    };
    let (waited, _) = tokio::join!(waiting, deleting);
    assert_eq!(waited, "widget.test.io/a condition met\n");
    assert_eq!(next().await, "DELETED a 3 Running");
}

#[tokio::test]
async fn kubectl_deletes_in_every_way() {
    let Some((server, kubectl)) = start("kubectl_deletes_in_every_way").await else { return };
    for (mode, survives) in
        [("background", false), ("foreground", false), ("orphan", true), ("true", false), ("false", true)]
    {
        let owner = server.create(WIDGETS, &widget("owner", 1)).await;
        let mut child = widget("child", 1);
        child["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "test.io/v1", "kind": "Widget", "name": "owner", "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": true,
        }]);
        server.create(WIDGETS, &child).await;
        kubectl.ok(&["delete", "wd", "owner", &format!("--cascade={mode}")]).await;
        let child = format!("{WIDGETS}/child");
        if survives {
            let (code, object) = server.get(&child).await;
            assert_eq!((code, object["metadata"].get("ownerReferences")), (200, None), "{mode}");
            kubectl.ok(&["delete", "wd", "--all"]).await;
        }
        server.wait_gone(&child).await;
    }
}

#[tokio::test]
async fn kubectl_describes_with_events() {
    let Some((server, kubectl)) = start("kubectl_describes_with_events").await else { return };
    let object = server.create(WIDGETS, &widget("a", 3)).await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "a.1"},
        "involvedObject": {
            "apiVersion": "test.io/v1", "kind": "Widget", "name": "a", "namespace": "default",
            "uid": object["metadata"]["uid"],
        },
        "reason": "SuccessfulCreate", "message": "Created widget: a", "type": "Normal",
        "source": {"component": "widget-controller"}, "count": 2,
        "firstTimestamp": object["metadata"]["creationTimestamp"], "lastTimestamp": object["metadata"]["creationTimestamp"],
    });
    server.create("/api/v1/namespaces/default/events", &event).await;
    let described = kubectl.ok(&["describe", "wd", "a"]).await;
    let last = described.lines().last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        last.starts_with("Normal SuccessfulCreate") && last.ends_with("widget-controller Created widget: a"),
        "{last}"
    );
    let events = kubectl.ok(&["get", "events"]).await;
    assert!(events.contains("SuccessfulCreate") && events.contains("widget/a"), "{events}");
    let events = kubectl.ok(&["events", "--for", "widget/a"]).await;
    assert!(events.contains("Created widget: a"), "{events}");
}

#[tokio::test]
async fn kubectl_handles_nodes() {
    let Some((server, kubectl)) = start("kubectl_handles_nodes").await else { return };
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "2", "memory": "4Gi"}},
    });
    server.create("/api/v1/nodes", &node).await;
    kubectl.ok(&["cordon", "n1"]).await;
    assert!(kubectl.ok(&["get", "nodes"]).await.contains("Ready,SchedulingDisabled"));
    kubectl.ok(&["uncordon", "n1"]).await;
    kubectl.ok(&["taint", "node", "n1", "node.kubernetes.io/out-of-service=x:NoExecute"]).await;
    kubectl.ok(&["taint", "node", "n1", "other:NoSchedule"]).await;
    kubectl.ok(&["taint", "node", "n1", "node.kubernetes.io/out-of-service-"]).await;
    let (_, node) = server.get("/api/v1/nodes/n1").await;
    assert_eq!(node["spec"], json!({"taints": [{"key": "other", "effect": "NoSchedule"}]}));
    let described = kubectl.ok(&["describe", "node", "n1"]).await;
    assert!(described.contains("Taints:             other:NoSchedule"), "{described}");
    kubectl.ok(&["drain", "n1"]).await;
    kubectl.ok(&["delete", "node", "n1"]).await;
}

#[tokio::test]
async fn kubectl_makes_and_deletes_built_in_objects() {
    let Some((server, kubectl)) = start("kubectl_makes_and_deletes_built_in_objects").await else { return };
    assert_eq!(kubectl.ok(&["create", "namespace", "demo"]).await, "namespace/demo created\n");
    kubectl.ok(&["create", "configmap", "c", "-n", "demo", "--from-literal=a=b"]).await;
    kubectl.ok(&["create", "secret", "generic", "s", "-n", "demo", "--from-literal=p=1"]).await;
    assert_eq!(server.get("/api/v1/namespaces/demo/secrets/s").await.1["data"], json!({"p": "MQ=="}));
    kubectl.ok(&["describe", "namespace", "demo"]).await;
    assert_eq!(kubectl.ok(&["delete", "namespace", "demo"]).await, "namespace \"demo\" deleted\n");
    assert_eq!(server.get("/api/v1/namespaces/demo").await.0, 404, "delete waits until it is gone");
    let late = kubectl.fails(&["create", "configmap", "c", "-n", "demo"]).await;
    assert!(late.contains("namespaces \"demo\" not found"), "{late}");
}

#[tokio::test]
async fn kubectl_finds_its_way_around() {
    let Some((_server, kubectl)) = start("kubectl_finds_its_way_around").await else { return };
    let resources = kubectl.ok(&["api-resources"]).await;
    for line in ["widgets wd test.io/v1 true Widget", "namespaces ns v1 false Namespace"] {
        let found = resources.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") == line);
        assert!(found, "{line} in {resources}");
    }
    assert!(kubectl.ok(&["explain", "widget.spec.size"]).await.contains("How large it is."));
    assert!(kubectl.ok(&["explain", "namespace.spec"]).await.contains("finalizers"));
    assert!(kubectl.ok(&["auth", "whoami"]).await.contains("kubernetes-admin"));
    assert_eq!(kubectl.ok(&["auth", "can-i", "delete", "widgets"]).await, "yes\n");
    assert!(kubectl.ok(&["version"]).await.contains("Server Version"));
    assert_eq!(kubectl.ok(&["get", "--raw", "/readyz"]).await, "ok");
    assert!(kubectl.ok(&["get", "crd"]).await.contains("widgets.test.io"));
}

#[tokio::test]
async fn kubectl_judges_signing_requests_and_lists_what_one_may() {
    let Some((server, kubectl)) = start("kubectl_judges_signing_requests").await else { return };
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    for name in ["good", "bad"] {
        let request = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {
                "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &pem),
                "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
            },
        });
        server.create("/apis/certificates.k8s.io/v1/certificatesigningrequests", &request).await;
    }
    kubectl.ok(&["certificate", "approve", "good"]).await;
    kubectl.ok(&["certificate", "deny", "bad"]).await;
    let shown = kubectl.ok(&["get", "csr", "--no-headers"]).await;
    let condition = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().last();
    assert_eq!((condition("good"), condition("bad")), (Some("Approved,Issued"), Some("Denied")), "{shown}");
    assert!(kubectl.ok(&["auth", "can-i", "--list"]).await.contains("*.*"));
    let listed = kubectl.ok(&["auth", "can-i", "--list", "--as", "nobody"]).await;
    assert!(listed.contains("selfsubjectreviews.authentication.k8s.io") && !listed.contains("*.*"), "{listed}");
    let (_, resources) = server.get("/apis/certificates.k8s.io/v1").await;
    assert!(resources.to_string().contains("certificatesigningrequests/approval"), "{resources}");
}

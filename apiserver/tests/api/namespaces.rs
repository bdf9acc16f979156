//! Namespaces: there from the start, deleted with their content, and closed while they go.

use serde_json::{Value, json};

use crate::harness::{Server, widget};

const NAMESPACES: &str = "/api/v1/namespaces";

async fn create(server: &Server, name: &str) -> Value {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    server.create(NAMESPACES, &body).await
}

#[tokio::test]
async fn the_installations_namespaces_outlive_restarts() {
    let server = Server::start().await;
    let (_, list) = server.get(NAMESPACES).await;
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system", "kubevirt-system"]);
    let (_, before) = server.get("/api/v1/namespaces/kube-system").await;
    let directory = std::sync::Arc::clone(&server.directory);
    server.api.shutdown().await;
    drop(server);
    let server = Server::start_in(directory).await;
    assert_eq!(server.get("/api/v1/namespaces/kube-system").await.1, before, "its UID is the installation's");
}

#[tokio::test]
async fn a_namespace_takes_its_content_along() {
    let server = Server::start().await;
    let namespace = create(&server, "demo").await;
    assert_eq!(namespace["status"]["phase"], "Active");
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    server.create("/apis/test.io/v1/namespaces/demo/widgets", &widget("a", 1)).await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    server.create("/api/v1/namespaces/demo/configmaps", &config).await;
    let (code, marked) = server.delete("/api/v1/namespaces/demo", &Value::Null).await;
    assert_eq!((code, &marked["status"]["phase"]), (200, &json!("Terminating")));
    server.wait_gone("/api/v1/namespaces/demo").await;
    assert_eq!(server.get("/apis/test.io/v1/widgets").await.1["items"], json!([]));
}

#[tokio::test]
async fn a_terminating_namespace_waits_for_finalizers_and_takes_nothing_new() {
    let server = Server::start().await;
    create(&server, "demo").await;
    let widgets = "/apis/test.io/v1/namespaces/demo/widgets";
    let mut held = widget("held", 1);
    held["metadata"]["finalizers"] = json!(["test.io/hold"]);
    server.create(widgets, &held).await;
    server.delete("/api/v1/namespaces/demo", &Value::Null).await;
    let (code, status) = server.post(widgets, &widget("late", 1)).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        status["message"],
        "widgets.test.io \"late\" is forbidden: unable to create new content in namespace demo because it is being \
         terminated"
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut watch = server.watch(&format!("{widgets}?watch=1")).await;
    while watch.next().await.unwrap().1["metadata"]["deletionTimestamp"].is_null() {}
    assert_eq!(server.get("/api/v1/namespaces/demo").await.0, 200);
    server.merge(&format!("{widgets}/held"), &json!({"metadata": {"finalizers": null}})).await;
    server.wait_gone("/api/v1/namespaces/demo").await;
}

#[tokio::test]
async fn a_namespace_goes_whatever_is_said_about_dependents() {
    let server = Server::start().await;
    for policy in ["Background", "Foreground", "Orphan"] {
        create(&server, "demo").await;
        server.create("/apis/test.io/v1/namespaces/demo/widgets", &widget("a", 1)).await;
        assert_eq!(server.delete("/api/v1/namespaces/demo", &json!({"propagationPolicy": policy})).await.0, 200);
        server.wait_gone("/api/v1/namespaces/demo").await;
    }
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_not_there() {
    let server = Server::start().await;
    let (code, status) = server.post("/apis/test.io/v1/namespaces/nowhere/widgets", &widget("a", 1)).await;
    assert_eq!((code, &status["message"]), (404, &json!("namespaces \"nowhere\" not found")));
}

#[tokio::test]
async fn the_namespaces_that_everything_needs_stay() {
    let server = Server::start().await;
    for name in ["default", "kube-system", "kube-public"] {
        let (code, status) = server.delete(&format!("{NAMESPACES}/{name}"), &Value::Null).await;
        assert_eq!(code, 403);
        assert_eq!(status["message"], format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted"));
    }
}

#[tokio::test]
async fn a_namespace_can_be_finalized_by_hand() {
    let server = Server::start().await;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "odd"},
        "spec": {"finalizers": ["kubernetes", "test.io/odd"]},
    });
    server.create(NAMESPACES, &namespace).await;
    server.delete("/api/v1/namespaces/odd", &Value::Null).await;
    let deadline = std::time::Instant::now() + crate::harness::DEADLINE;
    loop {
        let (code, mut namespace) = server.get("/api/v1/namespaces/odd").await;
        assert_eq!(code, 200, "a foreign finalizer holds it");
        if namespace["spec"]["finalizers"] == json!(["test.io/odd"]) {
            namespace["spec"]["finalizers"] = json!([]);
            assert_eq!(server.put("/api/v1/namespaces/odd/finalize", &namespace).await.0, 200);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{namespace}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(server.get("/api/v1/namespaces/odd").await.0, 404);
}

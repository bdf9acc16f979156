//! The patch types, and what is said about those that are not there.

use http::Method;
use serde_json::json;

use crate::harness::{Server, WIDGETS, widget};

const JSON: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[tokio::test]
async fn json_patches_are_applied_or_refused_as_a_whole() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("a", 3)).await;
    let path = format!("{WIDGETS}/a");
    let good = json!([
        {"op": "test", "path": "/spec/size", "value": 3},
        {"op": "add", "path": "/spec/parts", "value": ["x"]},
        {"op": "replace", "path": "/spec/size", "value": 4},
    ]);
    let (code, object) = server.call_as(Method::PATCH, &path, JSON, &good).await;
    assert_eq!((code, &object["spec"]["parts"]), (200, &json!(["x"])));
    let (code, status) = server.call_as(Method::PATCH, &path, JSON, &good).await;
    assert_eq!((code, &status["kind"]), (422, &json!("Status")), "the test no longer holds");
    assert_eq!(server.get(&path).await.1, object);
}

#[tokio::test]
async fn strategic_merge_is_for_built_in_kinds() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("a", 3)).await;
    let widget = format!("{WIDGETS}/a");
    let (code, status) = server.call_as(Method::PATCH, &widget, STRATEGIC, &json!({"spec": {"size": 4}})).await;
    assert_eq!((code, &status["reason"]), (415, &json!("UnsupportedMediaType")));
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    server.create("/api/v1/nodes", &node).await;
    let patch = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}});
    let (code, node) = server.call_as(Method::PATCH, "/api/v1/nodes/n/status", STRATEGIC, &patch).await;
    assert_eq!(code, 200, "{node}");
    assert_eq!(node["status"]["conditions"].as_array().unwrap().len(), 2, "conditions merge by type");
}

#[tokio::test]
async fn server_side_apply_is_refused_in_words() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("a", 3)).await;
    let path = format!("{WIDGETS}/a?fieldManager=me");
    let (code, status) = server.call_as(Method::PATCH, &path, "application/apply-patch+yaml", &widget("a", 4)).await;
    assert_eq!(code, 415);
    assert!(status["message"].as_str().unwrap().contains("application/merge-patch+json"), "{status}");
}

#[tokio::test]
async fn concurrent_patches_of_one_object_all_arrive() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("a", 3)).await;
    let path = format!("{WIDGETS}/a");
    let patches = (0..12).map(|number| {
        let (server, path) = (&server, &path);
        async move {
            let patch = json!({"metadata": {"annotations": {format!("n{number}"): "x"}}});
            assert_eq!(server.merge(path, &patch).await.0, 200);
        }
    });
    futures::future::join_all(patches).await;
    let (_, object) = server.get(&path).await;
    assert_eq!(object["metadata"]["annotations"].as_object().unwrap().len(), 12);
}

//! Garbage collection: owners, dependents, and the three ways to delete an owner.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Server, WIDGETS, widget};

fn path(name: &str) -> String {
    format!("{WIDGETS}/{name}")
}

fn owned_by(owner: &Value, name: &str) -> Value {
    let mut body = widget(name, 1);
    body["metadata"]["ownerReferences"] = json!([reference(owner)]);
    body
}

fn reference(owner: &Value) -> Value {
    json!({
        "apiVersion": "test.io/v1", "kind": "Widget", "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": false, "blockOwnerDeletion": true,
    })
}

#[tokio::test]
async fn dependents_go_after_their_owner() {
    let server = Server::start().await;
    let owner = server.create(WIDGETS, &widget("owner", 1)).await;
    let child = server.create(WIDGETS, &owned_by(&owner, "child")).await;
    server.create(WIDGETS, &owned_by(&child, "grandchild")).await;
    assert_eq!(server.delete(&path("owner"), &json!({"propagationPolicy": "Background"})).await.0, 200);
    server.wait_gone(&path("child")).await;
    server.wait_gone(&path("grandchild")).await;
}

#[tokio::test]
async fn in_the_foreground_dependents_go_first() {
    let server = Server::start().await;
    let owner = server.create(WIDGETS, &widget("owner", 1)).await;
    let mut child = owned_by(&owner, "child");
    child["metadata"]["finalizers"] = json!(["test.io/hold"]);
    server.create(WIDGETS, &child).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&fieldSelector=metadata.name%3Dchild")).await;
    assert_eq!(watch.next_line().await, "ADDED child");
    let (code, marked) = server.delete(&path("owner"), &json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!((code, &marked["metadata"]["finalizers"]), (200, &json!(["foregroundDeletion"])));
    let (kind, child) = watch.next().await.unwrap();
    assert!(kind == "MODIFIED" && child["metadata"]["deletionTimestamp"].is_string(), "{kind} {child}");
    assert_eq!(server.get(&path("owner")).await.0, 200, "the owner waits");
    server.merge(&path("child"), &json!({"metadata": {"finalizers": null}})).await;
    server.wait_gone(&path("owner")).await;
    assert_eq!(server.get(&path("child")).await.0, 404);
}

#[tokio::test]
async fn orphans_stay_and_forget_their_owner() {
    let server = Server::start().await;
    let owner = server.create(WIDGETS, &widget("owner", 1)).await;
    server.create(WIDGETS, &owned_by(&owner, "child")).await;
    server.delete(&path("owner"), &json!({"propagationPolicy": "Orphan"})).await;
    server.wait_gone(&path("owner")).await;
    let (code, child) = server.get(&path("child")).await;
    assert_eq!((code, child["metadata"].get("ownerReferences")), (200, None), "free the moment the owner is gone");
}

#[tokio::test]
async fn an_orphan_delete_waits_for_the_owners_own_finalizer() {
    let server = Server::start().await;
    let mut body = widget("owner", 1);
    body["metadata"]["finalizers"] = json!(["test.io/cascade"]);
    let owner = server.create(WIDGETS, &body).await;
    server.create(WIDGETS, &owned_by(&owner, "child")).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&fieldSelector=metadata.name%3Downer")).await;
    assert_eq!(watch.next_line().await, "ADDED owner");
    server.delete(&path("owner"), &json!({"orphanDependents": true})).await;
    let (_, marked) = watch.next().await.unwrap();
    assert_eq!(marked["metadata"]["finalizers"], json!(["test.io/cascade", "orphan"]));
    let (_, released) = watch.next().await.unwrap();
    assert_eq!(released["metadata"]["finalizers"], json!(["test.io/cascade"]));
    assert_eq!(server.get(&path("child")).await.1["metadata"].get("ownerReferences"), None);
    server.merge(&path("owner"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(watch.next_line().await, "DELETED owner");
    assert_eq!(server.get(&path("child")).await.0, 200);
}

#[tokio::test]
async fn one_living_owner_keeps_a_dependent() {
    let server = Server::start().await;
    let first = server.create(WIDGETS, &widget("first", 1)).await;
    let second = server.create(WIDGETS, &widget("second", 1)).await;
    let mut body = widget("child", 1);
    body["metadata"]["ownerReferences"] = json!([reference(&first), reference(&second)]);
    server.create(WIDGETS, &body).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&fieldSelector=metadata.name%3Dchild")).await;
    assert_eq!(watch.next_line().await, "ADDED child");
    server.delete(&path("first"), &Value::Null).await;
    let (kind, child) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &child["metadata"]["ownerReferences"]), ("MODIFIED", &json!([reference(&second)])));
    server.delete(&path("second"), &Value::Null).await;
    assert_eq!(watch.next_line().await, "DELETED child");
}

#[tokio::test]
async fn an_owner_that_never_was_takes_its_dependent_along() {
    let server = Server::start().await;
    let ghost = json!({"metadata": {"name": "ghost", "uid": "00000000-0000-0000-0000-000000000000"}});
    server.create(WIDGETS, &owned_by(&ghost, "child")).await;
    server.wait_gone(&path("child")).await;
    // The right name with the wrong UID is somebody else.
    let owner = server.create(WIDGETS, &widget("ghost", 1)).await;
    let mut stranger = owner.clone();
    stranger["metadata"]["uid"] = ghost["metadata"]["uid"].clone();
    server.create(WIDGETS, &owned_by(&stranger, "child")).await;
    server.wait_gone(&path("child")).await;
}

#[tokio::test]
async fn an_owner_of_an_unknown_kind_is_left_alone() {
    let server = Server::start().await;
    let mut body = widget("child", 1);
    body["metadata"]["ownerReferences"] = json!([{"apiVersion": "x.io/v1", "kind": "X", "name": "x", "uid": "u"}]);
    server.create(WIDGETS, &body).await;
    // Work is done in order: once this later pair is collected, the child above has been looked at.
    let owner = server.create(WIDGETS, &widget("owner", 1)).await;
    server.create(WIDGETS, &owned_by(&owner, "witness")).await;
    server.delete(&path("owner"), &Value::Null).await;
    server.wait_gone(&path("witness")).await;
    assert_eq!(server.get(&path("child")).await.0, 200);
}

#[tokio::test]
async fn what_was_left_undone_is_done_after_a_restart() {
    let server = Server::start().await;
    let owner = server.create(WIDGETS, &widget("owner", 1)).await;
    server.create(WIDGETS, &owned_by(&owner, "child")).await;
    let mut held = widget("held", 1);
    held["metadata"]["finalizers"] = json!(["test.io/hold"]);
    server.create(WIDGETS, &held).await;
    let directory = Arc::clone(&server.directory);
    server.api.shutdown().await;
    drop(server);
    // What a crash between an owner's delete and the collector's work leaves.
    let store = rusqlite::Connection::open(directory.path().join("data/store.db")).unwrap();
    store.execute("DELETE FROM objects WHERE name = 'owner'", []).unwrap();
    drop(store);
    let server = Server::start_in(directory).await;
    server.wait_gone(&path("child")).await;
    assert_eq!(server.get(&path("held")).await.0, 200);
}

#[tokio::test]
async fn a_cluster_scoped_object_survives_an_owner_that_cannot_be_looked_up() {
    let server = Server::start().await;
    let owner = server.create(WIDGETS, &widget("owner", 1)).await;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "ownerReferences": [reference(&owner)]},
    });
    server.create("/api/v1/nodes", &node).await;
    // Looked at after the node: what is there then stays.
    server.create(WIDGETS, &owned_by(&json!({"metadata": {"name": "none", "uid": "none"}}), "child")).await;
    server.wait_gone(&path("child")).await;
    assert_eq!(server.get("/api/v1/nodes/n1").await.0, 200);
}

#[tokio::test]
async fn what_is_in_the_way_of_garbage_is_waited_for() {
    let server = Server::start().await;
    let mut definition = serde_json::to_value(crate::harness::definition()).unwrap();
    definition["metadata"] = json!({"name": "gadgets.test.io"});
    definition["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget"});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.create(definitions, &definition).await;
    let gadgets = "/apis/test.io/v1/namespaces/default/gadgets";
    server
        .create(
            gadgets,
            &json!({"apiVersion": "test.io/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {"size": 1}}),
        )
        .await;
    let gone = json!({"apiVersion": "v1", "kind": "Node", "name": "none", "uid": "none"});
    let definition = format!("{definitions}/gadgets.test.io");
    server.merge(&definition, &json!({"metadata": {"ownerReferences": [gone]}})).await;
    server.create(WIDGETS, &owned_by(&json!({"metadata": {"name": "none", "uid": "none"}}), "child")).await;
    server.wait_gone(&path("child")).await;
    assert_eq!(server.get(&definition).await.0, 200, "one of it is left");
    server.delete(&format!("{gadgets}/g"), &Value::Null).await;
    server.wait_gone(&definition).await;
}

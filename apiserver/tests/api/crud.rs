//! Create, read, update, delete: codes, bodies and what the server owns in an object.

use serde_json::{Value, json};

use crate::harness::{Server, WIDGETS, widget};

fn path(name: &str) -> String {
    format!("{WIDGETS}/{name}")
}

#[tokio::test]
async fn a_claim_is_created_pending_whatever_it_says() {
    let server = Server::start().await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "copy"},
        "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    });
    let path = "/api/v1/namespaces/default/persistentvolumeclaims";
    server.create(path, &claim).await;
    assert_eq!(server.get(&format!("{path}/copy")).await.1["status"], json!({"phase": "Pending"}));
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/v"}},
        "status": {"phase": "Bound"},
    });
    server.create("/api/v1/persistentvolumes", &volume).await;
    assert_eq!(server.get("/api/v1/persistentvolumes/pv").await.1["status"], json!({"phase": "Pending"}));
}

#[tokio::test]
async fn a_new_object_gets_what_the_server_owns() {
    let server = Server::start().await;
    let mut body = widget("a", 3);
    body["metadata"]["uid"] = json!("mine");
    body["metadata"]["generation"] = json!(7);
    body["status"] = json!({"phase": "Running"});
    let object = server.create(WIDGETS, &body).await;
    assert_eq!(object["metadata"]["namespace"], "default");
    assert_eq!(object["metadata"]["generation"], 1);
    assert_ne!(object["metadata"]["uid"], "mine");
    assert!(object["metadata"]["creationTimestamp"].is_string());
    assert_eq!(object["spec"]["color"], "red", "the schema's default");
    assert_eq!(object.get("status"), None, "status has a path of its own");
    assert_eq!(server.get(&path("a")).await, (200, object));
}

#[tokio::test]
async fn errors_are_the_real_servers_to_the_letter() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("a", 3)).await;
    assert_eq!(
        server.post(WIDGETS, &widget("a", 3)).await,
        (
            409,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
                "reason": "AlreadyExists", "message": "widgets.test.io \"a\" already exists",
                "details": {"name": "a", "group": "test.io", "kind": "widgets"},
            })
        )
    );
    assert_eq!(
        server.get(&path("b")).await,
        (
            404,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "widgets.test.io \"b\" not found",
                "details": {"name": "b", "group": "test.io", "kind": "widgets"},
            })
        )
    );
    let (code, status) = server.post(WIDGETS, &widget("c", 0)).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(status["details"]["kind"], "Widget");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.size");
    assert!(
        status["message"].as_str().unwrap().starts_with("Widget.test.io \"c\" is invalid: spec.size: Invalid value: 0")
    );
}

#[tokio::test]
async fn the_hooks_causes_come_back_as_they_are() {
    let server = Server::start().await;
    let (code, status) = server.post(WIDGETS, &widget("a", 13)).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldValueInvalid", "message": "spec.size must not be unlucky.", "field": "spec.size"}])
    );
    assert_eq!(status["message"], "Widget.test.io \"a\" is invalid: spec.size must not be unlucky.");
    server.create(WIDGETS, &widget("a", 3)).await;
    assert_eq!(server.merge(&path("a"), &json!({"spec": {"size": 13}})).await.0, 422, "updates are judged too");
}

#[tokio::test]
async fn an_update_of_an_old_version_conflicts() {
    let server = Server::start().await;
    let old = server.create(WIDGETS, &widget("a", 3)).await;
    let mut first = old.clone();
    first["spec"]["size"] = json!(4);
    assert_eq!(server.put(&path("a"), &first).await.0, 200);
    assert_eq!(
        server.put(&path("a"), &first).await,
        (
            409,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
                "reason": "Conflict",
                "message": "Operation cannot be fulfilled on widgets.test.io \"a\": the object has been modified; \
                            please apply your changes to the latest version and try again",
                "details": {"name": "a", "group": "test.io", "kind": "widgets"},
            })
        )
    );
    let version = old["metadata"]["resourceVersion"].clone();
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"size": 5}});
    assert_eq!(server.merge(&path("a"), &patch).await.0, 409, "a patch can state a version too");
}

#[tokio::test]
async fn spec_and_status_are_written_apart() {
    let server = Server::start().await;
    let object = server.create(WIDGETS, &widget("a", 3)).await;
    let mut both = object.clone();
    both["spec"]["size"] = json!(4);
    both["status"] = json!({"phase": "Running"});
    let (code, object) = server.put(&path("a"), &both).await;
    assert_eq!((code, &object["spec"]["size"], object.get("status")), (200, &json!(4), None));
    assert_eq!(object["metadata"]["generation"], 2);
    let mut both = object.clone();
    both["spec"]["size"] = json!(5);
    both["metadata"]["labels"] = json!({"a": "b"});
    both["status"] = json!({"phase": "Running"});
    let (code, object) = server.put(&format!("{}/status", path("a")), &both).await;
    assert_eq!((code, &object["spec"]["size"], &object["status"]["phase"]), (200, &json!(4), &json!("Running")));
    assert_eq!(object["metadata"]["labels"], Value::Null);
    assert_eq!(object["metadata"]["generation"], 2, "status is no new generation");
    // Old clients write both together and expect no error, and the status kept.
    let mut old_client = object.clone();
    old_client["status"] = json!({"phase": "Made up"});
    let (code, kept) = server.put(&path("a"), &old_client).await;
    assert_eq!((code, &kept["status"]["phase"]), (200, &json!("Running")));
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_no_write() {
    let server = Server::start().await;
    let object = server.create(WIDGETS, &widget("a", 3)).await;
    assert_eq!(server.put(&path("a"), &object).await, (200, object.clone()));
    assert_eq!(server.merge(&path("a"), &json!({"spec": {"size": 3}})).await, (200, object));
}

#[tokio::test]
async fn names_are_made_up_on_demand() {
    let server = Server::start().await;
    let body = json!({
        "apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"generateName": "w-"}, "spec": {"size": 1},
    });
    let first = server.create(WIDGETS, &body).await;
    let second = server.create(WIDGETS, &body).await;
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("w-") && name.len() == 7, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    let nameless = json!({"apiVersion": "test.io/v1", "kind": "Widget", "spec": {"size": 1}});
    let (code, status) = server.post(WIDGETS, &nameless).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("metadata.name")));
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let server = Server::start().await;
    let (code, _) = server.post(&format!("{WIDGETS}?dryRun=All"), &widget("a", 3)).await;
    assert_eq!((code, server.get(&path("a")).await.0), (201, 404));
    let object = server.create(WIDGETS, &widget("a", 3)).await;
    assert_eq!(server.post(&format!("{WIDGETS}?dryRun=All"), &widget("a", 3)).await.0, 409);
    let (_, shown) = server.merge(&format!("{}?dryRun=All", path("a")), &json!({"spec": {"size": 9}})).await;
    assert_eq!(shown["spec"]["size"], 9);
    assert_eq!(server.delete(&path("a"), &json!({"dryRun": ["All"]})).await.0, 200);
    assert_eq!(server.get(&path("a")).await, (200, object));
    assert_eq!(server.post(&format!("{WIDGETS}?dryRun=Some"), &widget("b", 3)).await.0, 400);
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_dropped() {
    let server = Server::start().await;
    let mut body = widget("a", 3);
    body["spec"]["colour"] = json!("red");
    let (code, status) = server.post(&format!("{WIDGETS}?fieldValidation=Strict"), &body).await;
    assert_eq!((code, &status["message"]), (400, &json!("strict decoding error: unknown field \"spec.colour\"")));
    let send = |query: &'static str, name: &'static str| {
        let mut body = body.clone();
        body["metadata"]["name"] = json!(name);
        let request = http::Request::post(format!("{WIDGETS}{query}"));
        server.send(request.body(axum::body::Body::from(body.to_string())).unwrap())
    };
    let warned = send("?fieldValidation=Warn", "a").await;
    assert_eq!(warned.headers()["warning"], "299 - \"unknown field \\\"spec.colour\\\"\"");
    let by_default = send("", "b").await;
    assert!(by_default.headers().contains_key("warning"));
    let ignored = send("?fieldValidation=Ignore", "c").await;
    assert_eq!((ignored.status().as_u16(), ignored.headers().contains_key("warning")), (201, false));
    assert_eq!(server.get(&path("c")).await.1["spec"].get("colour"), None, "dropped in any case");
}

#[tokio::test]
async fn deletes_hold_to_their_preconditions() {
    let server = Server::start().await;
    let object = server.create(WIDGETS, &widget("a", 3)).await;
    let (code, status) = server.delete(&path("a"), &json!({"preconditions": {"uid": "other"}})).await;
    let uid = object["metadata"]["uid"].as_str().unwrap();
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        format!(
            "Operation cannot be fulfilled on widgets.test.io \"a\": Precondition failed: UID in precondition: other, \
             UID in object meta: {uid}"
        )
    );
    assert_eq!(server.delete(&path("a"), &json!({"preconditions": {"resourceVersion": "1"}})).await.0, 409);
    let version = &object["metadata"]["resourceVersion"];
    let (code, status) =
        server.delete(&path("a"), &json!({"preconditions": {"uid": uid, "resourceVersion": version}})).await;
    assert_eq!((code, &status["status"]), (200, &json!("Success")));
    assert_eq!(status["details"], json!({"name": "a", "group": "test.io", "kind": "widgets", "uid": uid}));
    assert_eq!(server.delete(&path("a"), &Value::Null).await.0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_and_none_is_added_late() {
    let server = Server::start().await;
    let mut body = widget("a", 3);
    body["metadata"]["finalizers"] = json!(["test.io/hold"]);
    server.create(WIDGETS, &body).await;
    let (code, marked) = server.delete(&path("a"), &Value::Null).await;
    assert_eq!((code, &marked["kind"]), (200, &json!("Widget")));
    let since = marked["metadata"]["deletionTimestamp"].clone();
    assert!(since.is_string());
    let (code, again) = server.delete(&path("a"), &Value::Null).await;
    assert_eq!((code, &again["metadata"]["deletionTimestamp"]), (200, &since), "a second delete changes nothing");
    let more = json!({"metadata": {"finalizers": ["test.io/hold", "test.io/more"]}});
    let (code, status) = server.merge(&path("a"), &more).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("metadata.finalizers")));
    let undo = json!({"metadata": {"deletionTimestamp": null}});
    assert_eq!(
        server.merge(&path("a"), &undo).await.1["metadata"]["deletionTimestamp"],
        since,
        "deletion has no way back"
    );
    assert_eq!(server.merge(&path("a"), &json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(server.get(&path("a")).await.0, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    for (name, color) in [("a", "blue"), ("b", "blue"), ("c", "green")] {
        let mut body = widget(name, 1);
        body["metadata"]["labels"] = json!({"color": color});
        server.create(WIDGETS, &body).await;
    }
    let (code, _) = server.delete(&format!("{WIDGETS}?labelSelector=color%3Dblue"), &Value::Null).await;
    assert_eq!(code, 200);
    let (_, list) = server.get(WIDGETS).await;
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c"]);
}

#[tokio::test]
async fn lists_take_selectors_and_state_their_version() {
    let server = Server::start().await;
    let object = server.create(WIDGETS, &widget("a", 1)).await;
    server.create(WIDGETS, &widget("b", 1)).await;
    let (_, list) = server.get("/apis/test.io/v1/widgets?fieldSelector=metadata.name%3Da").await;
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("WidgetList"), &json!("test.io/v1")));
    assert_eq!(list["items"], json!([object]));
    let version: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(version > object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap());
    let (code, status) = server.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await;
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")));
    let (code, status) = server.get(&format!("{WIDGETS}?resourceVersion={}", version + 1000)).await;
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")));
}

#[tokio::test]
async fn secrets_take_plain_text_and_give_base64() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/secrets";
    let body = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}, "data": {"c": "ZA=="},
    });
    let secret = server.create(path, &body).await;
    assert_eq!(secret["data"], json!({"a": "Yg==", "c": "ZA=="}));
    assert_eq!((&secret["type"], secret.get("stringData")), (&json!("Opaque"), None));
    let bad = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "t"}, "data": {"c": "no base64!"}});
    assert_eq!(server.post(path, &bad).await.0, 400);
}

#[tokio::test]
async fn definitions_can_be_added_at_run_time() {
    let server = Server::start().await;
    let mut definition = serde_json::to_value(crate::harness::definition()).unwrap();
    definition["metadata"]["name"] = json!("gadgets.more.io");
    definition["spec"]["group"] = json!("more.io");
    definition["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget"});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let created = server.create(crds, &definition).await;
    let established = created["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Established");
    assert!(established, "{created}");
    let gadgets = "/apis/more.io/v1/namespaces/default/gadgets";
    let gadget = json!({"apiVersion": "more.io/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {"size": 1}});
    server.create(gadgets, &gadget).await;
    let crd = format!("{crds}/gadgets.more.io");
    assert_eq!(server.delete(&crd, &Value::Null).await.0, 409, "its objects would be lost");
    assert_eq!(server.delete(&format!("{gadgets}/g"), &Value::Null).await.0, 200);
    assert_eq!(server.delete(&crd, &Value::Null).await.0, 200);
    assert_eq!(server.get(gadgets).await.0, 404);
    definition["spec"]["group"] = json!("apps");
    definition["metadata"]["name"] = json!("gadgets.apps");
    assert_eq!(server.post(crds, &definition).await.0, 422, "a built-in group is taken");
}

#[tokio::test]
async fn openapi_documents_are_named_by_what_they_are_made_from() {
    let server = Server::start().await;
    let url = async || {
        let (_, index) = server.get("/openapi/v3").await;
        index["paths"]["apis/test.io/v1"]["serverRelativeURL"].as_str().unwrap().to_owned()
    };
    let fetch = async |url: &str| {
        let request = http::Request::get(url).body(axum::body::Body::empty()).unwrap();
        let response = server.send(request).await;
        (response.status().as_u16(), response.headers().contains_key("cache-control"))
    };
    let first = url().await;
    assert_eq!(url().await, first);
    assert_eq!(fetch(&first).await, (200, true));
    assert_eq!(fetch("/openapi/v3/apis/test.io/v1?hash=old").await, (200, false), "nobody keeps what has no name");
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.io";
    let patch = json!({"spec": {"names": {"categories": ["all"]}}});
    assert_eq!(server.merge(crd, &patch).await.0, 200);
    assert_ne!(url().await, first);
}

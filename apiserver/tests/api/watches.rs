//! Watches: nothing missed, nothing doubled, in order; selectors, bookmarks, and the end of history.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Server, WIDGETS, widget};

fn path(name: &str) -> String {
    format!("{WIDGETS}/{name}")
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_watch_replays_what_happened_after_its_version() {
    let server = Server::start().await;
    let first = server.create(WIDGETS, &widget("a", 1)).await;
    server.create(WIDGETS, &widget("b", 1)).await;
    server.merge(&path("b"), &json!({"spec": {"size": 2}})).await;
    server.delete(&path("b"), &Value::Null).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true&resourceVersion={}", version(&first))).await;
    assert_eq!(watch.next_line().await, "ADDED b");
    assert_eq!(watch.next_line().await, "MODIFIED b");
    let (kind, last) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &last["spec"]["size"]), ("DELETED", &json!(2)), "the last state");
    assert!(version(&last) > version(&first) + 2, "at the version of the deletion");
    server.create(WIDGETS, &widget("c", 1)).await;
    assert_eq!(watch.next_line().await, "ADDED c", "and goes on with what happens");
}

#[tokio::test]
async fn a_watch_from_a_version_that_never_was_is_told_to_list_anew() {
    let server = Server::start().await;
    let first = server.create(WIDGETS, &widget("a", 1)).await;
    let future = version(&first) + 1000;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true&resourceVersion={future}")).await;
    let (kind, status) = watch.next().await.unwrap();
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired")),
        "{status}"
    );
    assert!(watch.next().await.is_none(), "and it ends");
    let (code, status) = server.get(&format!("{WIDGETS}?resourceVersion={future}")).await;
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")), "as kube-apiserver says it of a list");
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_the_server() {
    let server = Server::start().await;
    let first = server.create(WIDGETS, &widget("a", 1)).await;
    server.create(WIDGETS, &widget("b", 1)).await;
    let directory = Arc::clone(&server.directory);
    server.api.shutdown().await;
    drop(server);
    let server = Server::start_in(directory).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true&resourceVersion={}", version(&first))).await;
    assert_eq!(watch.next_line().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("a", 1)).await;
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = server.watch(&format!("{WIDGETS}?{query}")).await;
    assert_eq!(watch.next_line().await, "ADDED a");
    let (kind, bookmark) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &bookmark["kind"]), ("BOOKMARK", &json!("Widget")));
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.create(WIDGETS, &widget("b", 1)).await;
    assert_eq!(watch.next_line().await, "ADDED b");
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("other", 1)).await;
    let mut by_label = server.watch(&format!("{WIDGETS}?watch=1&labelSelector=on%3Dyes")).await;
    let mut by_phase = server.watch("/apis/test.io/v1/widgets?watch=1&fieldSelector=status.phase%3DRunning").await;
    server.create(WIDGETS, &widget("a", 1)).await;
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    let phase = |value: &str| json!({"status": {"phase": value}});
    let status = format!("{}/status", path("a"));
    server.merge(&path("a"), &label(json!("yes"))).await;
    assert_eq!(by_label.next_line().await, "ADDED a");
    server.merge(&status, &phase("Running")).await;
    assert_eq!(by_label.next_line().await, "MODIFIED a");
    assert_eq!(by_phase.next_line().await, "ADDED a");
    let (_, changed) = server.merge(&status, &phase("Failed")).await;
    assert_eq!(by_label.next_line().await, "MODIFIED a");
    let (kind, left) = by_phase.next().await.unwrap();
    assert_eq!((kind.as_str(), &left["status"]["phase"]), ("DELETED", &json!("Running")), "as it last matched");
    assert_eq!(version(&left), version(&changed));
    server.merge(&path("a"), &label(Value::Null)).await;
    assert_eq!(by_label.next_line().await, "DELETED a");
    server.delete(&path("a"), &Value::Null).await;
    server
        .create(WIDGETS, &{
            let mut body = widget("b", 1);
            body["metadata"]["labels"] = json!({"on": "yes"});
            body
        })
        .await;
    assert_eq!(by_label.next_line().await, "ADDED b", "the deletion of what was not selected is no event");
}

#[tokio::test]
async fn a_watch_of_one_namespace_sees_no_other() {
    let server = Server::start().await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1")).await;
    server.create("/apis/test.io/v1/namespaces/kube-public/widgets", &widget("elsewhere", 1)).await;
    server.create(WIDGETS, &widget("here", 1)).await;
    assert_eq!(watch.next_line().await, "ADDED here");
}

#[tokio::test]
async fn history_that_is_gone_is_410() {
    let server = Server::start().await;
    let first = server.create(WIDGETS, &widget("a", 1)).await;
    let last = server.create(WIDGETS, &widget("b", 1)).await;
    let store = rusqlite::Connection::open(server.directory.path().join("data/store.db")).unwrap();
    store.execute("UPDATE meta SET value = ?1 WHERE key = 'trimmed'", [version(&last).to_string()]).unwrap();
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&resourceVersion={}", version(&first))).await;
    let (kind, status) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &status["code"], &status["reason"]), ("ERROR", &json!(410), &json!("Expired")));
    let message = format!("too old resource version: {} ({})", version(&first), version(&last));
    assert_eq!(status["message"], message);
    assert!(watch.next().await.is_none(), "and the watch ends");
}

#[tokio::test]
async fn watches_end_when_asked_and_at_shutdown() {
    let server = Server::start().await;
    let mut short = server.watch(&format!("{WIDGETS}?watch=1&timeoutSeconds=1")).await;
    assert!(short.next().await.is_none());
    let mut long = server.watch(&format!("{WIDGETS}?watch=1")).await;
    server.api.shutdown().await;
    assert!(long.next().await.is_none());
}

#[tokio::test]
async fn table_watches_send_headers_once() {
    let server = Server::start().await;
    server.create(WIDGETS, &widget("a", 7)).await;
    let request = http::Request::get(format!("{WIDGETS}?watch=1"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = server.send(request).await;
    let mut stream = response.into_body().into_data_stream();
    let mut next = async || {
        let chunk = futures::StreamExt::next(&mut stream).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&chunk).unwrap()["object"].clone()
    };
    let first = next().await;
    assert_eq!((&first["kind"], &first["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert_eq!(first["rows"][0]["cells"][1], 7);
    assert_eq!(first["columnDefinitions"][1]["name"], "Size");
    server.create(WIDGETS, &widget("b", 8)).await;
    let second = next().await;
    assert_eq!(
        (second["columnDefinitions"].as_array().unwrap().len(), &second["rows"][0]["cells"][0]),
        (0, &json!("b"))
    );
}

/// What a client that lists, watches and now and then reconnects believes.
struct Believer {
    objects: BTreeMap<String, u64>,
    version: u64,
}

impl Believer {
    async fn list(server: &Server) -> Self {
        let (_, list) = server.get(WIDGETS).await;
        let objects = list["items"].as_array().unwrap().iter();
        Self {
            objects: objects.map(|o| (o["metadata"]["name"].as_str().unwrap().to_owned(), version(o))).collect(),
            version: version(&list),
        }
    }

    /// Takes an event, which must follow from what is believed.
    fn hear(&mut self, kind: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let at = version(object);
        assert!(at > self.version, "{kind} {name} at {at} comes again or out of order after {}", self.version);
        self.version = at;
        let known = match kind {
            "DELETED" => self.objects.remove(&name).is_some(),
            _ => self.objects.insert(name.clone(), at).is_some(),
        };
        assert_eq!(known, kind != "ADDED", "{kind} {name} at {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_and_watch_never_miss_or_double_an_event() {
    let server = Arc::new(Server::start().await);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                for round in 0..40 {
                    let name = format!("w{writer}-{}", round % 3);
                    match round % 4 {
                        0 | 1 => drop(server.post(WIDGETS, &widget(&name, 1)).await),
                        2 => drop(server.merge(&path(&name), &json!({"spec": {"size": round}})).await),
                        _ => drop(server.delete(&path(&name), &Value::Null).await),
                    }
                }
            })
        })
        .collect();
    let watchers: Vec<_> = (0..3)
        .map(|watcher| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let mut believer = Believer::list(&server).await;
                loop {
                    let query = format!("{WIDGETS}?watch=1&resourceVersion={}", believer.version);
                    let mut watch = server.watch(&query).await;
                    // Each reconnects after another number of events.
                    for _ in 0..=(watcher * 7) {
                        let (kind, object) = watch.next().await.unwrap();
                        if object["metadata"]["name"] == "end" {
                            return believer;
                        }
                        believer.hear(&kind, &object);
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let truth = Believer::list(&server).await.objects;
    server.create(WIDGETS, &widget("end", 1)).await;
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap().objects, truth);
    }
}

#[tokio::test]
async fn a_write_that_ends_an_object_and_its_label_is_a_deletion_to_who_selects_it() {
    let server = Server::start().await;
    let mut body = widget("a", 1);
    body["metadata"]["labels"] = json!({"tier": "front"});
    body["metadata"]["finalizers"] = json!(["test.io/hold"]);
    server.create(WIDGETS, &body).await;
    server.delete(&path("a"), &Value::Null).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&labelSelector=tier%3Dfront")).await;
    assert_eq!(watch.next_line().await, "ADDED a");
    let (code, _) = server.merge(&path("a"), &json!({"metadata": {"finalizers": null, "labels": null}})).await;
    assert_eq!(code, 200);
    let (kind, last) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &last["metadata"]["labels"]), ("DELETED", &json!({"tier": "front"})), "{last}");
}

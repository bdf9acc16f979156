//! kube-rs over the in-process transport, as controller and agent use it.

use futures::TryStreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher;
use serde_json::json;

use crate::harness::{Server, widget};

#[tokio::test]
async fn typed_objects_make_the_round() {
    let server = Server::start().await;
    let nodes: Api<Node> = Api::all(server.client());
    let node = Node { metadata: ObjectMeta { name: Some("n1".into()), ..ObjectMeta::default() }, ..Node::default() };
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let node = nodes.patch_status("n1", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(node.status.unwrap().conditions.unwrap()[0].status, "True");
    let leases: Api<Lease> = Api::namespaced(server.client(), "kube-node-lease");
    let mut lease =
        Lease { metadata: ObjectMeta { name: Some("n1".into()), ..ObjectMeta::default() }, ..Lease::default() };
    lease.spec.get_or_insert_default().holder_identity = Some("n1".into());
    let mut lease = leases.create(&PostParams::default(), &lease).await.unwrap();
    lease.spec.get_or_insert_default().lease_duration_seconds = Some(40);
    let lease = leases.replace("n1", &PostParams::default(), &lease).await.unwrap();
    assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(40));
    let error = nodes.get("n2").await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.is_not_found()), "{error}");
    assert!(nodes.delete("n1", &DeleteParams::default()).await.unwrap().is_right());
}

#[tokio::test]
async fn a_watcher_sees_objects_come_and_go() {
    let server = Server::start().await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("test.io", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(server.client(), "default", &resource);
    let object: DynamicObject = serde_json::from_value(widget("a", 1)).unwrap();
    widgets.create(&PostParams::default(), &object).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = Box::pin(watcher(widgets.clone(), config));
        let mut next = async || events.try_next().await.unwrap().unwrap();
        assert!(matches!(next().await, watcher::Event::Init));
        assert!(
            matches!(next().await, watcher::Event::InitApply(object) if object.metadata.name.as_deref() == Some("a"))
        );
        assert!(matches!(next().await, watcher::Event::InitDone));
        let object: DynamicObject = serde_json::from_value(widget("b", 1)).unwrap();
        widgets.create(&PostParams::default(), &object).await.unwrap();
        assert!(matches!(next().await, watcher::Event::Apply(object) if object.metadata.name.as_deref() == Some("b")));
        widgets.delete("b", &DeleteParams::default()).await.unwrap();
        assert!(matches!(next().await, watcher::Event::Delete(object) if object.metadata.name.as_deref() == Some("b")));
    }
}

#[tokio::test]
async fn events_are_one_thing_in_two_groups() {
    let server = Server::start().await;
    let core: Api<Event> = Api::namespaced(server.client(), "default");
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "a.1", "namespace": "default"},
        "involvedObject": {"kind": "Widget", "name": "a", "namespace": "default", "uid": "u"},
        "reason": "Started", "message": "it runs", "type": "Normal", "source": {"component": "test"}, "count": 1,
    }))
    .unwrap();
    core.create(&PostParams::default(), &event).await.unwrap();
    let params = ListParams::default().fields("involvedObject.name=a,involvedObject.uid=u");
    assert_eq!(core.list(&params).await.unwrap().items.len(), 1);
    assert_eq!(core.list(&ListParams::default().fields("involvedObject.name=b")).await.unwrap().items.len(), 0);
    let view: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(server.client(), "default");
    let seen = view.get("a.1").await.unwrap();
    assert_eq!((seen.note.as_deref(), seen.regarding.unwrap().name.as_deref()), (Some("it runs"), Some("a")));
    let new: k8s_openapi::api::events::v1::Event = serde_json::from_value(json!({
        "metadata": {"name": "a.2"}, "eventTime": "2026-11-22T10:00:00.000000Z", "note": "it ran",
        "regarding": {"kind": "Widget", "name": "a", "namespace": "default"}, "reason": "Stopped", "type": "Normal",
        "reportingController": "test", "reportingInstance": "test-1", "action": "Stop",
    }))
    .unwrap();
    view.create(&PostParams::default(), &new).await.unwrap();
    assert_eq!(core.get("a.2").await.unwrap().message.as_deref(), Some("it ran"));
    let patch = Patch::Merge(json!({"note": "it ran well"}));
    view.patch("a.2", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(core.get("a.2").await.unwrap().message.as_deref(), Some("it ran well"));
}

#[tokio::test]
async fn discovery_finds_every_kind() {
    let server = Server::start().await;
    let discovery = kube::discovery::Discovery::new(server.client()).run().await.unwrap();
    let find = |group, kind| discovery.resolve_gvk(&GroupVersionKind::gvk(group, "v1", kind)).is_some();
    for (group, kind) in
        [("", "Namespace"), ("apps", "ControllerRevision"), ("test.io", "Widget"), ("coordination.k8s.io", "Lease")]
    {
        assert!(find(group, kind), "{group} {kind}");
    }
    let configs: Api<ConfigMap> = Api::default_namespaced(server.client());
    assert_eq!(configs.list(&ListParams::default()).await.unwrap().items.len(), 0);
    assert_eq!(server.client().apiserver_version().await.unwrap().major, "1");
}

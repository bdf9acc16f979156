//! Cells of the kinds that `kubectl get` is used on.

use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn crd(columns: &Value) -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "metadata": {"name": "virtualmachines.kubevirt.io"},
        "spec": {
            "group": "kubevirt.io", "scope": "Namespaced", "names": {"kind": "VirtualMachine", "plural": "virtualmachines"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "additionalPrinterColumns": columns}],
        },
    }))
    .unwrap()
}

fn names(columns: &TableColumns) -> Vec<&str> {
    columns.columns.iter().map(|c| c.name.as_str()).collect()
}

fn cells(columns: &TableColumns, item: &Value) -> Value {
    let table = columns.render([item], &json!({}), IncludeObject::None, true, now());
    table["rows"][0]["cells"].clone()
}

#[test]
fn custom_columns_follow_the_name() {
    let crd = crd(&json!([
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
        {"name": "IP", "type": "string", "jsonPath": ".status.interfaces[0].ipAddress"},
        {"name": "NodeName", "type": "string", "jsonPath": ".status.nodeName"},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status", "priority": 1},
    ]));
    let columns = TableColumns::of_crd(&crd, "v1alpha1");
    assert_eq!(names(&columns), ["Name", "Age", "Phase", "IP", "NodeName", "Ready"]);
    let vm = json!({
        "metadata": {"name": "ovm-cirros", "creationTimestamp": "2026-11-22T11:57:00Z"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    assert_eq!(cells(&columns, &vm), json!(["ovm-cirros", "3m", "Running", null, null, "True"]));
    let table = columns.render([&vm], &json!({"resourceVersion": "7"}), IncludeObject::Metadata, true, now());
    assert_eq!(table["metadata"]["resourceVersion"], "7");
    assert_eq!(table["columnDefinitions"][5]["priority"], 1);
    assert_eq!(
        table["columnDefinitions"][2]["description"],
        "Custom resource definition column (in JSONPath format): .status.phase"
    );
    assert_eq!(
        table["rows"][0]["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": vm["metadata"]})
    );
}

#[test]
fn a_crd_without_columns_shows_name_and_age() {
    let columns = TableColumns::of_crd(&crd(&json!([])), "v1alpha1");
    assert_eq!(names(&columns), ["Name", "Age"]);
    assert_eq!(cells(&columns, &json!({"metadata": {"name": "a"}})), json!(["a", "<unknown>"]));
}

#[test]
fn later_watch_events_carry_no_headers_and_objects_on_request() {
    let columns = TableColumns::of_builtin(Builtin::ConfigMap);
    let item = json!({"metadata": {"name": "a"}, "data": {"x": "1"}, "binaryData": {"y": "Mg=="}});
    let table = columns.render([&item], &json!({}), IncludeObject::Object, false, now());
    assert_eq!(table["columnDefinitions"], json!([]));
    assert_eq!(table["rows"][0]["object"], item);
    assert_eq!(table["rows"][0]["cells"], json!(["a", 2, "<unknown>"]));
}

#[test]
fn built_in_kinds_print_as_on_a_real_cluster() {
    let created = "2026-11-20T09:00:00Z";
    let node = json!({
        "metadata": {"name": "n1", "creationTimestamp": created, "labels": {
            "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "kvm", "node-role.kubernetes.io/": "",
        }},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v0.1.0", "osImage": "Debian"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        },
    });
    assert_eq!(
        cells(&TableColumns::of_builtin(Builtin::Node), &node),
        json!([
            "n1",
            "Ready,SchedulingDisabled",
            "control-plane,kvm",
            "2d3h",
            "v0.1.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>"
        ])
    );
    let bare = json!({"metadata": {"name": "n2"}});
    let bare = cells(&TableColumns::of_builtin(Builtin::Node), &bare);
    assert_eq!((&bare[1], &bare[2]), (&json!("Unknown"), &json!("<none>")));

    let event = json!({
        "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": "VM started.\n",
        "involvedObject": {"kind": "VirtualMachine", "name": "vm"}, "count": 3,
        "firstTimestamp": "2026-11-22T11:00:00Z", "lastTimestamp": "2026-11-22T11:59:50Z",
        "source": {"component": "virt-handler", "host": "n1"},
    });
    assert_eq!(
        cells(&TableColumns::of_builtin(Builtin::Event), &event),
        json!(["10s", "Normal", "Started", "virtualmachine/vm", "", "virt-handler, n1", "VM started.", "60m", 3, "e"])
    );

    let table = [
        (Builtin::Namespace, json!({"status": {"phase": "Active"}}), json!(["x", "Active", "2d3h"])),
        (Builtin::Secret, json!({"type": "Opaque", "data": {"a": ""}}), json!(["x", "Opaque", 1, "2d3h"])),
        (Builtin::Lease, json!({"spec": {"holderIdentity": "me"}}), json!(["x", "me", "2d3h"])),
        (Builtin::CustomResourceDefinition, json!({}), json!(["x", created])),
        (Builtin::ControllerRevision, json!({"revision": 4}), json!(["x", "ovm.kubevirt.io/a", 4, "2d3h"])),
    ];
    for (kind, mut item, expected) in table {
        item["metadata"] = json!({"name": "x", "creationTimestamp": created, "ownerReferences": [
            {"controller": true, "kind": "OVM", "apiVersion": "kubevirt.io/v1alpha1", "name": "a"},
        ]});
        assert_eq!(cells(&TableColumns::of_builtin(kind), &item), expected);
    }
}

//! What kubectl sends for `label`, `annotate`, `taint`, `cordon`, `apply`, and the laws of merge patch.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn strategic(kind: Builtin, object: &Value, patch: &Value) -> Value {
    apply_patch(PatchType::Strategic, patch.to_string().as_bytes(), object, Some(kind)).unwrap()
}

#[test]
fn labels_and_annotations_merge_and_null_removes() {
    let node = json!({"metadata": {"name": "n", "labels": {"a": "1", "b": "2"}}});
    let patch = json!({"metadata": {"labels": {"a": null, "c": "3"}, "annotations": {"x": "y"}}});
    let expected = json!({"metadata": {"name": "n", "labels": {"b": "2", "c": "3"}, "annotations": {"x": "y"}}});
    assert_eq!(strategic(Builtin::Node, &node, &patch), expected);
    assert_eq!(apply_patch(PatchType::Merge, patch.to_string().as_bytes(), &node, None).unwrap(), expected);
}

#[test]
fn taints_are_replaced_and_conditions_merged_by_type() {
    let node = json!({
        "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r"}, {"type": "Disk", "status": "False"}]},
    });
    let patch = json!({
        "spec": {"unschedulable": true, "taints": [{"key": "b", "effect": "NoExecute"}]},
        "status": {
            "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "Net"}],
            "conditions": [
                {"type": "Ready", "status": "Unknown"}, {"type": "Net", "status": "True"}, {"$patch": "delete", "type": "Disk"},
            ],
        },
    });
    assert_eq!(
        strategic(Builtin::Node, &node, &patch),
        json!({
            "spec": {"unschedulable": true, "taints": [{"key": "b", "effect": "NoExecute"}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "Unknown", "reason": "r"}, {"type": "Net", "status": "True"},
            ]},
        })
    );
}

#[test]
fn finalizers_are_a_set() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let add = json!({"metadata": {"finalizers": ["b", "c"], "$setElementOrder/finalizers": ["a", "b", "c"]}});
    let added = strategic(Builtin::Secret, &object, &add);
    assert_eq!(added["metadata"]["finalizers"], json!(["a", "b", "c"]));
    let remove = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    assert_eq!(strategic(Builtin::Secret, &added, &remove)["metadata"]["finalizers"], json!(["b", "c"]));
}

#[test]
fn directives_replace_delete_and_retain() {
    let object = json!({"data": {"a": "1", "b": "2"}, "metadata": {"ownerReferences": [{"uid": "1"}, {"uid": "2"}]}});
    let replace = json!({"data": {"$patch": "replace", "c": "3"}});
    assert_eq!(strategic(Builtin::ConfigMap, &object, &replace)["data"], json!({"c": "3"}));
    let delete = json!({"data": {"$patch": "delete"}});
    assert_eq!(strategic(Builtin::ConfigMap, &object, &delete)["data"], json!({}));
    let retain = json!({"data": {"$retainKeys": ["a", "d"], "d": "4"}});
    assert_eq!(strategic(Builtin::ConfigMap, &object, &retain)["data"], json!({"a": "1", "d": "4"}));
    let owners = json!({"metadata": {"ownerReferences": [{"$patch": "replace"}, {"uid": "3", "x": null}]}});
    assert_eq!(strategic(Builtin::ConfigMap, &object, &owners)["metadata"]["ownerReferences"], json!([{"uid": "3"}]));
}

#[test]
fn a_keyed_element_without_its_key_is_rejected() {
    let patch = json!({"metadata": {"ownerReferences": [{"name": "x"}]}}).to_string();
    let error = apply_patch(PatchType::Strategic, patch.as_bytes(), &json!({}), Some(Builtin::Node)).unwrap_err();
    assert_eq!((error.code(), error.reason()), (422, "Invalid"));
}

#[test]
fn custom_resources_have_no_strategic_merge() {
    let error = PatchType::negotiate("application/strategic-merge-patch+json", None).unwrap_err();
    assert_eq!((error.code(), error.reason()), (415, "UnsupportedMediaType"));
    assert_eq!(
        error.to_string(),
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json"
    );
    assert_eq!(PatchType::negotiate("application/merge-patch+json; charset=utf-8", None), Ok(PatchType::Merge));
}

#[test]
fn json_patch_applies_whole_or_not_at_all() {
    let object = json!({"spec": {"running": false}});
    let patch = br#"[{"op": "test", "path": "/spec/running", "value": false}, {"op": "replace", "path": "/spec/running", "value": true}]"#;
    assert_eq!(apply_patch(PatchType::Json, patch, &object, None).unwrap(), json!({"spec": {"running": true}}));
    let failing = br#"[{"op": "test", "path": "/spec/running", "value": true}]"#;
    let missing = br#"[{"op": "remove", "path": "/spec/nothing"}]"#;
    for patch in [&failing[..], &missing[..]] {
        assert_eq!(apply_patch(PatchType::Json, patch, &object, None).unwrap_err().code(), 422);
    }
    for (patch_type, body) in [(PatchType::Json, "{}"), (PatchType::Merge, "[]"), (PatchType::Merge, "{")] {
        assert_eq!(apply_patch(patch_type, body.as_bytes(), &object, None).unwrap_err().code(), 400, "{body}");
    }
}

#[test]
fn a_json_patch_cannot_blow_an_object_up() {
    let object = json!({"data": {"a": "x", "list": ["x"]}});
    let copy = json!({"op": "copy", "from": "/data/list", "path": "/data/list/-"});
    let doubling: Vec<_> = std::iter::repeat_n(&copy, 40).collect();
    let nested = (0..90).fold(json!(1), |inner, _| json!([inner]));
    let path = |depth: usize| format!("/data{}", "/0".repeat(depth));
    let deepening = json!([
        {"op": "replace", "path": "/data", "value": nested}, {"op": "replace", "path": path(89), "value": nested},
    ]);
    let many = vec![json!({"op": "test", "path": "/data/a", "value": "x"}); 10_001];
    for (patch, code) in [(json!(doubling), 422), (deepening, 422), (json!(many), 413)] {
        let error = apply_patch(PatchType::Json, patch.to_string().as_bytes(), &object, None).unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0..5i64).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..3).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[abc]", value(), 0..4).prop_map(|m| m.into_iter().collect())
}

/// The merge patch that turns `from` into `to`, where both hold no null.
fn diff(from: &Value, to: &Value) -> Value {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let removed = from.keys().filter(|k| !to.contains_key(*k)).map(|k| (k.clone(), Value::Null));
            let changed = to.iter().filter(|(k, v)| from.get(*k) != Some(v));
            let changed = changed.map(|(k, v)| (k.clone(), diff(from.get(k).unwrap_or(&Value::Null), v)));
            removed.chain(changed).collect()
        }
        _ => to.clone(),
    }
}

proptest! {
    #[test]
    fn merge_patch_is_idempotent_and_reaches_its_goal(from in object(), to in object()) {
        let patch = diff(&from, &to).to_string();
        let once = apply_patch(PatchType::Merge, patch.as_bytes(), &from, None).unwrap();
        prop_assert_eq!(&once, &to);
        prop_assert_eq!(apply_patch(PatchType::Merge, patch.as_bytes(), &once, None).unwrap(), to);
    }

    #[test]
    fn an_empty_patch_changes_nothing(from in object()) {
        for patch_type in [PatchType::Merge, PatchType::Strategic] {
            prop_assert_eq!(&apply_patch(patch_type, b"{}", &from, Some(Builtin::Node)).unwrap(), &from);
        }
    }

    #[test]
    fn strategic_equals_merge_where_no_list_is_keyed(from in object(), to in object()) {
        let patch = diff(&from, &to).to_string();
        let strategic = apply_patch(PatchType::Strategic, patch.as_bytes(), &from, Some(Builtin::Secret)).unwrap();
        prop_assert_eq!(strategic, to);
    }
}

/// Without a limit at each operation this overflows the stack, and the test process ends.
#[test]
fn a_value_copied_into_itself_is_refused_before_it_is_too_deep_to_drop() {
    let mut depth = 50;
    let mut operations =
        vec![json!({"op": "add", "path": "/x", "value": (1..depth).fold(json!([]), |inner, _| json!([inner]))})];
    for _ in 0..13 {
        let path = format!("/x{}/-", "/0".repeat(depth - 1));
        operations.push(json!({"op": "copy", "from": "/x", "path": path}));
        depth *= 2;
    }
    let patch = json!(operations).to_string();
    let error = apply_patch(PatchType::Json, patch.as_bytes(), &json!({}), None).unwrap_err();
    assert_eq!(error.code(), 422);
    assert!(format!("{error:?}").contains("levels deep"), "{error:?}");
}

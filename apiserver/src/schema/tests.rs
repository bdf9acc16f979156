//! Causes, pruning and defaults of a small CRD, held against what kube-apiserver 1.36 says.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn compile(spec: &Value) -> Result<ResourceSchema, SchemaError> {
    let crd: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "widgets.example.io"},
        "spec": {
            "group": "example.io", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
                    "spec": spec,
                    "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                }}},
            }],
        },
    }))
    .unwrap();
    ResourceSchema::compile(&crd, "v1")
}

fn schema() -> ResourceSchema {
    compile(&json!({
        "type": "object", "required": ["running"],
        "properties": {
            "running": {"type": "boolean"},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "name": {"type": "string", "maxLength": 5, "minLength": 2, "pattern": "^[a-z]+$"},
            "cores": {"type": "integer", "minimum": 1, "maximum": 8},
            "ratio": {"type": "number", "exclusiveMinimum": true, "minimum": 0},
            "size": {"x-kubernetes-int-or-string": true},
            "id": {"type": "string", "format": "uuid"},
            "optional": {"type": "string", "nullable": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "tags": {"type": "object", "additionalProperties": {"type": "string"}},
            "exact": {"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}],
                      "properties": {"x": {"type": "string"}, "y": {"type": "string"}}},
            "disks": {
                "type": "array", "maxItems": 3, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "bus": {"type": "string", "default": "sata"},
                }},
            },
        },
    }))
    .unwrap()
}

fn widget(spec: &Value) -> Value {
    json!({
        "apiVersion": "example.io/v1", "kind": "Widget",
        "metadata": {"name": "w", "namespace": "default", "resourceVersion": "1"}, "spec": spec,
    })
}

/// `field: message` of each cause.
fn lines(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

#[test]
fn causes_read_as_the_real_servers() {
    let table: [(Value, &str, &str); 14] = [
        (json!({}), "FieldValueRequired", "spec.running: Required value"),
        (
            json!({"running": "yes"}),
            "FieldValueTypeInvalid",
            r#"spec.running: Invalid value: "string": spec.running in body must be of type boolean: "string""#,
        ),
        (
            json!({"running": true, "mode": "c"}),
            "FieldValueNotSupported",
            r#"spec.mode: Unsupported value: "c": supported values: "a", "b""#,
        ),
        (
            json!({"running": true, "name": "abcdef"}),
            "FieldValueTooLong",
            "spec.name: Too long: may not be more than 5 bytes",
        ),
        (
            json!({"running": true, "name": "a"}),
            "FieldValueInvalid",
            r#"spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long"#,
        ),
        (
            json!({"running": true, "name": "AB"}),
            "FieldValueInvalid",
            r#"spec.name: Invalid value: "AB": spec.name in body should match '^[a-z]+$'"#,
        ),
        (
            json!({"running": true, "cores": 0}),
            "FieldValueInvalid",
            "spec.cores: Invalid value: 0: spec.cores in body should be greater than or equal to 1",
        ),
        (
            json!({"running": true, "cores": 9}),
            "FieldValueInvalid",
            "spec.cores: Invalid value: 9: spec.cores in body should be less than or equal to 8",
        ),
        (
            json!({"running": true, "ratio": 0}),
            "FieldValueInvalid",
            "spec.ratio: Invalid value: 0: spec.ratio in body should be greater than 0",
        ),
        (
            json!({"running": true, "id": "x"}),
            "FieldValueTypeInvalid",
            r#"spec.id: Invalid value: "x": spec.id in body must be of type uuid: "x""#,
        ),
        (
            json!({"running": true, "size": true}),
            "FieldValueTypeInvalid",
            r#"spec.size: Invalid value: "boolean": spec.size in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"running": true, "disks": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]}),
            "FieldValueTooMany",
            "spec.disks: Too many: 4: must have at most 3 items",
        ),
        (
            json!({"running": true, "disks": [{"name": "a"}, {"name": "a"}]}),
            "FieldValueDuplicate",
            r#"spec.disks[1]: Duplicate value: {"name":"a"}"#,
        ),
        (json!({"running": true, "disks": [{}]}), "FieldValueRequired", "spec.disks[0].name: Required value"),
    ];
    let schema = schema();
    for (spec, reason, line) in table {
        let causes = schema.validate_create(&widget(&spec));
        assert_eq!(lines(&causes), [line]);
        assert_eq!(causes[0].reason, reason, "{line}");
    }
}

#[test]
fn good_objects_have_no_causes() {
    let spec = json!({
        "running": true, "name": "abc", "cores": 8.0, "ratio": 0.5, "size": "5%", "optional": null,
        "id": "5d307ca9-b3ef-428c-8861-06e72d69f223", "exact": {"x": ""}, "tags": {"a": "b"}, "disks": [{"name": "a"}],
    });
    assert_eq!(schema().validate_create(&widget(&spec)), []);
}

#[test]
fn one_of_names_the_alternatives_and_what_was_missing() {
    let none = schema().validate_create(&widget(&json!({"running": true, "exact": {}})));
    assert_eq!(
        lines(&none),
        [
            r#"<nil>: Invalid value: "": "spec.exact" must validate one and only one schema (oneOf). Found none valid"#,
            "spec.exact.x: Required value",
        ]
    );
    let both = schema().validate_create(&widget(&json!({"running": true, "exact": {"x": "", "y": ""}})));
    assert_eq!(
        lines(&both),
        [
            r#"<nil>: Invalid value: "": "spec.exact" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]
    );
}

#[test]
fn a_wrong_kind_is_all_that_is_said() {
    let mut object = widget(&json!({}));
    object["kind"] = json!("Gadget");
    assert_eq!(lines(&schema().validate_create(&object)), [r#"kind: Invalid value: "Gadget": must be Widget"#]);
}

#[test]
fn unknown_fields_are_removed_and_named() {
    let mut object = widget(&json!({
        "running": true, "foo": 1, "disks": [{"name": "a", "bar": {}}], "tags": {"any": "x"},
        "free": {"any": {"thing": 1}, "known": {"a": "x", "b": "y"}},
    }));
    object["extra"] = json!(1);
    object["metadata"]["odd"] = json!(1);
    let unknown = schema().admit(&mut object).unwrap();
    assert_eq!(unknown, ["metadata.odd", "extra", "spec.disks[0].bar", "spec.foo", "spec.free.known.b"]);
    assert_eq!(
        object["spec"],
        json!({
            "running": true, "mode": "a", "disks": [{"name": "a", "bus": "sata"}], "tags": {"any": "x"},
            "free": {"any": {"thing": 1}, "known": {"a": "x"}},
        })
    );
    assert_eq!(
        strict_decoding_message(&unknown[2..4], &["spec.running".to_owned()]),
        r#"strict decoding error: duplicate field "spec.running", unknown field "spec.disks[0].bar", unknown field "spec.foo""#
    );
}

#[test]
fn nulls_become_defaults_stay_or_go() {
    let mut object = widget(&json!({"running": true, "mode": null, "optional": null, "name": null}));
    schema().admit(&mut object).unwrap();
    assert_eq!(object["spec"], json!({"running": true, "mode": "a", "optional": null}));
}

#[test]
fn an_update_is_not_refused_for_what_it_leaves_alone() {
    let schema = schema();
    let old = widget(&json!({"running": true, "cores": 99, "disks": [{"name": "a"}, {"name": "a"}]}));
    let mut new = old.clone();
    new["spec"]["running"] = json!(false);
    assert_eq!(schema.validate_update(&new, &old), []);
    new["spec"]["cores"] = json!(100);
    assert_eq!(schema.validate_update(&new, &old).len(), 1);
}

#[test]
fn a_status_update_looks_at_status_only() {
    let schema = schema();
    let old = widget(&json!({"running": "broken"}));
    let mut new = old.clone();
    new["status"] = json!({"phase": 1});
    assert_eq!(
        lines(&schema.validate_status_update(&new, &old)),
        [r#"status.phase: Invalid value: "integer": status.phase in body must be of type string: "integer""#]
    );
}

#[test]
fn rules_run_once_the_object_is_sound() {
    let schema = compile(&json!({
        "type": "object", "required": ["a"],
        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "spec is immutable"}],
        "properties": {
            "a": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "self % 2 == 0", "messageExpression": "string(self) + ' is odd'"},
                {"rule": "self < 10"},
            ]},
            "list": {"type": "array", "items": {"type": "object", "properties": {"when": {"type": "string", "format": "date-time"}},
                "x-kubernetes-validations": [{"rule": "has(self.when)", "message": "when is due", "fieldPath": ".when", "reason": "FieldValueRequired"}]}},
        },
    }))
    .unwrap();
    let odd = widget(&json!({"a": 11, "list": [{"when": "2026-01-01T00:00:00Z"}, {}]}));
    assert_eq!(
        lines(&schema.validate_create(&odd)),
        [
            "spec.a: Invalid value: 11: 11 is odd",
            "spec.a: Invalid value: 11: failed rule: self < 10",
            "spec.list[1].when: Required value: when is due",
        ]
    );
    let broken = widget(&json!({"list": []}));
    assert_eq!(
        lines(&schema.validate_create(&broken)),
        [
            "spec.a: Required value",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct \
             the existing errors to complete validation",
        ]
    );
    let (old, new) = (widget(&json!({"a": 2})), widget(&json!({"a": 4})));
    assert_eq!(lines(&schema.validate_update(&new, &old)), ["spec: Invalid value: spec is immutable"]);
    assert_eq!(schema.validate_update(&old, &old), []);
}

#[test]
fn bad_schemas_are_refused() {
    assert!(matches!(compile(&json!({"type": "string", "pattern": "("})), Err(SchemaError::Pattern { .. })));
    assert!(matches!(compile(&json!({"type": "text"})), Err(SchemaError::UnknownType { .. })));
    let rule = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self."}]});
    assert!(matches!(compile(&rule), Err(SchemaError::Rule { .. })));
    let deep = (0..120).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    assert!(matches!(compile(&deep), Err(SchemaError::TooDeep { .. })));
}

#[test]
fn built_in_kinds_are_typed_defaulted_and_checked() {
    let mut secret = json!({"metadata": {"name": "s", "namespace": "n"}, "stringData": {"a": "hi"}, "foo": 1});
    assert_eq!(builtin::Builtin::Secret.admit(&mut secret).unwrap(), ["foo"]);
    assert_eq!((&secret["data"], &secret["type"]), (&json!({"a": "aGk="}), &json!("Opaque")));
    let mut namespace = json!({"metadata": {"name": "demo"}});
    builtin::Builtin::Namespace.admit(&mut namespace).unwrap();
    assert_eq!(namespace["status"]["phase"], "Active");
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "demo"}));
    let mut node = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": "no"}});
    let error = builtin::Builtin::Node.admit(&mut node).unwrap_err().to_string();
    assert_eq!(
        error,
        "Node in version \"v1\" cannot be handled as a Node: spec.unschedulable: invalid type: string \"no\", expected a boolean"
    );
    let tainted = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "Now"}]}});
    assert_eq!(
        lines(&builtin::Builtin::Node.validate_create(&tainted)),
        [
            r#"spec.taints[0].effect: Unsupported value: "Now": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#
        ]
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..12i64).prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from)
    ];
    let key = prop::sample::select(vec![
        "running", "mode", "name", "free", "known", "a", "tags", "disks", "bus", "exact", "x", "zzz",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn admission_is_idempotent(spec in any_value()) {
        let schema = schema();
        let mut once = widget(&spec);
        schema.admit(&mut once).unwrap();
        let mut twice = once.clone();
        prop_assert_eq!(schema.admit(&mut twice).unwrap(), Vec::<String>::new());
        prop_assert_eq!(&twice, &once);
    }

    #[test]
    fn an_update_that_changes_nothing_is_always_admitted(spec in any_value()) {
        let object = widget(&spec);
        prop_assert_eq!(schema().validate_update(&object, &object), []);
    }

    #[test]
    fn every_cause_names_a_field_and_a_reason(spec in any_value()) {
        for cause in schema().validate_create(&widget(&spec)) {
            prop_assert!(cause.reason.starts_with("FieldValue"), "{:?}", cause);
            prop_assert!(cause.field == "<nil>" || cause.field.starts_with("spec"), "{:?}", cause);
        }
    }
}

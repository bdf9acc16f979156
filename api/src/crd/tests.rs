//! Tests of the generated CustomResourceDefinitions.

use serde_json::Value;

use super::all;

/// Every property below a schema, as path and schema.
fn walk(schema: &Value, path: &str, seen: &mut Vec<(String, Value)>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        seen.push((path.clone(), property.clone()));
        walk(property, &path, seen);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), seen);
    }
}

fn schemas() -> Vec<(String, Value)> {
    all()
        .into_iter()
        .map(|crd| {
            let kind = crd.spec.names.kind.clone();
            (kind, serde_json::to_value(&crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

#[test]
fn every_field_has_a_description() {
    for (kind, schema) in schemas() {
        let mut seen = Vec::new();
        walk(&schema, &kind, &mut seen);
        assert!(seen.len() > 60, "{kind} has {} fields", seen.len());
        let bare: Vec<_> = seen.iter().filter(|(_, s)| s["description"].as_str().unwrap_or("").is_empty()).collect();
        assert!(bare.is_empty(), "without description: {:?}", bare.iter().map(|(p, _)| p).collect::<Vec<_>>());
    }
}

#[test]
fn required_is_what_the_contract_says() {
    let required = |pointer: &str, kind: usize| {
        let mut names: Vec<String> =
            schemas()[kind].1.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"))["required"]
                .as_array()
                .map(|a| a.iter().map(|v| v.as_str().unwrap().to_owned()).collect())
                .unwrap_or_default();
        names.sort();
        names
    };
    assert_eq!(required("/properties/spec", 0), ["running", "template"]);
    assert_eq!(required("/properties/spec/properties/template/properties/spec", 0), ["domain"]);
    let domain = "/properties/spec/properties/domain";
    assert_eq!(required(domain, 1), ["devices"]);
    assert_eq!(required(&format!("{domain}/properties/machine"), 1), ["type"]);
    assert_eq!(required(&format!("{domain}/properties/devices/properties/disks/items"), 1), ["name", "volumeName"]);
    assert_eq!(required(&format!("{domain}/properties/devices/properties/watchdog"), 1), ["name"]);
    let volumes = "/properties/spec/properties/volumes/items";
    assert_eq!(required(volumes, 1), ["name"]);
    assert_eq!(required(&format!("{volumes}/properties/emptyDisk"), 1), ["capacity"]);
    assert_eq!(required(&format!("{volumes}/properties/registryDisk"), 1), ["image"]);
    assert_eq!(required("/properties/status/properties/conditions/items", 1), ["status", "type"]);
}

#[test]
fn nulls_of_old_clients_are_normal_input() {
    let ovm = &schemas()[0].1;
    let metadata = "/properties/spec/properties/template/properties/metadata/properties/creationTimestamp/nullable";
    assert_eq!(ovm.pointer(metadata), Some(&Value::Bool(true)));
    let timer = "/properties/spec/properties/domain/properties/clock/properties/timer/nullable";
    assert_eq!(schemas()[1].1.pointer(timer), Some(&Value::Bool(true)));
}

#[test]
fn what_is_bound_is_kept_by_rules_of_the_definition() {
    let rules = schemas()[1].1["x-kubernetes-validations"].as_array().unwrap().clone();
    let paths: Vec<_> = rules.iter().map(|rule| rule["fieldPath"].as_str().unwrap()).collect();
    assert_eq!(paths, [".spec", ".status.nodeName"]);
    assert!(
        rules
            .iter()
            .all(|rule| rule["reason"] == "FieldValueForbidden" && rule["rule"].as_str().unwrap().contains("oldSelf"))
    );
}

#[test]
fn lists_take_more_than_the_admission_limit() {
    let vm = &schemas()[1].1;
    for pointer in [
        "/properties/spec/properties/domain/properties/devices/properties/disks",
        "/properties/spec/properties/volumes",
    ] {
        assert_eq!(vm.pointer(pointer).unwrap()["maxItems"], 1024, "{pointer}");
        assert_eq!(vm.pointer(pointer).unwrap()["x-kubernetes-list-type"], "atomic", "{pointer}");
    }
}

#[test]
fn no_format_that_kubernetes_does_not_know() {
    for crd in all() {
        let text = serde_json::to_string(&crd).unwrap();
        assert!(!text.contains("\"uint"), "{}: an apply would warn", crd.spec.names.kind);
    }
}

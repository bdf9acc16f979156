//! What kubectl looks for in the documents.

use serde_json::json;

use super::*;

fn crd() -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "metadata": {"name": "widgets.example.io"},
        "spec": {
            "group": "example.io", "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object", "description": "A widget.",
                    "properties": {"spec": {"type": "object", "description": "What is wanted.", "nullable": true}},
                }},
            }],
        },
    }))
    .unwrap()
}

fn all(crd: &CustomResourceDefinition) -> Vec<ServedResource<'_>> {
    let builtin = Builtin::ALL.into_iter().map(ServedResource::Builtin);
    builtin.chain([ServedResource::Custom { crd, version: "v1" }]).collect()
}

/// Every `$ref` below `value`.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn the_index_names_every_group_version_once() {
    let crd = crd();
    let index = index(&all(&crd));
    let paths: Vec<&String> = index["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "api/v1",
            "apis/apiextensions.k8s.io/v1",
            "apis/apps/v1",
            "apis/certificates.k8s.io/v1",
            "apis/coordination.k8s.io/v1",
            "apis/example.io/v1"
        ]
    );
    assert_eq!(index["paths"]["apis/example.io/v1"]["serverRelativeURL"], "/openapi/v3/apis/example.io/v1");
}

#[test]
fn every_reference_leads_somewhere() {
    let crd = crd();
    let resources = all(&crd);
    let mut documents: Vec<Value> = index(&resources)["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(|path| document_v3(path, &resources).unwrap())
        .collect();
    documents.push(document_v2(&resources));
    for document in &documents {
        let mut found = Vec::new();
        references(document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
    assert_eq!(document_v3("apis/nothing/v1", &resources), None);
}

#[test]
fn explain_finds_the_kind_at_a_path_and_at_a_schema() {
    let crd = crd();
    let document = document_v3("apis/example.io/v1", &all(&crd)).unwrap();
    let kind = json!({"group": "example.io", "version": "v1", "kind": "Widget"});
    assert_eq!(document["paths"]["/apis/example.io/v1/widgets"]["get"][GVK], kind);
    let schema = &document["components"]["schemas"]["io.example.v1.Widget"];
    assert_eq!(schema[GVK], json!([kind]));
    assert_eq!(schema["properties"]["spec"]["description"], "What is wanted.");
    let metadata = &schema["properties"]["metadata"]["allOf"][0]["$ref"];
    assert_eq!(metadata, "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
}

#[test]
fn patch_operations_offer_field_validation_and_the_right_media_types() {
    let crd = crd();
    let resources = all(&crd);
    let custom = document_v3("apis/example.io/v1", &resources).unwrap();
    let core = document_v3("api/v1", &resources).unwrap();
    let patch_of_widget = &custom["paths"]["/apis/example.io/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    let patch_of_node = &core["paths"]["/api/v1/nodes/{name}"]["patch"];
    for (patch, has_strategic) in [(patch_of_widget, false), (patch_of_node, true)] {
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
        let content = patch["requestBody"]["content"].as_object().unwrap();
        assert_eq!(content.contains_key("application/strategic-merge-patch+json"), has_strategic);
    }
    let conditions = &core["components"]["schemas"]["io.k8s.api.core.v1.NodeStatus"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-patch-merge-key"], "type");
}

#[test]
fn v2_knows_no_v3_keywords() {
    let crd = crd();
    let document = document_v2(&all(&crd));
    assert_eq!(document["swagger"], "2.0");
    let text = document.to_string();
    assert!(!text.contains(REF_V3));
    assert!(!text.contains("\"nullable\":true"));
    let nullable = &document["definitions"]["io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"];
    assert_eq!(nullable["properties"]["nullable"]["type"], "boolean", "a property of that name is no keyword");
    let patch = &document["paths"]["/api/v1/nodes/{name}"]["patch"];
    assert!(
        patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation" && p["type"] == "string")
    );
}

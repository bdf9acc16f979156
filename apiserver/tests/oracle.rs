//! Schemas, selectors, printer columns and strategic merge patches against what Kubernetes' own Go packages (v0.36.0) answer.
//!
//! `testdata/oracle.json` holds questions and answers; `cd testdata/oracle && go run . ../oracle.json` asks again.
//! The order of causes is not compared: it is random in the real server. Nor is that of list elements after a strategic
//! merge, which means nothing in the lists concerned. One answer is ours on purpose and is not asked for: a list in the place
//! of a text with a format passes in the real server, and is refused here.

use std::error::Error;

use apiserver::Cause;
use apiserver::patch::{PatchType, apply_patch};
use apiserver::schema::ResourceSchema;
use apiserver::schema::builtin::Builtin;
use apiserver::selector::{FieldSelector, LabelSelector, SelectableFields};
use apiserver::table::{IncludeObject, TableColumns, human_duration};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

fn oracle() -> Value {
    serde_json::from_str(include_str!("../testdata/oracle.json")).expect("the oracle's file is JSON")
}

fn crd(schema: &Value, columns: &Value) -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "metadata": {"name": "widgets.example.io"},
        "spec": {
            "group": "example.io", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "additionalPrinterColumns": columns}],
        },
    }))
    .expect("the document is a CRD")
}

fn schema(oracle: &Value) -> ResourceSchema {
    ResourceSchema::compile(&crd(&oracle["schema"], &json!([])), "v1").expect("the oracle compiled this schema too")
}

fn lines(causes: &[Cause]) -> Vec<String> {
    let mut lines: Vec<String> = causes.iter().map(|c| format!("{}|{}: {}", c.reason, c.field, c.message)).collect();
    lines.sort();
    lines
}

fn texts(value: &Value) -> Vec<String> {
    let mut texts: Vec<String> = serde_json::from_value(value.clone()).expect("errors are a list of texts");
    texts.sort();
    texts
}

/// Fails with every difference at once.
fn assert_none(differences: &[String]) {
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

fn compare<T: PartialEq + std::fmt::Debug>(differences: &mut Vec<String>, what: &Value, ours: &T, theirs: &T) {
    if ours != theirs {
        differences.push(format!("{what}\n  ours:   {ours:?}\n  theirs: {theirs:?}"));
    }
}

#[test]
fn causes_are_those_of_apiextensions() {
    let oracle = oracle();
    let schema = schema(&oracle);
    let mut differences = Vec::new();
    for entry in oracle["objects"].as_array().unwrap() {
        let ours = lines(&schema.validate_create(&entry["object"]));
        compare(&mut differences, &entry["object"]["spec"], &ours, &texts(&entry["errors"]));
    }
    for entry in oracle["updates"].as_array().unwrap() {
        let ours = lines(&schema.validate_update(&entry["new"], &entry["old"]));
        compare(
            &mut differences,
            &json!([entry["old"]["spec"], entry["new"]["spec"]]),
            &ours,
            &texts(&entry["errors"]),
        );
    }
    assert_none(&differences);
}

#[test]
fn objects_are_pruned_and_defaulted_alike() -> Result<(), Box<dyn Error>> {
    let oracle = oracle();
    let schema = schema(&oracle);
    let mut differences = Vec::new();
    for entry in oracle["objects"].as_array().unwrap() {
        let mut object = entry["object"].clone();
        let mut unknown = schema.admit(&mut object).map_err(|cause| cause.message)?;
        unknown.sort();
        let what = &entry["object"]["spec"];
        compare(&mut differences, what, &unknown, &texts(&entry["unknown"]));
        compare(&mut differences, what, &object, &entry["admitted"]);
    }
    assert_none(&differences);
    Ok(())
}

#[test]
fn selectors_parse_print_and_fail_alike() {
    let oracle = oracle();
    let fields = SelectableFields::of_builtin(Builtin::Lease);
    let mut differences = Vec::new();
    let mut check = |entry: &Value, ours: Result<String, String>| {
        let theirs = match entry["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(entry["parsed"].as_str().unwrap_or_default().to_owned()),
        };
        compare(&mut differences, &entry["text"], &ours, &theirs);
    };
    for entry in oracle["labels"].as_array().unwrap() {
        let ours = LabelSelector::parse(entry["text"].as_str().unwrap());
        check(entry, ours.map(|s| s.to_string()).map_err(|e| e.to_string()));
    }
    for entry in oracle["fields"].as_array().unwrap() {
        let ours = FieldSelector::parse(entry["text"].as_str().unwrap(), &fields);
        check(entry, ours.map(|s| s.to_string()).map_err(|e| e.to_string()));
    }
    assert_none(&differences);
}

#[test]
fn cells_and_durations_print_alike() {
    let oracle = oracle();
    let now = jiff::Timestamp::UNIX_EPOCH;
    let mut differences = Vec::new();
    for entry in oracle["cells"].as_array().unwrap() {
        let column = json!({"name": "x", "type": entry["type"], "jsonPath": entry["path"]});
        let columns = TableColumns::of_crd(&crd(&oracle["schema"], &json!([column])), "v1");
        let table = columns.render([&oracle["item"]], &json!({}), IncludeObject::None, true, now);
        let what = json!([entry["path"], entry["type"]]);
        compare(&mut differences, &what, &table["rows"][0]["cells"][1], &entry["cell"]);
    }
    for entry in oracle["durations"].as_array().unwrap() {
        let ours = Value::from(human_duration(entry["seconds"].as_i64().unwrap()));
        compare(&mut differences, &entry["seconds"], &ours, &entry["text"]);
    }
    assert_none(&differences);
}

#[test]
fn strategic_merges_agree() {
    let mut differences = Vec::new();
    for entry in oracle()["strategic"].as_array().unwrap() {
        let patch = entry["patch"].to_string();
        let ours = apply_patch(PatchType::Strategic, patch.as_bytes(), &entry["object"], Some(Builtin::Node));
        let ours = ours.map(sorted).map_err(|_| "refused");
        let theirs = match entry.get("error") {
            Some(_) => Err("refused"),
            None => Ok(sorted(entry["patched"].clone())),
        };
        compare(&mut differences, &entry["patch"], &ours, &theirs);
    }
    assert_none(&differences);
}

/// `value` with the elements of every list in the order of their text.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sorted).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(map) => map.into_iter().map(|(key, child)| (key, sorted(child))).collect(),
        other => other,
    }
}

//! The status of a custom resource definition: what the server says about serving it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::CrdError;
use super::resource::Resource;
use crate::object::{Object, timestamp};

/// What a definition that was accepted makes the server serve.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) resources: Vec<Resource>,
}

/// Compiles a definition and writes its status: names accepted, established.
pub(crate) fn settle(object: &mut Object, now: jiff::Timestamp) -> Result<Definition, CrdError> {
    let crd: CustomResourceDefinition = serde_json::from_value(object.value().clone())
        .map_err(|source| CrdError::Decode { name: object.name().to_owned(), source })?;
    let resources = Resource::from_definition(&crd)?;
    let storage = crd.spec.versions.iter().find(|version| version.storage).map_or("", |version| &version.name);
    let old = object.value().get("status").cloned().unwrap_or_default();
    let mut stored_versions: Vec<Value> = old["storedVersions"].as_array().cloned().unwrap_or_default();
    if !stored_versions.iter().any(|version| version == storage) {
        stored_versions.push(json!(storage));
    }
    let is_settled = old["conditions"].as_array().is_some_and(|conditions| {
        ["NamesAccepted", "Established"]
            .iter()
            .all(|kind| conditions.iter().any(|c| c["type"] == *kind && c["status"] == "True"))
    });
    let conditions = if is_settled { old["conditions"].clone() } else { conditions(now) };
    let names = object.value()["spec"]["names"].clone();
    let status = json!({"acceptedNames": names, "conditions": conditions, "storedVersions": stored_versions});
    object.root_mut().insert("status".to_owned(), status);
    Ok(Definition { group: crd.spec.group, plural: crd.spec.names.plural, resources })
}

fn conditions(now: jiff::Timestamp) -> Value {
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": timestamp(now),
        })
    };
    json!([
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ])
}

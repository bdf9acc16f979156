//! Discovery in one document: `apidiscovery.k8s.io/v2`. It saves kubectl a request for each group version.
//!
//! <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>

use axum::body::Body;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};

use super::{classic, group_versions};
use crate::http::respond;
use crate::registry::Registry;
use crate::server::Mount;

/// What the client asked for, and what it gets.
const MEDIA_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `GET /api` (the core group) or `GET /apis` (all others).
pub(crate) fn aggregated_response(registry: &Registry, mounts: &[Mount], is_core: bool) -> Response<Body> {
    let groups = if is_core { vec![(String::new(), vec!["v1".to_owned()])] } else { group_versions(registry, mounts) };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().filter_map(|version| version_entry(registry, mounts, group, version)).collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let mut response = respond::ok(&list);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

fn version_entry(registry: &Registry, mounts: &[Mount], group: &str, version: &str) -> Option<Value> {
    let list = classic::resources(registry, mounts, group, version)?;
    let mut resources: Vec<Value> = Vec::new();
    for entry in list["resources"].as_array().into_iter().flatten() {
        let name = entry["name"].as_str().unwrap_or_default();
        let kind = |entry: &Value| json!({"group": group, "version": version, "kind": entry["kind"]});
        if let Some((parent, subresource)) = name.split_once('/') {
            let described = json!({"subresource": subresource, "responseKind": kind(entry), "verbs": entry["verbs"]});
            match resources.iter_mut().find(|resource| resource["resource"] == parent) {
                Some(resource) => {
                    if let Some(list) = resource["subresources"].as_array_mut() {
                        list.push(described);
                    }
                }
                // A subresource without its resource, as mounted groups have: the parent stands there without verbs.
                None => resources.push(json!({
                    "resource": parent, "scope": scope(entry), "verbs": [], "subresources": [described],
                    "responseKind": {}, "singularResource": "",
                })),
            }
            continue;
        }
        let mut resource = json!({
            "resource": name, "responseKind": kind(entry), "scope": scope(entry),
            "singularResource": entry["singularName"], "verbs": entry["verbs"], "subresources": [],
        });
        for field in ["shortNames", "categories"] {
            if let Some(value) = entry.get(field) {
                resource[field] = value.clone();
            }
        }
        resources.push(resource);
    }
    Some(json!({"version": version, "freshness": "Current", "resources": resources}))
}

fn scope(entry: &Value) -> &'static str {
    if entry["namespaced"] == true { "Namespaced" } else { "Cluster" }
}

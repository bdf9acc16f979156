//! Discovery one document a group version: `/api`, `/apis`, `/apis/GROUP`, `/apis/GROUP/VERSION`.

use serde_json::{Value, json};

use super::group_versions;
use crate::registry::{Behavior, Registry, Resource};
use crate::server::Mount;

/// `GET /api`.
pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `GET /apis`.
pub(crate) fn groups(registry: &Registry, mounts: &[Mount]) -> Value {
    let groups: Vec<Value> =
        group_versions(registry, mounts).iter().map(|(group, versions)| api_group(group, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/GROUP`.
pub(crate) fn group(registry: &Registry, mounts: &[Mount], name: &str) -> Option<Value> {
    let groups = group_versions(registry, mounts);
    let (_, versions) = groups.iter().find(|(group, _)| group == name)?;
    let mut group = api_group(name, versions);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

fn api_group(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

/// `GET /api/v1`, `GET /apis/GROUP/VERSION`.
pub(crate) fn resources(registry: &Registry, mounts: &[Mount], group: &str, version: &str) -> Option<Value> {
    let mut list: Vec<Value> = registry.in_version(group, version).flat_map(|resource| entries(resource)).collect();
    let mounted = mounts.iter().find(|mount| mount.group == group && mount.version == version);
    list.extend(mounted.iter().flat_map(|mount| mount.resources.iter().cloned()));
    if list.is_empty() && mounted.is_none() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// The resource, and its subresources.
fn entries(resource: &Resource) -> Vec<Value> {
    let mut main = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.is_namespaced,
        "kind": resource.kind, "verbs": resource.verbs.names(),
    });
    if !resource.short_names.is_empty() {
        main["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        main["categories"] = json!(resource.categories);
    }
    let subresource = |name: &str, verbs: &[&str]| {
        json!({
            "name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.is_namespaced,
            "kind": resource.kind, "verbs": verbs,
        })
    };
    let mut entries = vec![main];
    if resource.has_status {
        entries.push(subresource("status", &["get", "patch", "update"]));
    }
    if resource.behavior == Behavior::SigningRequest {
        entries.push(subresource("approval", &["patch", "update"]));
    }
    if resource.behavior == Behavior::Namespace {
        entries.push(subresource("finalize", &["update"]));
    }
    entries
}

//! What clients are told about the server: groups, resources, version, OpenAPI.

mod aggregated;
mod classic;
mod openapi;

pub(crate) use aggregated::aggregated_response;
pub(crate) use classic::{core_versions, group, groups, resources};
pub(crate) use openapi::{openapi_v2, openapi_v3};

use serde_json::{Value, json};

use crate::registry::Registry;
use crate::server::Mount;

/// The Kubernetes version that the API follows: that of the types that are served.
const MINOR_VERSION: &str = "36";

/// `GET /version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR_VERSION, "gitVersion": format!("v1.{MINOR_VERSION}.0+ovm"),
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// All groups beside the core group, each with its versions, in order.
fn group_versions(registry: &Registry, mounts: &[Mount]) -> Vec<(String, Vec<String>)> {
    let mut groups: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    let served = registry.iter().map(|resource| (&resource.group, &resource.version));
    let mounted = mounts.iter().map(|mount| (&mount.group, &mount.version));
    for (group, version) in served.chain(mounted).filter(|(group, _)| !group.is_empty()) {
        let versions = groups.entry(group.clone()).or_default();
        if !versions.contains(version) {
            versions.push(version.clone());
        }
    }
    groups.into_iter().collect()
}

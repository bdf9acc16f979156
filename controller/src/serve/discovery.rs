//! What the aggregated API says of itself.

use api::names::{SUBRESOURCE_GROUP, VERSION};
use serde_json::{Value, json};

use crate::console;

fn group_version() -> String {
    format!("{SUBRESOURCE_GROUP}/{VERSION}")
}

fn api_group() -> Value {
    let version = json!({"groupVersion": group_version(), "version": VERSION});
    json!({"name": SUBRESOURCE_GROUP, "versions": [version], "preferredVersion": version})
}

fn with_kind(kind: &str, mut body: Value) -> Value {
    body["kind"] = kind.into();
    body["apiVersion"] = "v1".into();
    body
}

/// `GET /apis`.
pub(super) fn groups() -> Value {
    with_kind("APIGroupList", json!({"groups": [api_group()]}))
}

/// `GET /apis/subresources.kubevirt.io`.
pub(super) fn group() -> Value {
    with_kind("APIGroup", api_group())
}

/// `GET /apis/subresources.kubevirt.io/v1alpha1`.
pub(super) fn resources() -> Value {
    with_kind("APIResourceList", json!({"groupVersion": group_version(), "resources": console::resources()}))
}

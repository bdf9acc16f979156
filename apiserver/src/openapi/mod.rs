//! OpenAPI documents of what the server serves, built when asked for and not kept.
//!
//! kubectl reads v3, as JSON: `explain` looks for a path whose operation carries the kind, and for the schema that carries
//! it too; `create`, `apply` and `edit` send `fieldValidation` only if the PATCH operation of the kind has that parameter,
//! and else check the object themselves against v2 (`QueryParamVerifierV3` in
//! <https://pkg.go.dev/k8s.io/cli-runtime/pkg/resource>). Kubectl before 1.27 knows v2 alone, and takes it as protobuf alone.
//! <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition>.

mod components;
mod paths;
mod protobuf;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value, json};

use crate::schema::builtin::Builtin;

pub use protobuf::{ACCEPTED as V2_PROTOBUF, CONTENT_TYPE as V2_PROTOBUF_CONTENT};

const REF_V3: &str = "#/components/schemas/";
const REF_V2: &str = "#/definitions/";
/// Extension that names the kind an operation or a schema is about.
const GVK: &str = "x-kubernetes-group-version-kind";
const TITLE: &str = "Kubernetes";

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
    let of_path: Vec<_> = resources.iter().copied().filter(|r| r.group_version_path() == path).collect();
    if of_path.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    for resource in &of_path {
        paths::add(resource, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": { "schemas": components::schemas(&of_path) },
    }))
}

/// The document behind `/openapi/v2` as protobuf, for clients that accept [`V2_PROTOBUF`].
pub fn document_v2_protobuf(resources: &[ServedResource<'_>]) -> Vec<u8> {
    protobuf::encode(&document_v2(resources))
}

/// The document behind `/openapi/v2`, of everything served. OpenAPI v2 is poorer: what it cannot say is left out.
pub fn document_v2(resources: &[ServedResource<'_>]) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        paths::add(resource, &mut paths);
    }
    let mut paths = Value::Object(paths);
    let mut definitions = components::schemas(resources);
    definitions.values_mut().for_each(schema_to_v2);
    paths::to_v2(&mut paths);
    json!({ "swagger": "2.0", "info": info(), "paths": paths, "definitions": definitions })
}

impl ServedResource<'_> {
    fn group(&self) -> &str {
        match self {
            Self::Builtin(kind) => kind.group(),
            Self::Custom { crd, .. } => &crd.spec.group,
        }
    }

    fn version(&self) -> &str {
        match self {
            Self::Builtin(kind) => kind.version(),
            Self::Custom { version, .. } => version,
        }
    }

    fn kind(&self) -> &str {
        match self {
            Self::Builtin(kind) => kind.kind(),
            Self::Custom { crd, .. } => &crd.spec.names.kind,
        }
    }

    fn plural(&self) -> &str {
        match self {
            Self::Builtin(kind) => kind.plural(),
            Self::Custom { crd, .. } => &crd.spec.names.plural,
        }
    }

    fn is_namespaced(&self) -> bool {
        match self {
            Self::Builtin(kind) => kind.is_namespaced(),
            Self::Custom { crd, .. } => crd.spec.scope == "Namespaced",
        }
    }

    fn has_status(&self) -> bool {
        match self {
            Self::Builtin(kind) => kind.has_status(),
            Self::Custom { crd, version } => {
                let found = crd.spec.versions.iter().find(|v| v.name == *version);
                found.and_then(|v| v.subresources.as_ref()).is_some_and(|s| s.status.is_some())
            }
        }
    }

    /// `api/v1`, `apis/kubevirt.io/v1alpha1`.
    fn group_version_path(&self) -> String {
        let (group, version) = (self.group(), self.version());
        if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
    }

    /// Key of the kind's schema among the components: `io.kubevirt.v1alpha1.VirtualMachine`.
    fn component(&self) -> String {
        match self {
            Self::Builtin(kind) => components::builtin_component(*kind),
            Self::Custom { crd, version } => {
                let reversed: Vec<&str> = crd.spec.group.rsplit('.').collect();
                format!("{}.{version}.{}", reversed.join("."), crd.spec.names.kind)
            }
        }
    }

    /// The value of the extension that names the kind.
    fn gvk(&self) -> Value {
        json!({ "group": self.group(), "version": self.version(), "kind": self.kind() })
    }
}

fn info() -> Value {
    json!({ "title": TITLE, "version": "v1.36.0" })
}

/// Rewrites the references of one schema and drops keywords that v2 does not know.
fn schema_to_v2(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for keyword in ["nullable", "oneOf", "anyOf", "not"] {
        map.remove(keyword);
    }
    // A lone reference inside allOf is how v3 puts a description beside it; v2 allows both side by side.
    if let Some([only]) = map.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(reference) = only.get("$ref").cloned()
    {
        map.remove("allOf");
        map.insert("$ref".to_owned(), reference);
    }
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replace(REF_V3, REF_V2);
    }
    for (keyword, child) in map.iter_mut() {
        match (keyword.as_str(), child) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(schema_to_v2),
            ("allOf", Value::Array(all)) => all.iter_mut().for_each(schema_to_v2),
            ("items" | "additionalProperties", child) => schema_to_v2(child),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;

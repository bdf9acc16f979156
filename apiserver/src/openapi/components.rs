//! `components.schemas`: of built-in kinds from `k8s_openapi`, of custom resources from their CRD.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::{GVK, REF_V3, ServedResource};
use crate::schema::builtin::Builtin;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
    convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
    from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Component, property and merge key of the lists that strategic merge patch merges; no key means a set. kubectl computes
/// its patches with these, and `patch` applies them with the same.
const MERGED_LISTS: [(&str, &str, Option<&str>); 6] = [
    (OBJECT_META, "finalizers", None),
    (OBJECT_META, "ownerReferences", Some("uid")),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", None),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", Some("type")),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", Some("type")),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", Some("type")),
];

/// Key of a built-in kind's schema: `io.k8s.api.core.v1.Node`.
pub(super) fn builtin_component(kind: Builtin) -> String {
    match kind {
        Builtin::Namespace => Namespace::schema_name(),
        Builtin::Node => Node::schema_name(),
        Builtin::Event => Event::schema_name(),
        Builtin::Secret => Secret::schema_name(),
        Builtin::ConfigMap => ConfigMap::schema_name(),
        Builtin::PersistentVolume => PersistentVolume::schema_name(),
        Builtin::PersistentVolumeClaim => PersistentVolumeClaim::schema_name(),
        Builtin::Lease => Lease::schema_name(),
        Builtin::ControllerRevision => ControllerRevision::schema_name(),
        Builtin::CertificateSigningRequest => CertificateSigningRequest::schema_name(),
        Builtin::CustomResourceDefinition => CustomResourceDefinition::schema_name(),
    }
    .into_owned()
}

/// The schemas of `resources`, of their lists, and all that these refer to.
pub(super) fn schemas(resources: &[ServedResource<'_>]) -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    generator.subschema_for::<ObjectMeta>();
    generator.subschema_for::<ListMeta>();
    for resource in resources {
        if let ServedResource::Builtin(kind) = resource {
            add_builtin(*kind, &mut generator);
        }
    }
    let mut schemas: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    for (component, property, key) in MERGED_LISTS {
        let Some(list) = schemas.get_mut(component).and_then(|c| c.pointer_mut(&format!("/properties/{property}")))
        else {
            continue;
        };
        set(list, "x-kubernetes-patch-strategy", json!("merge"));
        if let Some(key) = key {
            set(list, "x-kubernetes-patch-merge-key", json!(key));
        }
    }
    for resource in resources {
        let component = resource.component();
        if let ServedResource::Custom { crd, version } = resource {
            schemas.insert(component.clone(), custom_schema(crd, version));
        }
        if let Some(schema) = schemas.get_mut(&component) {
            set(schema, GVK, json!([resource.gvk()]));
            // k8s-openapi's structs always have it; clients may leave it out.
            if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
                required.retain(|name| name != "metadata");
            }
        }
        schemas.insert(format!("{component}List"), list_schema(resource, &component));
    }
    schemas
}

fn add_builtin(kind: Builtin, generator: &mut SchemaGenerator) {
    match kind {
        Builtin::Namespace => generator.subschema_for::<Namespace>(),
        Builtin::Node => generator.subschema_for::<Node>(),
        Builtin::Event => generator.subschema_for::<Event>(),
        Builtin::Secret => generator.subschema_for::<Secret>(),
        Builtin::ConfigMap => generator.subschema_for::<ConfigMap>(),
        Builtin::PersistentVolume => generator.subschema_for::<PersistentVolume>(),
        Builtin::PersistentVolumeClaim => generator.subschema_for::<PersistentVolumeClaim>(),
        Builtin::Lease => generator.subschema_for::<Lease>(),
        Builtin::ControllerRevision => generator.subschema_for::<ControllerRevision>(),
        Builtin::CertificateSigningRequest => generator.subschema_for::<CertificateSigningRequest>(),
        Builtin::CustomResourceDefinition => generator.subschema_for::<CustomResourceDefinition>(),
    };
}

/// The schema of a CRD version, with the parts that every object has.
fn custom_schema(crd: &CustomResourceDefinition, version: &str) -> Value {
    let found = crd.spec.versions.iter().find(|v| v.name == version);
    let schema = found.and_then(|v| v.schema.as_ref()).and_then(|s| s.open_api_v3_schema.as_ref());
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    if !schema.is_object() {
        schema = json!({ "type": "object" });
    }
    let Some(map) = schema.as_object_mut() else { return schema };
    let properties = map.entry("properties").or_insert_with(|| json!({}));
    set(properties, "apiVersion", json!({ "type": "string", "description": API_VERSION }));
    set(properties, "kind", json!({ "type": "string", "description": KIND }));
    set(properties, "metadata", described_reference(OBJECT_META, METADATA));
    schema
}

fn list_schema(resource: &ServedResource<'_>, component: &str) -> Value {
    let kind = resource.kind();
    json!({
        "description": format!("{kind}List is a list of {kind}"),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": API_VERSION },
            "kind": { "type": "string", "description": KIND },
            "metadata": described_reference(LIST_META, "Standard list metadata."),
            "items": { "type": "array", "items": reference(component), "description": format!("List of {kind}.") },
        },
        GVK: [{ "group": resource.group(), "version": resource.version(), "kind": format!("{kind}List") }],
    })
}

/// A reference to a component.
pub(super) fn reference(component: &str) -> Value {
    json!({ "$ref": format!("{REF_V3}{component}") })
}

fn described_reference(component: &str, description: &str) -> Value {
    json!({ "allOf": [reference(component)], "description": description, "default": {} })
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

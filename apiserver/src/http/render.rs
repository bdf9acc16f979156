//! Objects and lists in the form that the client wants.

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::accept::Form;
use super::respond;
use crate::object::Object;
use crate::registry::Resource;
use crate::table::{IncludeObject, TableColumns};

/// One object.
pub(crate) fn object(
    resource: &Resource,
    code: StatusCode,
    json: Bytes,
    form: Form,
    include_object: &str,
) -> Response<Body> {
    match (form, Object::parse(&json)) {
        (Form::Table, Ok(object)) if resource.columns.is_some() => {
            let metadata = json!({"resourceVersion": object.resource_version()});
            let table = table(resource, &[object], &metadata, IncludeObject::parse(include_object), true);
            respond::json(code, table.to_string())
        }
        (Form::Metadata, Ok(object)) => respond::json(code, metadata_only(&object).to_string()),
        _ => respond::json(code, resource.outgoing_json(json)),
    }
}

/// A list.
pub(crate) fn list(
    resource: &Resource,
    version: u64,
    items: Vec<Bytes>,
    form: Form,
    include_object: &str,
) -> Response<Body> {
    let metadata = json!({"resourceVersion": version.to_string()});
    let parse = |items: &[Bytes]| items.iter().filter_map(|json| Object::parse(json).ok()).collect::<Vec<_>>();
    match form {
        Form::Table if resource.columns.is_some() || items.is_empty() => {
            let table = table(resource, &parse(&items), &metadata, IncludeObject::parse(include_object), true);
            respond::ok(&table)
        }
        Form::Metadata => respond::ok(&json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": parse(&items).iter().map(metadata_only).collect::<Vec<_>>(),
        })),
        Form::Table | Form::Object => {
            let head = format!(
                r#"{{"kind":"{}","apiVersion":"{}","metadata":{metadata},"items":["#,
                resource.list_kind,
                resource.api_version()
            );
            let length = items.iter().map(|item| item.len() + 1).sum::<usize>();
            let mut body = Vec::with_capacity(head.len() + length + 2);
            body.extend_from_slice(head.as_bytes());
            for (index, item) in items.into_iter().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(&resource.outgoing_json(item));
            }
            body.extend_from_slice(b"]}");
            respond::json(StatusCode::OK, body)
        }
    }
}

/// A table of objects. Headers are left out in all events of a watch but the first.
pub(crate) fn table(
    resource: &Resource,
    objects: &[Object],
    metadata: &Value,
    include: IncludeObject,
    with_headers: bool,
) -> Value {
    let shown: Vec<Value> = match include {
        IncludeObject::Object if resource.is_converted => {
            objects.iter().map(|object| resource.outgoing_value(object)).collect()
        }
        _ => objects.iter().map(|object| object.value().clone()).collect(),
    };
    let now = jiff::Timestamp::now();
    let render = |columns: &TableColumns| columns.render(&shown, metadata, include, with_headers, now);
    resource.columns.as_deref().map_or_else(
        || json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": []}),
        render,
    )
}

/// An object reduced to its metadata.
pub(crate) fn metadata_only(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata()})
}

//! Watch events as text.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::http::accept::Form;
use crate::http::render;
use crate::object::Object;
use crate::registry::Resource;
use crate::status::ApiError;
use crate::store::{LogEntry, LogKind};
use crate::table::IncludeObject;
use crate::verbs::read::Selection;

/// Writes events in the form that the client wants.
pub(super) struct Encoder {
    form: Form,
    include: IncludeObject,
    /// The first table of a watch carries the column headers.
    headers_sent: bool,
}

impl Encoder {
    pub(super) fn new(form: Form, include_object: &str) -> Self {
        Self { form, include: IncludeObject::parse(include_object), headers_sent: false }
    }

    /// Appends an event for a stored object.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, kind: &str, resource: &Resource, json: &Bytes) {
        match (self.form, Object::parse(json)) {
            (Form::Table, Ok(object)) => {
                let metadata = json!({"resourceVersion": object.resource_version()});
                let table = render::table(resource, &[object], &metadata, self.include, !self.headers_sent);
                self.headers_sent = true;
                line(out, kind, table.to_string().as_bytes());
            }
            (Form::Metadata, Ok(object)) => line(out, kind, render::metadata_only(&object).to_string().as_bytes()),
            _ => line(out, kind, &resource.outgoing_json(json.clone())),
        }
    }

    /// Appends a bookmark: everything up to `version` has been sent.
    pub(super) fn bookmark(&mut self, out: &mut Vec<u8>, resource: &Resource, version: u64, is_initial_end: bool) {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if is_initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": [],
            }),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Object => json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata}),
        };
        line(out, "BOOKMARK", object.to_string().as_bytes());
    }
}

/// An event that ends the watch.
pub(super) fn error(error: &ApiError) -> Vec<u8> {
    let mut out = Vec::new();
    line(&mut out, "ERROR", Value::to_string(&error.to_status()).as_bytes());
    out
}

fn line(out: &mut Vec<u8>, kind: &str, object: &[u8]) {
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","object":"#);
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// What a change is to a client that sees only what its selectors pick: an object that begins to match was added, one
/// that no longer matches is deleted, in its last matching state.
pub(super) fn as_seen(selection: &Selection, resource: &Resource, entry: &LogEntry) -> Option<(&'static str, Bytes)> {
    if selection.is_everything() {
        let kind = match entry.kind {
            LogKind::Added => "ADDED",
            LogKind::Modified => "MODIFIED",
            LogKind::Deleted => "DELETED",
        };
        return Some((kind, entry.json.clone()));
    }
    let matches_now = selection.matches_json(resource, &entry.json);
    let matched_before = match (&entry.before, entry.kind) {
        (_, LogKind::Added) => false,
        (Some(before), _) => selection.matches_json(resource, before),
        (None, _) => matches_now,
    };
    match entry.kind {
        // The write that ended it may have taken it out of the selection, too.
        LogKind::Deleted if matched_before && !matches_now => Some(("DELETED", last_match(entry))),
        LogKind::Deleted => matched_before.then(|| ("DELETED", entry.json.clone())),
        _ => match (matched_before, matches_now) {
            (false, true) => Some(("ADDED", entry.json.clone())),
            (true, true) => Some(("MODIFIED", entry.json.clone())),
            (true, false) => Some(("DELETED", last_match(entry))),
            (false, false) => None,
        },
    }
}

/// The state before the change, at the version of the change: how the real server reports that an object left a selection.
fn last_match(entry: &LogEntry) -> Bytes {
    let before = entry.before.as_ref().and_then(|json| Object::parse(json).ok());
    let (Some(mut before), Ok(now)) = (before, Object::parse(&entry.json)) else { return entry.json.clone() };
    before.metadata_mut().insert("resourceVersion".to_owned(), json!(now.resource_version()));
    Bytes::from(before.into_value().to_string())
}

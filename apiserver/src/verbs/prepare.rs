//! What becomes of an object between request and store. Pure: time and randomness are arguments.

use serde_json::{Value, json};

use crate::http::query::FieldValidation;
use crate::object::{Object, timestamp};
use crate::registry::{Behavior, Resource};
use crate::schema;
use crate::signing;
use crate::status::ApiError;

/// Which part of an object a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything that has no path of its own.
    Main,
    /// `status`.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// `status.conditions` of a signing request.
    Approval,
}

impl Part {
    /// The subresource that it is; empty for none.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
        }
    }
}

/// Metadata that the server alone writes.
const SERVER_METADATA: &[&str] = &["selfLink", "managedFields"];

/// Kinds of the core group that are `Pending` until somebody has looked at them, whatever a create says.
const STARTS_PENDING: &[&str] = &["PersistentVolume", "PersistentVolumeClaim"];

/// Takes a request's body for an object of the resource.
pub(crate) fn decode(resource: &Resource, mut body: Value) -> Result<Object, ApiError> {
    let Some(root) = body.as_object_mut() else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    let expected = [("kind", resource.kind.clone()), ("apiVersion", resource.api_version())];
    for (field, expected) in expected {
        match root.get(field).and_then(Value::as_str).unwrap_or_default() {
            "" if resource.behavior == Behavior::Custom => {
                let name = if field == "kind" { "Kind" } else { "apiVersion" };
                return Err(ApiError::bad_request(format!("Object '{name}' is missing in the body")));
            }
            "" => {
                root.insert(field.to_owned(), json!(expected));
            }
            found if found != expected => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({found}) does not match the expected {field} ({expected})"
                )));
            }
            _ => {}
        }
    }
    Object::new(body).ok_or_else(|| ApiError::bad_request("metadata must be a JSON object"))
}

/// Holds name and namespace of the body against those of the path; fills in what the body leaves out.
pub(crate) fn place(
    resource: &Resource,
    namespace: &str,
    name: Option<&str>,
    object: &mut Object,
) -> Result<(), ApiError> {
    if resource.is_namespaced {
        if object.namespace().is_empty() {
            object.metadata_mut().insert("namespace".to_owned(), json!(namespace));
        } else if object.namespace() != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    } else {
        object.metadata_mut().remove("namespace");
    }
    if let Some(name) = name {
        if object.name().is_empty() {
            object.metadata_mut().insert("name".to_owned(), json!(name));
        } else if object.name() != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                object.name()
            )));
        }
    }
    Ok(())
}

/// Prunes, types and defaults the object. Returns the warnings that the client is owed.
pub(crate) fn admit(
    resource: &Resource,
    validation: FieldValidation,
    duplicates: &[String],
    object: Object,
) -> Result<(Object, Vec<String>), ApiError> {
    let name = object.name().to_owned();
    let mut value = object.into_value();
    let unknown = match resource.schema.admit(&mut value) {
        Ok(unknown) => unknown,
        Err(crate::registry::AdmitError::Decode(message)) => return Err(ApiError::bad_request(message)),
        Err(crate::registry::AdmitError::Cause(cause)) => {
            return Err(ApiError::invalid(&resource.group, &resource.kind, &name, vec![cause]));
        }
    };
    let object = Object::new(value).ok_or_else(|| ApiError::bad_request("metadata must be a JSON object"))?;
    if unknown.is_empty() && duplicates.is_empty() {
        return Ok((object, Vec::new()));
    }
    match validation {
        FieldValidation::Ignore => Ok((object, Vec::new())),
        FieldValidation::Warn => Ok((object, schema::field_warnings(&unknown, duplicates))),
        FieldValidation::Strict => Err(ApiError::bad_request(schema::strict_decoding_message(&unknown, duplicates))),
    }
}

/// Gives a new object what the server alone decides.
pub(crate) fn for_create(
    resource: &Resource,
    object: &mut Object,
    now: jiff::Timestamp,
    uid: &uuid::Uuid,
) -> Result<(), ApiError> {
    if !object.resource_version().is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let metadata = object.metadata_mut();
    for field in SERVER_METADATA.iter().chain(&["deletionTimestamp", "deletionGracePeriodSeconds", "generation"]) {
        metadata.remove(*field);
    }
    metadata.insert("uid".to_owned(), json!(uid.to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(timestamp(now)));
    if matches!(resource.behavior, Behavior::Custom | Behavior::Definition) {
        metadata.insert("generation".to_owned(), json!(1));
    }
    match resource.behavior {
        Behavior::Custom if resource.has_status => {
            object.root_mut().remove("status");
        }
        Behavior::Namespace => {
            object.root_mut().insert("status".to_owned(), json!({"phase": "Active"}));
        }
        // A copy of a bound claim is not bound: by its status it would have the other claim's disk.
        _ if resource.group.is_empty() && STARTS_PENDING.contains(&resource.kind.as_str()) => {
            object.root_mut().insert("status".to_owned(), json!({"phase": "Pending"}));
        }
        _ => {}
    }
    Ok(())
}

/// Makes of what a request wants what is to be stored in place of `old`.
pub(crate) fn for_update(
    resource: &Resource,
    part: Part,
    old: &Object,
    mut wanted: Object,
) -> Result<Object, ApiError> {
    check_preconditions(resource, old, &wanted)?;
    keep_server_metadata(resource, old, &mut wanted);
    let mut new = match part {
        Part::Main => wanted,
        // A custom resource's status path writes nothing else; built-in kinds let metadata pass as well.
        Part::Status if resource.behavior == Behavior::Custom => take(&["status"], old, &wanted),
        Part::Status => take(&["status", "metadata"], old, &wanted),
        Part::Approval => signing::with_approval(old, &wanted),
        Part::Finalize => {
            let mut new = old.clone();
            let finalizers = wanted.value().pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            new.root_mut().entry("spec").or_insert_with(|| json!({}))["finalizers"] = finalizers;
            new
        }
    };
    if part == Part::Main {
        if resource.has_status {
            keep(&mut new, old, "status");
        }
        if matches!(resource.behavior, Behavior::Namespace | Behavior::SigningRequest) {
            keep(&mut new, old, "spec");
        }
    }
    let counts = matches!(resource.behavior, Behavior::Custom | Behavior::Definition);
    if counts && is_spec_changed(resource, old, &new) {
        new.metadata_mut().insert("generation".to_owned(), json!(old.generation() + 1));
    }
    Ok(new)
}

/// UID and resource version of the body, where it has them, must be the stored ones.
fn check_preconditions(resource: &Resource, old: &Object, wanted: &Object) -> Result<(), ApiError> {
    let (group, plural, name) = (&resource.group, &resource.plural, old.name());
    if !wanted.uid().is_empty() && wanted.uid() != old.uid() {
        return Err(uid_conflict(resource, name, wanted.uid(), old.uid()));
    }
    let version = wanted.resource_version();
    if !version.is_empty() && version != "0" && version != old.resource_version() {
        return Err(ApiError::modified(group, plural, name));
    }
    Ok(())
}

/// The object is another one than the client thinks.
pub(crate) fn uid_conflict(resource: &Resource, name: &str, asked: &str, found: &str) -> ApiError {
    let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
    ApiError::conflict(&resource.group, &resource.plural, name, &why)
}

fn keep_server_metadata(resource: &Resource, old: &Object, wanted: &mut Object) {
    let is_unset = |object: &Object, field: &str| object.metadata().get(field).is_none_or(Value::is_null);
    let metadata = old.metadata();
    for field in ["uid", "creationTimestamp"] {
        if is_unset(wanted, field)
            && let Some(value) = metadata.get(field)
        {
            wanted.metadata_mut().insert(field.to_owned(), value.clone());
        }
    }
    // Custom resources must say what they replace; built-in kinds may leave it out.
    let may_be_unconditional = !matches!(resource.behavior, Behavior::Custom);
    if may_be_unconditional && matches!(wanted.resource_version(), "" | "0") {
        wanted.metadata_mut().insert("resourceVersion".to_owned(), json!(old.resource_version()));
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        match metadata.get(field) {
            Some(value) => wanted.metadata_mut().insert(field.to_owned(), value.clone()),
            None => wanted.metadata_mut().remove(field),
        };
    }
    for field in SERVER_METADATA {
        wanted.metadata_mut().remove(*field);
    }
    // An empty list and none are the same, and none is what the store has.
    for field in ["finalizers", "ownerReferences"] {
        if wanted.metadata().get(field).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            wanted.metadata_mut().remove(field);
        }
    }
}

/// `old`, with some top-level fields of `wanted`.
fn take(fields: &[&str], old: &Object, wanted: &Object) -> Object {
    let mut new = old.clone();
    for field in fields {
        keep(&mut new, wanted, field);
    }
    // The precondition has been checked, and validation looks at the version.
    new
}

/// Replaces a top-level field by what `from` has.
fn keep(object: &mut Object, from: &Object, field: &str) {
    match from.value().get(field) {
        Some(value) => object.root_mut().insert(field.to_owned(), value.clone()),
        None => object.root_mut().remove(field),
    };
}

/// Whether anything changed that counts as a new generation.
fn is_spec_changed(resource: &Resource, old: &Object, new: &Object) -> bool {
    let counts = |field: &str| field != "metadata" && !(resource.has_status && field == "status");
    let of = |object: &Object| {
        let fields = object.value().as_object().into_iter().flatten();
        fields
            .filter(|(field, _)| counts(field))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    of(old) != of(new)
}

/// Whether nothing holds an object that is being deleted.
pub(crate) fn is_released(object: &Object) -> bool {
    let held_by_spec = object.api_version() == "v1"
        && object.kind() == "Namespace"
        && object.value().pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    object.is_deleting() && object.finalizers().is_empty() && !held_by_spec
}

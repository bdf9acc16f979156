//! `v1` PersistentVolume and PersistentVolumeClaim: defaults, and the rules that a binder and its users rely on.

use serde_json::{Value, json};

use super::builtin::set_default;
use super::cause::quote;
use crate::admission::Cause;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
/// Fields of a claim that never change. `volumeName` is set once; the request may be raised.
const FIXED_IN_CLAIM: [&str; 4] = ["accessModes", "selector", "storageClassName", "volumeMode"];
/// Where a volume may be. What it is on never changes.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

pub(super) fn default_volume(object: &mut Value) {
    set_default(object, "spec", || json!({}));
    if let Some(spec) = object.get_mut("spec") {
        set_default(spec, "volumeMode", || json!("Filesystem"));
        set_default(spec, "persistentVolumeReclaimPolicy", || json!("Retain"));
    }
    set_default(object, "status", || json!({}));
    if let Some(status) = object.get_mut("status") {
        set_default(status, "phase", || json!("Pending"));
    }
}

pub(super) fn default_claim(object: &mut Value) {
    set_default(object, "spec", || json!({}));
    if let Some(spec) = object.get_mut("spec") {
        set_default(spec, "volumeMode", || json!("Filesystem"));
    }
    set_default(object, "status", || json!({}));
    if let Some(status) = object.get_mut("status") {
        set_default(status, "phase", || json!("Pending"));
    }
}

pub(super) fn validate_volume(object: &Value, causes: &mut Vec<Cause>) {
    validate_modes(object, causes);
    if is_unset(object, "/spec/capacity/storage") {
        causes.push(Cause::required("spec.capacity", ""));
    } else {
        validate_size(object, "spec.capacity.storage", causes);
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let sources: Vec<_> = SOURCES.into_iter().filter(|source| spec.get(source).is_some_and(|s| !s.is_null())).collect();
    match sources[..] {
        [] => causes.push(Cause::required("spec", "must specify a volume type")),
        [_] => {}
        [_, second, ..] => {
            causes.push(Cause::forbidden(format!("spec.{second}"), "may not specify more than 1 volume type"));
        }
    }
    for source in ["hostPath", "local"] {
        let Some(path) = spec.pointer(&format!("/{source}/path")) else { continue };
        let field = format!("spec.{source}.path");
        match path.as_str().unwrap_or_default() {
            "" => causes.push(Cause::required(field, "")),
            text if text.split('/').any(|part| part == "..") => {
                causes.push(Cause::invalid(field, path, "must not contain '..'"));
            }
            _ => {}
        }
    }
    if spec.get("local").is_some() && is_unset(object, "/spec/nodeAffinity/required") {
        causes.push(Cause::required("spec.nodeAffinity", "Local volume requires node affinity"));
    }
    let policy = spec.get("persistentVolumeReclaimPolicy").unwrap_or(&Value::Null);
    if !RECLAIM_POLICIES.contains(&policy.as_str().unwrap_or_default()) {
        causes.push(Cause::not_supported("spec.persistentVolumeReclaimPolicy", policy, RECLAIM_POLICIES));
    }
}

pub(super) fn validate_claim(object: &Value, causes: &mut Vec<Cause>) {
    validate_modes(object, causes);
    if is_unset(object, "/spec/resources/requests/storage") {
        causes.push(Cause::required("spec.resources[storage]", ""));
    } else {
        validate_size(object, "spec.resources.requests.storage", causes);
    }
}

pub(super) fn validate_volume_update(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let source = |object: &Value| SOURCES.map(|source| object.pointer(&format!("/spec/{source}")).cloned());
    if source(object) != source(old) {
        causes.push(Cause::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    let mode = "/spec/volumeMode";
    if object.pointer(mode) != old.pointer(mode) {
        let value = object.pointer(mode).unwrap_or(&Value::Null);
        causes.push(Cause::invalid("spec.volumeMode", value, "field is immutable"));
    }
}

pub(super) fn validate_claim_update(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let at = |object: &Value, field: &str| object.pointer(&format!("/spec/{field}")).cloned();
    let is_given = |object: &Value| {
        at(object, "volumeName").is_some_and(|name| name.as_str().is_some_and(|name| !name.is_empty()))
    };
    let is_moved = is_given(old) && at(object, "volumeName") != at(old, "volumeName");
    if is_moved || FIXED_IN_CLAIM.iter().any(|field| at(object, field) != at(old, field)) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        causes.push(Cause::forbidden("spec", detail));
    }
}

fn validate_modes(object: &Value, causes: &mut Vec<Cause>) {
    let modes = object.pointer("/spec/accessModes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if modes.is_empty() {
        causes.push(Cause::required("spec.accessModes", "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&mode.as_str().unwrap_or_default())) {
        causes.push(Cause::not_supported("spec.accessModes", mode, ACCESS_MODES));
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        causes.push(Cause::forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes"));
    }
    let mode = object.pointer("/spec/volumeMode").unwrap_or(&Value::Null);
    if !VOLUME_MODES.contains(&mode.as_str().unwrap_or_default()) {
        causes.push(Cause::not_supported("spec.volumeMode", mode, VOLUME_MODES));
    }
}

/// A size begins with a digit that is not all zeros; who uses it reads the rest.
fn validate_size(object: &Value, field: &str, causes: &mut Vec<Cause>) {
    let value = object.pointer(&format!("/{}", field.replace('.', "/"))).unwrap_or(&Value::Null);
    let text = value.as_str().unwrap_or_default();
    let number: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    if !number.parse::<f64>().is_ok_and(|number| number > 0.0) {
        causes.push(Cause::invalid(field, value, format!("{} is no size greater than zero", quote(text))));
    }
}

fn is_unset(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).is_none_or(Value::is_null)
}

//! The built-in kinds this server stores: typed by `k8s_openapi`, defaulted and lightly validated.
//!
//! A typed round trip finds type errors and unknown fields at once, and needs no schema in memory. What a real server
//! checks beyond the shape is checked here where a client of ours could trip over it.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::metadata::{NameRule, validate_metadata, validate_metadata_update};
use super::storage;
use super::unknown::{TypeError, round_trip, unknown_fields};
use crate::admission::Cause;

/// All of the data of a Secret or ConfigMap, in bytes.
const DATA_LIMIT: usize = 1024 * 1024;

/// A built-in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Builtin {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Event.
    Event,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` PersistentVolume.
    PersistentVolume,
    /// `v1` PersistentVolumeClaim.
    PersistentVolumeClaim,
    /// `coordination.k8s.io/v1` Lease.
    Lease,
    /// `apps/v1` ControllerRevision.
    ControllerRevision,
    /// `certificates.k8s.io/v1` CertificateSigningRequest.
    CertificateSigningRequest,
    /// `apiextensions.k8s.io/v1` CustomResourceDefinition.
    CustomResourceDefinition,
}

/// An object that is not of the shape of its kind: 400 BadRequest.
#[derive(Debug, thiserror::Error)]
#[error("{kind} in version \"{version}\" cannot be handled as a {kind}: {cause}")]
pub struct DecodeError {
    kind: &'static str,
    version: &'static str,
    /// Not a `source`: the real server's text, which clients see, has it in one line.
    cause: TypeError,
}

impl Builtin {
    /// Every built-in kind.
    pub const ALL: [Self; 11] = [
        Self::Namespace,
        Self::Node,
        Self::Event,
        Self::Secret,
        Self::ConfigMap,
        Self::PersistentVolume,
        Self::PersistentVolumeClaim,
        Self::Lease,
        Self::ControllerRevision,
        Self::CertificateSigningRequest,
        Self::CustomResourceDefinition,
    ];

    /// The built-in kind `kind` of `group` (empty for core), if it is one.
    pub fn find(group: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|b| b.group() == group && b.kind() == kind)
    }

    /// API group; empty for core.
    pub fn group(self) -> &'static str {
        match self {
            Self::Lease => "coordination.k8s.io",
            Self::ControllerRevision => "apps",
            Self::CertificateSigningRequest => "certificates.k8s.io",
            Self::CustomResourceDefinition => "apiextensions.k8s.io",
            _ => "",
        }
    }

    /// API version, the same for all.
    pub fn version(self) -> &'static str {
        "v1"
    }

    /// Kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Event => "Event",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::PersistentVolume => "PersistentVolume",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Lease => "Lease",
            Self::ControllerRevision => "ControllerRevision",
            Self::CertificateSigningRequest => "CertificateSigningRequest",
            Self::CustomResourceDefinition => "CustomResourceDefinition",
        }
    }

    /// Plural, as in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Event => "events",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::PersistentVolume => "persistentvolumes",
            Self::PersistentVolumeClaim => "persistentvolumeclaims",
            Self::Lease => "leases",
            Self::ControllerRevision => "controllerrevisions",
            Self::CertificateSigningRequest => "certificatesigningrequests",
            Self::CustomResourceDefinition => "customresourcedefinitions",
        }
    }

    /// Whether there is a `status` subresource.
    pub fn has_status(self) -> bool {
        match self {
            Self::Namespace
            | Self::Node
            | Self::PersistentVolume
            | Self::PersistentVolumeClaim
            | Self::CertificateSigningRequest
            | Self::CustomResourceDefinition => true,
            Self::Event | Self::Secret | Self::ConfigMap | Self::Lease | Self::ControllerRevision => false,
        }
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Self::Namespace
                | Self::Node
                | Self::PersistentVolume
                | Self::CertificateSigningRequest
                | Self::CustomResourceDefinition
        )
    }

    /// Brings `object` into the stored form: typed, unknown fields removed, the real server's defaults filled in.
    /// Returns the paths of the removed fields, for `fieldValidation`.
    ///
    /// # Errors
    /// If a field has the wrong type.
    pub fn admit(self, object: &mut Value) -> Result<Vec<String>, DecodeError> {
        let unknown = match self {
            Self::Namespace => self.round_trip::<Namespace>(object),
            Self::Node => self.round_trip::<Node>(object),
            Self::Event => self.round_trip::<Event>(object),
            Self::Secret => self.round_trip::<Secret>(object),
            Self::ConfigMap => self.round_trip::<ConfigMap>(object),
            Self::PersistentVolume => self.round_trip::<PersistentVolume>(object),
            Self::PersistentVolumeClaim => self.round_trip::<PersistentVolumeClaim>(object),
            Self::Lease => self.round_trip::<Lease>(object),
            Self::ControllerRevision => self.round_trip::<ControllerRevision>(object),
            Self::CertificateSigningRequest => self.round_trip::<CertificateSigningRequest>(object),
            Self::CustomResourceDefinition => self.round_trip::<CustomResourceDefinition>(object),
        }?;
        self.apply_defaults(object);
        Ok(unknown)
    }

    /// Causes against creating `object`.
    pub fn validate_create(self, object: &Value) -> Vec<Cause> {
        let rule = if self == Self::Namespace { NameRule::DnsLabel } else { NameRule::DnsSubdomain };
        let mut causes = validate_metadata(object, rule, self.is_namespaced());
        self.validate_body(object, &mut causes);
        causes
    }

    /// Causes against replacing `old` by `object`.
    pub fn validate_update(self, object: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = validate_metadata_update(object, old);
        self.validate_body(object, &mut causes);
        match self {
            Self::Secret | Self::ConfigMap => {
                if self == Self::Secret && object.get("type") != old.get("type") {
                    let value = object.get("type").unwrap_or(&Value::Null);
                    causes.push(Cause::invalid("type", value, "field is immutable"));
                }
                if old.get("immutable") == Some(&Value::Bool(true)) {
                    for field in ["data", "binaryData"].into_iter().filter(|f| object.get(f) != old.get(f)) {
                        causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
                    }
                }
            }
            Self::PersistentVolume => storage::validate_volume_update(object, old, &mut causes),
            Self::PersistentVolumeClaim => storage::validate_claim_update(object, old, &mut causes),
            Self::ControllerRevision if object.get("data") != old.get("data") => {
                let value = object.get("data").unwrap_or(&Value::Null);
                causes.push(Cause::invalid("data", value, "field is immutable"));
            }
            _ => {}
        }
        causes
    }

    fn round_trip<T: DeserializeOwned + Serialize>(self, object: &mut Value) -> Result<Vec<String>, DecodeError> {
        let error = |cause| DecodeError { kind: self.kind(), version: self.version(), cause };
        let kept = round_trip::<T>(object).map_err(error)?;
        let mut unknown = Vec::new();
        unknown_fields(object, &kept, "", &mut unknown);
        unknown.sort();
        *object = kept;
        Ok(unknown)
    }

    fn apply_defaults(self, object: &mut Value) {
        match self {
            Self::Secret => {
                fold_string_data(object);
                set_default(object, "type", || json!("Opaque"));
            }
            Self::Namespace => {
                let name = object.pointer("/metadata/name").cloned();
                if let (Some(name), Some(metadata)) = (name, object.get_mut("metadata").and_then(Value::as_object_mut))
                {
                    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
                    set_default(labels, "kubernetes.io/metadata.name", || name);
                }
                set_default(object, "spec", || json!({}));
                if let Some(spec) = object.get_mut("spec") {
                    set_default(spec, "finalizers", || json!(["kubernetes"]));
                }
                set_default(object, "status", || json!({"phase": "Active"}));
            }
            Self::PersistentVolume => storage::default_volume(object),
            Self::PersistentVolumeClaim => storage::default_claim(object),
            Self::CustomResourceDefinition => default_crd_names(object),
            _ => {}
        }
    }

    fn validate_body(self, object: &Value, causes: &mut Vec<Cause>) {
        match self {
            Self::Secret | Self::ConfigMap => validate_data(object, causes),
            Self::Event => {
                let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
                let involved = object.pointer("/involvedObject/namespace").and_then(Value::as_str).unwrap_or_default();
                let is_match = involved == namespace || (involved.is_empty() && namespace == "default");
                if !is_match {
                    let value = Value::from(involved);
                    causes.push(Cause::invalid("involvedObject.namespace", &value, "does not match event.namespace"));
                }
            }
            Self::Lease => {
                for field in ["leaseDurationSeconds", "leaseTransitions"] {
                    let Some(value) = object.pointer(&format!("/spec/{field}")) else { continue };
                    let (is_good, detail) = match field {
                        "leaseDurationSeconds" => (value.as_i64() > Some(0), "must be greater than 0"),
                        _ => (value.as_i64() >= Some(0), "must be greater than or equal to 0"),
                    };
                    if !is_good {
                        causes.push(Cause::invalid(format!("spec.{field}"), value, detail));
                    }
                }
            }
            Self::Node => validate_taints(object, causes),
            Self::PersistentVolume => storage::validate_volume(object, causes),
            Self::PersistentVolumeClaim => storage::validate_claim(object, causes),
            Self::CertificateSigningRequest => causes.extend(crate::signing::causes(object)),
            Self::Namespace | Self::ControllerRevision | Self::CustomResourceDefinition => {}
        }
    }
}

pub(super) fn set_default(object: &mut Value, key: &str, value: impl FnOnce() -> Value) {
    if let Some(map) = object.as_object_mut() {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value();
        }
    }
}

/// `stringData` is write-only: it becomes `data`, over what is there.
fn fold_string_data(object: &mut Value) {
    use base64::Engine as _;
    let Some(map) = object.as_object_mut() else { return };
    let Some(Value::Object(plain)) = map.remove("stringData") else { return };
    let data = map.entry("data").or_insert_with(|| json!({}));
    for (key, value) in plain {
        if let (Some(data), Some(text)) = (data.as_object_mut(), value.as_str()) {
            data.insert(key, Value::from(base64::engine::general_purpose::STANDARD.encode(text)));
        }
    }
}

fn default_crd_names(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else { return };
    if spec.get("conversion").is_none() {
        set_default(spec, "conversion", || json!({"strategy": "None"}));
    }
    let Some(names) = spec.get_mut("names") else { return };
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    set_default(names, "singular", || Value::from(kind.to_lowercase()));
    set_default(names, "listKind", || Value::from(format!("{kind}List")));
}

fn validate_data(object: &Value, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in object.get(field).and_then(Value::as_object).unwrap_or(&Map::new()) {
            size += value.as_str().map_or(0, str::len);
            let is_good = !key.is_empty()
                && key.len() <= 253
                && ![".", ".."].contains(&key.as_str())
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !is_good {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
                              'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
                              '[-._a-zA-Z0-9]+')";
                causes.push(Cause::invalid(format!("{field}[{key}]"), &Value::from(key.as_str()), detail));
            }
        }
    }
    if size > DATA_LIMIT {
        causes.push(Cause::too_long("data", 1024 * 1024));
    }
}

fn validate_taints(object: &Value, causes: &mut Vec<Cause>) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let taints = object.pointer("/spec/taints").and_then(Value::as_array);
    let mut seen: Vec<(&Value, &str)> = Vec::new();
    for (index, taint) in taints.into_iter().flatten().enumerate() {
        let field = format!("spec.taints[{index}]");
        let key = taint.get("key").unwrap_or(&Value::Null);
        for error in super::label_key_errors(key.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(format!("{field}.key"), key, &error));
        }
        let effect = taint.get("effect").and_then(Value::as_str).unwrap_or_default();
        if effect.is_empty() {
            causes.push(Cause::required(format!("{field}.effect"), ""));
        } else if !EFFECTS.contains(&effect) {
            causes.push(Cause::not_supported(format!("{field}.effect"), &Value::from(effect), EFFECTS));
        }
        if seen.contains(&(key, effect)) {
            causes.push(Cause::duplicate(field, taint));
        }
        seen.push((key, effect));
    }
}

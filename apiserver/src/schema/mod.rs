//! Structural schemas: what a custom resource may contain, compiled once for each served version of a CRD.
//!
//! The order of a real server, which callers keep: [`ResourceSchema::admit`] (metadata typed, unknown fields pruned,
//! nulls and defaults settled), then [`ResourceSchema::validate_create`] or [`ResourceSchema::validate_update`].
//! Built-in kinds go through [`builtin`] instead. Nothing here reads a clock, a file or the store.

pub mod builtin;
mod cause;
mod cel;
mod defaulting;
mod duplicates;
mod formats;
mod list_type;
mod metadata;
mod names;
mod path;
mod prune;
mod storage;
mod structural;
mod unknown;
mod validate;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use crate::admission::Cause;

pub use duplicates::duplicate_fields;
pub use metadata::{NameRule, finalizer_warnings, validate_metadata, validate_metadata_update};
pub use names::{dns_label_errors, dns_subdomain_errors, label_key_errors, label_value_errors};

use self::cel::Rules;
use self::path::Path;
use self::structural::Node;

/// Message of the cause that stands for rules not run, as the real server words it.
const RULES_NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the \
                                 existing errors to complete validation";

/// Why a CRD version cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The CRD has no version of that name.
    #[error("find version {version} of {crd}")]
    NoVersion {
        /// Name of the CRD.
        crd: String,
        /// Version asked for.
        version: String,
    },
    /// The version has no `openAPIV3Schema`, which `apiextensions.k8s.io/v1` requires.
    #[error("find a schema in version {version} of {crd}")]
    NoSchema {
        /// Name of the CRD.
        crd: String,
        /// Version asked for.
        version: String,
    },
    /// A construct that structural schemas forbid.
    #[error("compile schema at {path}: {what}")]
    NotStructural {
        /// Where in the schema.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A `type` that JSON schema does not have.
    #[error("compile schema at {path}: unknown type {name}")]
    UnknownType {
        /// Where in the schema.
        path: String,
        /// The type.
        name: String,
    },
    /// A `pattern` that is no regular expression.
    #[error("compile pattern at {path}")]
    Pattern {
        /// Where in the schema.
        path: String,
        /// Why it does not compile.
        #[source]
        source: Box<regex::Error>,
    },
    /// The schema nests too deeply to be walked safely.
    #[error("compile schema at {path}: nested too deeply")]
    TooDeep {
        /// Where in the schema.
        path: String,
    },
    /// An `x-kubernetes-validations` rule that does not compile.
    #[error("compile validation rule: {message}")]
    Rule {
        /// The compiler's message.
        message: String,
    },
}

/// One version of a CRD, ready to prune, default and validate its objects. A few kilobytes; share it behind an `Arc`.
#[derive(Debug)]
pub struct ResourceSchema {
    group: String,
    version: String,
    kind: String,
    is_namespaced: bool,
    root: Node,
    rules: Option<Rules>,
}

impl ResourceSchema {
    /// Compiles version `version` of `crd`.
    ///
    /// # Errors
    /// If the CRD has no such version, or its schema or one of its rules cannot be compiled.
    pub fn compile(crd: &CustomResourceDefinition, version: &str) -> Result<Self, SchemaError> {
        let name = || crd.metadata.name.clone().unwrap_or_default();
        let found = crd
            .spec
            .versions
            .iter()
            .find(|v| v.name == version)
            .ok_or_else(|| SchemaError::NoVersion { crd: name(), version: version.to_owned() })?;
        let schema = found
            .schema
            .as_ref()
            .and_then(|s| s.open_api_v3_schema.as_ref())
            .ok_or_else(|| SchemaError::NoSchema { crd: name(), version: version.to_owned() })?;
        Ok(Self {
            group: crd.spec.group.clone(),
            version: version.to_owned(),
            kind: crd.spec.names.kind.clone(),
            is_namespaced: crd.spec.scope == "Namespaced",
            root: Node::compile(schema, "openAPIV3Schema")?,
            rules: Rules::compile(schema)?,
        })
    }

    /// Brings a decoded object into the stored form: metadata typed, unknown fields removed, nulls and defaults settled.
    /// Returns the paths of the removed fields, for `fieldValidation`. Idempotent.
    ///
    /// # Errors
    /// The cause, if `metadata` cannot be read as ObjectMeta.
    pub fn admit(&self, object: &mut Value) -> Result<Vec<String>, Cause> {
        let mut unknown = metadata::coerce_metadata(object)?;
        unknown.extend(prune::prune(object, &self.root));
        self.apply_defaults(object);
        Ok(unknown)
    }

    /// Fills in defaults only, as a real server does when it reads an object that an older schema stored.
    pub fn apply_defaults(&self, object: &mut Value) {
        defaulting::apply_defaults(object, &self.root);
    }

    /// Causes against creating `object`; empty if it is valid.
    pub fn validate_create(&self, object: &Value) -> Vec<Cause> {
        let mut causes = self.validate_type_meta(object);
        if !causes.is_empty() {
            return causes;
        }
        causes.extend(validate_metadata(object, NameRule::DnsSubdomain, self.is_namespaced));
        validate::validate(object, None, &self.root, &mut Path::root(), &mut causes);
        list_type::validate_list_types(object, &self.root, &mut Path::root(), &mut causes);
        self.validate_rules(object, None, &mut causes);
        causes
    }

    /// Causes against replacing `old` by `object`; empty if it is valid. What `old` already had wrong and `object` leaves
    /// as it was is not reported (validation ratcheting, on by default since Kubernetes 1.30).
    pub fn validate_update(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = self.validate_type_meta(object);
        if !causes.is_empty() {
            return causes;
        }
        causes.extend(validate_metadata_update(object, old));
        self.validate_body_update(object, old, &mut causes);
        causes
    }

    /// As [`Self::validate_update`] for the `status` subresource: only `status` is held against the schema.
    pub fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = self.validate_type_meta(object);
        if !causes.is_empty() {
            return causes;
        }
        causes.extend(validate_metadata_update(object, old));
        if let (Some(status), Some(node)) = (object.get("status"), self.root.property("status")) {
            validate::validate(status, old.get("status"), node, &mut Path::at("status"), &mut causes);
            list_type::validate_list_types(status, node, &mut Path::at("status"), &mut causes);
        }
        self.validate_rules(object, Some(old), &mut causes);
        causes
    }

    fn validate_body_update(&self, object: &Value, old: &Value, causes: &mut Vec<Cause>) {
        validate::validate(object, Some(old), &self.root, &mut Path::root(), causes);
        let mut old_causes = Vec::new();
        list_type::validate_list_types(old, &self.root, &mut Path::root(), &mut old_causes);
        if old_causes.is_empty() {
            list_type::validate_list_types(object, &self.root, &mut Path::root(), causes);
        }
        self.validate_rules(object, Some(old), causes);
    }

    fn validate_rules(&self, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        let Some(rules) = &self.rules else { return };
        let is_blocking = |c: &Cause| {
            [cause::NOT_SUPPORTED, cause::REQUIRED, cause::TOO_LONG, cause::TOO_MANY, cause::TYPE_INVALID]
                .contains(&c.reason.as_str())
        };
        if causes.iter().any(is_blocking) {
            causes.push(Cause::invalid("<nil>", &Value::Null, RULES_NOT_CHECKED));
        } else {
            causes.extend(rules.validate(object, old));
        }
    }

    fn validate_type_meta(&self, object: &Value) -> Vec<Cause> {
        let api_version = format!("{}/{}", self.group, self.version);
        let expected = [("kind", &self.kind), ("apiVersion", &api_version)];
        let mut causes = Vec::new();
        for (field, want) in expected {
            let got = object.get(field).and_then(Value::as_str).unwrap_or_default();
            if got != want {
                causes.push(Cause::invalid(field, &Value::from(got), format!("must be {want}")));
            }
        }
        causes
    }
}

/// The 400 message for `fieldValidation=Strict`: `strict decoding error: unknown field "spec.foo", ...`.
pub fn strict_decoding_message(unknown: &[String], duplicate: &[String]) -> String {
    format!("strict decoding error: {}", field_warnings(unknown, duplicate).join(", "))
}

/// One text a field, for the `Warning` headers of `fieldValidation=Warn` (warn code 299).
pub fn field_warnings(unknown: &[String], duplicate: &[String]) -> Vec<String> {
    let duplicate = duplicate.iter().map(|path| format!("duplicate field \"{path}\""));
    duplicate.chain(unknown.iter().map(|path| format!("unknown field \"{path}\""))).collect()
}

#[cfg(test)]
mod tests;

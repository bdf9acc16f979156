//! `metadata` of every object: typed as ObjectMeta, pruned to it, and checked by the rules that hold for all kinds.
//!
//! Follows `ValidateObjectMetaAccessor` and `ValidateObjectMetaAccessorUpdate` of
//! <https://pkg.go.dev/k8s.io/apimachinery/pkg/api/validation>.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use super::names::{dns_label_errors, dns_subdomain_errors, label_key_errors, label_value_errors};
use super::unknown::{round_trip, unknown_fields};
use crate::admission::Cause;

/// Keys and values of all annotations together, in bytes.
const ANNOTATIONS_LIMIT: i64 = 256 * 1024;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Which rule `metadata.name` obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 label: namespaces.
    DnsLabel,
    /// RFC 1123 subdomain: custom resources and most built-in kinds.
    DnsSubdomain,
}

/// Brings `object.metadata` into ObjectMeta's shape: unknown fields go, their paths are returned.
///
/// # Errors
/// The cause, if a field has a type that ObjectMeta does not have.
pub(crate) fn coerce_metadata(object: &mut Value) -> Result<Vec<String>, Cause> {
    let Some(metadata) = object.get_mut("metadata") else { return Ok(Vec::new()) };
    if metadata.is_null() {
        return Ok(Vec::new());
    }
    let coerced = round_trip::<ObjectMeta>(metadata)
        .map_err(|source| Cause::invalid("metadata", metadata, source.to_string()))?;
    let mut unknown = Vec::new();
    unknown_fields(metadata, &coerced, "metadata", &mut unknown);
    *metadata = coerced;
    Ok(unknown)
}

/// Causes in `metadata` of an object that is created. The name must have been generated before.
pub fn validate_metadata(object: &Value, rule: NameRule, is_namespaced: bool) -> Vec<Cause> {
    let metadata = metadata_of(object);
    let mut causes = Vec::new();
    let name = text(metadata, "name");
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else {
        invalid_each("metadata.name", name, &name_errors(rule, name), &mut causes);
    }
    let namespace = text(metadata, "namespace");
    match (is_namespaced, namespace.is_empty()) {
        (true, true) => causes.push(Cause::required("metadata.namespace", "")),
        (true, false) => invalid_each("metadata.namespace", namespace, &dns_label_errors(namespace), &mut causes),
        (false, true) => {}
        (false, false) => causes.push(Cause::forbidden("metadata.namespace", "not allowed on this type")),
    }
    validate_collections(metadata, &mut causes);
    validate_finalizers(metadata, &mut causes);
    causes
}

/// Causes in `metadata` of an object that replaces `old`.
pub fn validate_metadata_update(object: &Value, old: &Value) -> Vec<Cause> {
    let (metadata, old) = (metadata_of(object), metadata_of(old));
    let mut causes = Vec::new();
    if old.contains_key("deletionTimestamp") {
        let known = strings(old, "finalizers");
        let new: Vec<String> =
            strings(metadata, "finalizers").iter().filter(|f| !known.contains(f)).map(|f| format!("{f:?}")).collect();
        if !new.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                new.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
    if text(metadata, "resourceVersion").is_empty() {
        let empty = Value::String(String::new());
        causes.push(Cause::invalid("metadata.resourceVersion", &empty, "must be specified for an update"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (metadata.get(field), old.get(field));
        if new.filter(|v| !v.is_null()) != old.filter(|v| !v.is_null()) {
            let value = new.unwrap_or(&Value::Null);
            causes.push(Cause::invalid(format!("metadata.{field}"), value, "field is immutable"));
        }
    }
    validate_collections(metadata, &mut causes);
    causes
}

/// Warnings of the real server about finalizers without a domain that `object` has and `old` has not.
pub fn finalizer_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.map(|o| strings(metadata_of(o), "finalizers")).unwrap_or_default();
    strings(metadata_of(object), "finalizers")
        .into_iter()
        .filter(|f| !known.contains(f) && !f.contains('/') && ![ORPHAN, FOREGROUND, "kubernetes"].contains(f))
        .map(|f| {
            let path = if f.contains('.') { " including a path (/)" } else { "" };
            format!(
                "metadata.finalizers: \"{f}\": prefer a domain-qualified finalizer name{path} to avoid accidental \
                 conflicts with other finalizer writers"
            )
        })
        .collect()
}

fn validate_collections(metadata: &Map<String, Value>, causes: &mut Vec<Cause>) {
    for (key, value) in entries(metadata, "labels") {
        invalid_each("metadata.labels", key, &label_key_errors(key), causes);
        invalid_each("metadata.labels", value, &label_value_errors(value), causes);
    }
    let mut size = 0;
    for (key, value) in entries(metadata, "annotations") {
        invalid_each("metadata.annotations", key, &label_key_errors(&key.to_lowercase()), causes);
        size += key.len() + value.len();
    }
    if i64::try_from(size).unwrap_or(i64::MAX) > ANNOTATIONS_LIMIT {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_LIMIT));
    }
    validate_owners(metadata, causes);
}

fn validate_owners(metadata: &Map<String, Value>, causes: &mut Vec<Cause>) {
    const FIELD: &str = "metadata.ownerReferences";
    let owners = metadata.get("ownerReferences").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut controller: Option<String> = None;
    for owner in owners.iter().filter_map(Value::as_object) {
        let required = [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ];
        for (field, detail) in required {
            if text(owner, field).is_empty() {
                causes.push(Cause::invalid(format!("{FIELD}.{field}"), &Value::String(String::new()), detail));
            }
        }
        if text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Event" {
            let value = Value::Object(owner.clone());
            causes.push(Cause::invalid(FIELD, &value, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let current = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            match &controller {
                None => controller = Some(current),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {current}"
                    );
                    causes.push(Cause::invalid(FIELD, &Value::Array(owners.to_vec()), &detail));
                }
            }
        }
    }
}

fn validate_finalizers(metadata: &Map<String, Value>, causes: &mut Vec<Cause>) {
    const FIELD: &str = "metadata.finalizers";
    let finalizers = strings(metadata, "finalizers");
    for finalizer in &finalizers {
        invalid_each(FIELD, finalizer, &label_key_errors(finalizer), causes);
    }
    if finalizers.contains(&ORPHAN) && finalizers.contains(&FOREGROUND) {
        let value = finalizers.iter().copied().map(Value::from).collect();
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        causes.push(Cause::invalid(FIELD, &value, &detail));
    }
}

fn name_errors(rule: NameRule, name: &str) -> Vec<String> {
    match rule {
        NameRule::DnsLabel => dns_label_errors(name),
        NameRule::DnsSubdomain => dns_subdomain_errors(name),
    }
}

fn invalid_each(field: &str, value: &str, errors: &[String], causes: &mut Vec<Cause>) {
    causes.extend(errors.iter().map(|e| Cause::invalid(field, &Value::from(value), e)));
}

fn metadata_of(object: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    object.get("metadata").and_then(Value::as_object).unwrap_or(&EMPTY)
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn strings<'a>(map: &'a Map<String, Value>, key: &str) -> Vec<&'a str> {
    map.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn entries<'a>(map: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    map.get(key).and_then(Value::as_object).into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_metadata_fields_are_found_and_removed() {
        let mut object = json!({"metadata": {"name": "a", "creationTimestamp": null, "foo": 1}});
        assert_eq!(coerce_metadata(&mut object), Ok(vec!["metadata.foo".to_owned()]));
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
    }

    #[test]
    fn a_wrong_type_in_metadata_is_one_cause() {
        let mut object = json!({"metadata": {"labels": {"a": 1}}});
        let cause = coerce_metadata(&mut object).unwrap_err();
        assert_eq!(cause.field, "metadata");
    }

    #[test]
    fn creation_checks_name_namespace_and_labels() {
        let object = json!({"metadata": {"name": "A", "labels": {"a b": "c d"}, "finalizers": ["orphan", "foregroundDeletion"]}});
        let fields: Vec<_> =
            validate_metadata(&object, NameRule::DnsSubdomain, true).into_iter().map(|c| c.field).collect();
        assert_eq!(
            fields,
            ["metadata.name", "metadata.namespace", "metadata.labels", "metadata.labels", "metadata.finalizers"]
        );
        let good = json!({"metadata": {"name": "a", "namespace": "b"}});
        assert_eq!(validate_metadata(&good, NameRule::DnsSubdomain, true), []);
    }

    #[test]
    fn updates_keep_identity_and_add_no_finalizer_while_deleting() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let mut new = old.clone();
        assert_eq!(validate_metadata_update(&new, &old), []);
        new["metadata"]["uid"] = json!("2");
        new["metadata"]["finalizers"] = json!(["a.b/c"]);
        let causes = validate_metadata_update(&new, &old);
        assert_eq!(
            causes[0].message,
            "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.b/c\"}"
        );
        assert_eq!(causes[1].message, "Invalid value: \"2\": field is immutable");
    }

    #[test]
    fn bare_finalizers_are_warned_about_once() {
        let old = json!({"metadata": {"finalizers": ["foregroundDeleteVirtualMachine"]}});
        assert_eq!(finalizer_warnings(&old, Some(&old)), Vec::<String>::new());
        assert_eq!(
            finalizer_warnings(&old, None),
            [
                "metadata.finalizers: \"foregroundDeleteVirtualMachine\": prefer a domain-qualified finalizer name to avoid \
              accidental conflicts with other finalizer writers"
            ]
        );
    }
}

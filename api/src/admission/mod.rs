//! Admission: what a create or update must satisfy beyond the schema, with the exact field of each fault.
//!
//! The first rules and their texts are KubeVirt v0.5.0's, which clients show to people and match in tests; the others keep a guest that
//! libvirt or QEMU would refuse from being stored. Checking a spec yields its [`ValidatedSpec`], so nothing is checked twice.

mod domain;
mod placement;
mod storage;

use serde_json::Value;

use crate::v1alpha1::{OfflineVirtualMachine, Phase, VirtualMachine, VirtualMachineSpec};
use crate::validated::ValidatedSpec;

/// `reason` of a cause: the value is wrong.
pub const FIELD_VALUE_INVALID: &str = "FieldValueInvalid";
/// `reason` of a cause: the value is missing.
pub const FIELD_VALUE_REQUIRED: &str = "FieldValueRequired";
/// `reason` of a cause: the field may not change.
pub const FIELD_VALUE_FORBIDDEN: &str = "FieldValueForbidden";

/// What is said to whoever edits a VirtualMachine that runs, or is about to.
pub(crate) const BOUND_SPEC_CHANGED: &str = "spec does not change once the VirtualMachine is bound to a node; change spec.template of its \
    OfflineVirtualMachine, or delete the VirtualMachine and create it anew.";

/// One fault, as in `Status.details.causes[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired` or `FieldValueForbidden`.
    pub reason: &'static str,
    /// What is wrong, for people; names the field and the fix.
    pub message: String,
    /// Path of the field, such as `spec.domain.devices.disks[0].name`.
    pub field: String,
}

/// Collects the faults of one object.
#[derive(Debug, Default)]
struct Faults(Vec<Cause>);

impl Faults {
    fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Cause { reason: FIELD_VALUE_INVALID, message: message.into(), field: field.into() });
    }

    /// Notes that `value` is none of the allowed words.
    fn unknown_word(&mut self, field: &str, value: &str, allowed: &[&str]) {
        self.invalid(field, format!("{field} '{value}' is not supported; use one of: {}.", allowed.join(", ")));
    }

    /// Notes that a name is no DNS label.
    fn dns_label(&mut self, field: &str, name: &str) {
        if !is_dns_label(name) {
            self.invalid(
                field,
                format!(
                    "{field} '{name}' is not a DNS label; use at most 63 of a-z, 0-9 and '-', with a letter or digit at both ends."
                ),
            );
        }
    }
}

/// Checks a spec at `path` (`spec`, or `spec.template.spec`).
///
/// # Errors
/// Every fault found, in the order of the spec.
pub fn validate_vm_spec(spec: &VirtualMachineSpec, path: &str) -> Result<ValidatedSpec, Vec<Cause>> {
    let mut faults = Faults::default();
    let machine = domain::machine(&spec.domain, path, &mut faults);
    let resources = domain::resources(&spec.domain, path, &mut faults);
    let volumes = storage::volumes(spec, path, &mut faults);
    let disks = storage::disks(spec, path, machine.family, &mut faults);
    let validated = ValidatedSpec {
        memory_kib: resources.memory_kib,
        cpu_request_millis: resources.cpu_request_millis,
        cores: domain::cores(&spec.domain, path, &mut faults),
        machine_type: machine.type_,
        firmware_uuid: domain::firmware_uuid(&spec.domain, path, &mut faults),
        clock: domain::clock(&spec.domain, path, &mut faults),
        features: domain::features(&spec.domain, path, &mut faults),
        disks,
        volumes,
        watchdog: domain::watchdog(&spec.domain, path, &mut faults),
        grace_period_seconds: domain::grace_period_seconds(spec, path, &mut faults),
    };
    if faults.0.is_empty() { Ok(validated) } else { Err(faults.0) }
}

/// Checks a VirtualMachine as it would be stored. `old` is the stored one, on an update.
pub fn validate_virtual_machine(new: &VirtualMachine, old: Option<&VirtualMachine>) -> Vec<Cause> {
    if let Some(old) = old {
        if old.spec == new.spec {
            return Vec::new();
        }
        if is_bound(old) {
            return vec![Cause {
                reason: FIELD_VALUE_FORBIDDEN,
                message: BOUND_SPEC_CHANGED.to_owned(),
                field: "spec".to_owned(),
            }];
        }
    }
    let mut causes = validate_vm_spec(&new.spec, "spec").err().unwrap_or_default();
    // One that is made from a template is not asked anew: its template was, unless it is older than these rules, and starts as before.
    let owners = new.metadata.owner_references.iter().flatten();
    if !owners.into_iter().any(|owner| owner.controller == Some(true)) {
        let mut faults = Faults::default();
        placement::spec(&new.spec, "spec", &mut faults);
        causes.append(&mut faults.0);
    }
    causes
}

/// Checks an OfflineVirtualMachine as it would be stored. `old` is the stored one, on an update.
pub fn validate_offline_virtual_machine(
    new: &OfflineVirtualMachine,
    old: Option<&OfflineVirtualMachine>,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut faults = Faults::default();
    let (was, is) = (old.map(|old| &old.spec.template), &new.spec.template);
    if was.is_none_or(|was| was.spec != is.spec) {
        causes = validate_vm_spec(&is.spec, "spec.template.spec").err().unwrap_or_default();
        placement::spec(&is.spec, "spec.template.spec", &mut faults);
    }
    if let Some(metadata) = &is.metadata
        && was.is_none_or(|was| was.metadata != is.metadata)
    {
        placement::template(metadata, "spec.template.metadata", &mut faults);
    }
    causes.append(&mut faults.0);
    causes
}

/// Checks an object of either kind as the API server has it: already pruned, defaulted and valid by its schema. Other kinds pass.
pub fn validate(kind: &str, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    match kind {
        "VirtualMachine" => match (parse(new), old.and_then(|old| parse(old).ok())) {
            (Ok(new), old) => validate_virtual_machine(&new, old.as_ref()),
            (Err(cause), _) => vec![cause],
        },
        "OfflineVirtualMachine" if new.pointer("/spec/template").is_none_or(Value::is_null) => vec![Cause {
            reason: FIELD_VALUE_REQUIRED,
            message: "missing virtual machine template.".to_owned(),
            field: "spec.template".to_owned(),
        }],
        "OfflineVirtualMachine" => match (parse(new), old.and_then(|old| parse(old).ok())) {
            (Ok(new), old) => validate_offline_virtual_machine(&new, old.as_ref()),
            (Err(cause), _) => vec![cause],
        },
        _ => Vec::new(),
    }
}

fn parse<K: serde::de::DeserializeOwned>(value: &Value) -> Result<K, Cause> {
    K::deserialize(value).map_err(|error| Cause {
        reason: FIELD_VALUE_INVALID,
        message: format!("the object cannot be read: {error}"),
        field: "spec".to_owned(),
    })
}

fn is_bound(vm: &VirtualMachine) -> bool {
    vm.status.as_ref().is_some_and(|status| {
        status.node_name.as_ref().is_some_and(|name| !name.is_empty())
            || status.phase.is_some_and(|phase| phase >= Phase::Scheduled)
    })
}

/// RFC 1123 label.
fn is_dns_label(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (1..=63).contains(&name.len())
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

/// A string of the wire: empty means not set, as Go clients write it.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;

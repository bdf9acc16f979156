//! ABI records: their document, their names, and what differs between two.
//!
//! A record is the `data` of a numbered `apps/v1 ControllerRevision`, which its OfflineVirtualMachine owns and a label names, so that it is found again
//! after it was orphaned, or restored from a backup. What a record says is the user's input like any other: whoever renders from it checks it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::names::ABI_RESET_ANNOTATION;
use crate::v1alpha1::{AbiDevice, AbiRecord, AbiStatus};

/// Names of OfflineVirtualMachines up to this long are part of their records' names as they are; a name may have 253 characters.
const NAME_LIMIT: usize = 220;
/// Bytes of a hash that make a cut name unique, in hex.
const HASH_HEX: usize = 16;

/// A document that is no record that we can read.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Made by a newer version of this software.
    #[error(
        "the record has version {version}, and this version of the software reads up to {}; upgrade it, or delete the record",
        AbiRecord::VERSION
    )]
    Version {
        /// The document's version.
        version: u64,
    },
    /// Not the shape of a record.
    #[error("the record cannot be read; restore it from a backup, or delete it")]
    Shape(#[source] serde_json::Error),
}

impl AbiRecord {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// Reads `data` of a ControllerRevision.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(data: &Value) -> Result<Self, RecordError> {
        match data.get("version").and_then(Value::as_u64) {
            Some(version) if version > u64::from(Self::VERSION) => Err(RecordError::Version { version }),
            _ => serde_json::from_value(data.clone()).map_err(RecordError::Shape),
        }
    }

    /// The document, as `data` of a ControllerRevision.
    pub fn to_data(&self) -> Value {
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// SHA-256 over the document, in hex.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.to_data().to_string()))
    }

    /// What a VirtualMachine is bound with.
    pub fn to_status(&self, revision: Option<i64>) -> AbiStatus {
        AbiStatus { devices: self.devices.clone(), ..self.to_summary(revision) }
    }

    /// What an OfflineVirtualMachine's status says of it.
    pub fn to_summary(&self, revision: Option<i64>) -> AbiStatus {
        AbiStatus {
            revision,
            hash: Some(self.hash()),
            firmware_uuid: Some(self.firmware_uuid.clone()),
            serial: self.serial.clone(),
            machine_type: Some(self.machine_type.clone()),
            cpu_model: self.cpu_model.clone(),
            devices: Vec::new(),
        }
    }

    /// What of this record is another in `newer`: a line a change, for people. Empty if nothing is.
    pub fn changes(&self, newer: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let facts = [
            ("firmware UUID", Some(&self.firmware_uuid), Some(&newer.firmware_uuid)),
            ("serial number", self.serial.as_ref(), newer.serial.as_ref()),
            ("machine type", Some(&self.machine_type), Some(&newer.machine_type)),
            ("CPU model", self.cpu_model.as_ref(), newer.cpu_model.as_ref()),
        ];
        for (what, old, new) in facts {
            lines.extend(change(what, old, new));
        }
        let by_alias = |record: &Self| -> BTreeMap<String, AbiDevice> {
            record.devices.iter().map(|device| (device.alias.clone(), device.clone())).collect()
        };
        let (old, new) = (by_alias(self), by_alias(newer));
        let at = |device: &AbiDevice| device.address.as_ref().map(|at| format!(" ({at})")).unwrap_or_default();
        lines.extend(
            old.values()
                .filter(|was| !new.contains_key(&was.alias))
                .map(|was| format!("{} removed{}", was.alias, at(was))),
        );
        for is in new.values() {
            match old.get(&is.alias) {
                None => lines.push(format!("{} added{}", is.alias, at(is))),
                Some(was) => lines.extend(device_changes(was, is)),
            }
        }
        lines
    }
}

impl AbiStatus {
    /// The record in a VirtualMachine's status; none before its guest has been defined, where there is no record yet either.
    pub fn to_record(&self) -> Option<AbiRecord> {
        Some(AbiRecord {
            version: AbiRecord::VERSION,
            firmware_uuid: self.firmware_uuid.clone()?,
            serial: self.serial.clone(),
            machine_type: self.machine_type.clone()?,
            cpu_model: self.cpu_model.clone(),
            devices: self.devices.clone(),
        })
    }

    /// Whether `recorded`, an OfflineVirtualMachine's status, names the record of what this VirtualMachine's status says (R3). The number counts
    /// too: after the records were deleted (the reset), the status may still name one that is gone.
    pub fn is_recorded_in(&self, recorded: Option<&Self>) -> bool {
        let bound = self.revision.unwrap_or(0);
        let number = recorded.and_then(|recorded| recorded.revision).unwrap_or(0);
        self.hash.is_none()
            || recorded.is_some_and(|recorded| {
                recorded.hash == self.hash && number >= bound && number <= bound.saturating_add(1)
            })
    }
}

/// The number up to which an OfflineVirtualMachine's records do not count, by its annotation [`ABI_RESET_ANNOTATION`]; 0 without one.
///
/// # Errors
/// What the annotation says, if it is no number from 0 to `u32::MAX`.
pub fn reset_up_to(ovm: &ObjectMeta) -> Result<i64, &str> {
    let Some(text) = ovm.annotations.as_ref().and_then(|all| all.get(ABI_RESET_ANNOTATION)) else { return Ok(0) };
    text.parse::<u32>().map(i64::from).map_err(|_| text.as_str())
}

/// Name of an OfflineVirtualMachine's record.
pub fn record_name(ovm: &str, revision: i64) -> String {
    format!("{}-abi-{revision}", shortened(ovm, NAME_LIMIT))
}

/// Value of label [`crate::names::ABI_OF_LABEL`] on the records of an OfflineVirtualMachine: its name, or what stands for a long one.
pub fn record_label(ovm: &str) -> String {
    shortened(ovm, crate::names::LABEL_LIMIT)
}

/// The name, or its beginning and a hash of all of it.
fn shortened(name: &str, limit: usize) -> String {
    if name.len() <= limit {
        return name.to_owned();
    }
    let hash = hex(&Sha256::digest(name));
    let kept: String = name.chars().take(limit - HASH_HEX - 1).collect();
    let kept = kept.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{kept}-{}", &hash[..HASH_HEX])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

fn change(what: &str, old: Option<&String>, new: Option<&String>) -> Option<String> {
    let shown = |value: Option<&String>| value.map_or("none", String::as_str).to_owned();
    (old != new).then(|| format!("{what} {} -> {}", shown(old), shown(new)))
}

fn device_changes(old: &AbiDevice, new: &AbiDevice) -> Vec<String> {
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let facts = [
        ("address", old.address.clone(), new.address.clone()),
        ("model", old.model.clone(), new.model.clone()),
        ("bus", old.bus.clone(), new.bus.clone()),
        ("target", old.target.clone(), new.target.clone()),
        ("hardware address", old.mac.clone(), new.mac.clone()),
        ("chassis", number(old.chassis), number(new.chassis)),
        ("port", number(old.port), number(new.port)),
    ];
    let alias = &new.alias;
    facts.iter().filter_map(|(what, old, new)| change(&format!("{alias} {what}"), old.as_ref(), new.as_ref())).collect()
}

#[cfg(test)]
mod tests;

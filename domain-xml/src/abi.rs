//! The guest ABI: read from a domain as libvirt settled it, and checked before a domain is rendered from it.
//!
//! ```text
//! AbiRecord ─ check ─> GuestAbi ─ render ─> XML ─ define ─> libvirt ─ parse ─> ObservedDomain ─ record_of ─> AbiRecord
//! ```
//! A record may come from a backup that somebody has edited: nothing of it reaches XML but through a type or a list of words (I7).

use std::collections::BTreeMap;

use api::v1alpha1::{AbiDevice, AbiRecord};
use thiserror::Error;
use uuid::Uuid;

use crate::{AddressError, DeviceAddress, MacAddress, ObservedDevice, ObservedDomain};

/// Models of controllers that a record may hold. A controller without model is of the only one that its machine has.
pub(crate) const CONTROLLER_MODELS: &[&str] = &[
    "dmi-to-pci-bridge",
    "ich9-ehci1",
    "none",
    "pci-bridge",
    "pci-root",
    "pcie-root",
    "pcie-root-port",
    "pcie-to-pci-bridge",
    "piix3-uhci",
    "qemu-xhci",
    "virtio-scsi",
];
/// Types of controllers that a record may hold.
pub(crate) const CONTROLLER_TYPES: &[&str] = &["ide", "pci", "sata", "scsi", "usb"];

/// A record that has been checked: what a domain is rendered from besides its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestAbi {
    pub(crate) serial: Option<String>,
    pub(crate) machine_type: String,
    pub(crate) cpu_model: Option<String>,
    /// By alias.
    devices: BTreeMap<String, KnownDevice>,
}

/// A device of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownDevice {
    pub(crate) model: Option<String>,
    pub(crate) bus: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) address: Option<DeviceAddress>,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) chassis: Option<u32>,
    pub(crate) port: Option<u32>,
}

/// A controller of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownController<'a> {
    pub(crate) kind: &'static str,
    pub(crate) index: u32,
    pub(crate) model: Option<&'static str>,
    pub(crate) device: &'a KnownDevice,
}

/// Why a record cannot be rendered from.
#[derive(Debug, Error)]
pub enum AbiError {
    /// A device's address cannot be read.
    #[error("ABI record: device {alias}")]
    Address {
        /// The device.
        alias: String,
        /// What is wrong.
        #[source]
        source: AddressError,
    },
    /// Another value cannot be.
    #[error("ABI record: {field} cannot be {value:?}")]
    Value {
        /// Which one, with its device.
        field: String,
        /// What it is.
        value: String,
    },
}

impl AbiError {
    /// One word for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        "AbiRecordUnusable"
    }
}

impl GuestAbi {
    /// Checks a record.
    ///
    /// # Errors
    /// [`AbiError`]: a value that no domain of ours can have.
    pub fn check(record: &AbiRecord) -> Result<Self, AbiError> {
        Uuid::parse_str(&record.firmware_uuid).map_err(|_| value("firmwareUuid", &record.firmware_uuid))?;
        word("machineType", &record.machine_type)?;
        record.cpu_model.as_deref().map_or(Ok(()), |model| word("cpuModel", model))?;
        let printable = |text: &str| text.len() <= 128 && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        if let Some(serial) = record.serial.as_deref().filter(|serial| !printable(serial)) {
            return Err(value("serial", serial));
        }
        let mut devices = BTreeMap::new();
        for device in &record.devices {
            if devices.insert(device.alias.clone(), KnownDevice::check(device)?).is_some() {
                return Err(value("devices (twice)", &device.alias));
            }
        }
        let (serial, cpu_model) = (record.serial.clone(), record.cpu_model.clone());
        Ok(Self { serial, machine_type: record.machine_type.clone(), cpu_model, devices })
    }

    /// Whether what the record says of addresses holds on this machine type: another version of the same family does.
    pub(crate) fn fits(&self, machine_type: &str) -> bool {
        machine_family(&self.machine_type) == machine_family(machine_type)
    }

    pub(crate) fn device(&self, alias: &str) -> Option<&KnownDevice> {
        self.devices.get(alias)
    }

    /// Every controller, by type and index. A USB controller of model `none` is no controller.
    pub(crate) fn controllers(&self) -> Vec<KnownController<'_>> {
        let mut all: Vec<_> =
            self.devices.iter().filter_map(|(alias, device)| read_controller(alias, device)).collect();
        all.sort_by_key(|controller| (controller.kind, controller.index));
        all
    }

    /// Every USB hub.
    pub(crate) fn hubs(&self) -> impl Iterator<Item = &KnownDevice> {
        self.devices.iter().filter(|(alias, _)| alias.starts_with("ua-hub-")).map(|(_, device)| device)
    }

    /// Addresses of all devices whose alias passes.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&str, &DeviceAddress)> {
        self.devices.iter().filter_map(|(alias, device)| Some((alias.as_str(), device.address.as_ref()?)))
    }
}

impl KnownDevice {
    fn check(device: &AbiDevice) -> Result<Self, AbiError> {
        let alias = &device.alias;
        let field = |name: &str| format!("device {alias}: {name}");
        word("device alias", alias)?;
        let address = device.address.as_deref().map(str::parse).transpose();
        let address = address.map_err(|source| AbiError::Address { alias: alias.clone(), source })?;
        for (name, text) in [("model", &device.model), ("bus", &device.bus)] {
            text.as_deref().map_or(Ok(()), |text| word(&field(name), text))?;
        }
        if let Some(target) = device.target.as_deref().filter(|target| !is_target(target)) {
            return Err(value(&field("target"), target));
        }
        if let Some(number) = [device.chassis, device.port].into_iter().flatten().find(|number| *number > 255) {
            return Err(value(&field("chassis or port"), &number.to_string()));
        }
        let mac = device.mac.as_deref().map(str::parse).transpose();
        Ok(Self {
            model: device.model.clone(),
            bus: device.bus.clone(),
            target: device.target.clone(),
            address,
            mac: mac.map_err(|_| value(&field("mac"), device.mac.as_deref().unwrap_or_default()))?,
            chassis: device.chassis,
            port: device.port,
        })
    }
}

/// The record of a domain as libvirt settled it: every device that has an alias of ours or an address, by alias.
pub fn record_of(domain: &ObservedDomain) -> AbiRecord {
    let mut devices: Vec<AbiDevice> = domain.devices.iter().filter_map(record_device).collect();
    // libvirt sorts disks by bus; a user may sort them otherwise. Neither is the guest's business.
    devices.sort_by(|one, other| one.alias.cmp(&other.alias));
    AbiRecord {
        version: AbiRecord::VERSION,
        firmware_uuid: domain.uuid.to_string(),
        serial: domain.serial.clone(),
        machine_type: domain.machine_type.clone(),
        cpu_model: domain.cpu_model.clone(),
        devices,
    }
}

fn record_device(device: &ObservedDevice) -> Option<AbiDevice> {
    let address = DeviceAddress::from_attributes(&device.address);
    let is_disk = device.kind == "disk";
    let keeps_model = matches!(device.kind.as_str(), "controller" | "interface");
    let alias = match device.kind.as_str() {
        // Controllers have no alias that libvirt would not make itself: one of ours would go into QEMU's names of buses.
        "controller" if address.is_some() || device.controller.as_deref() == Some("pci") => {
            format!("ua-{}-{}", device.controller.as_deref()?, device.index?)
        }
        "controller" => return None,
        "hub" => format!("ua-hub-{}", address.as_ref()?.to_string().strip_prefix("usb:")?.replace('.', "-")),
        _ => device.alias.clone()?,
    };
    Some(AbiDevice {
        alias,
        model: device.model.clone().filter(|_| keeps_model),
        bus: device.bus.clone().filter(|_| is_disk),
        target: device.target.clone().filter(|_| is_disk),
        address: address.map(|address| address.to_string()),
        mac: device.mac.map(|mac| mac.to_string()),
        chassis: device.chassis,
        port: device.port,
    })
}

fn read_controller<'a>(alias: &str, device: &'a KnownDevice) -> Option<KnownController<'a>> {
    let (kind, index) = alias.strip_prefix("ua-")?.split_once('-')?;
    let kind = CONTROLLER_TYPES.iter().find(|known| **known == kind)?;
    let model = match device.model.as_deref() {
        Some(model) => Some(*CONTROLLER_MODELS.iter().find(|known| **known == model)?),
        None => None,
    };
    Some(KnownController { kind, index: index.parse().ok()?, model, device })
}

/// What of a machine type is not its version: `pc-q35` of `pc-q35-10.0`.
pub(crate) fn machine_family(machine_type: &str) -> &str {
    machine_type.rsplit_once('-').map_or(machine_type, |(family, _)| family)
}

/// What libvirt reads drive addresses from: `vda`, `sdab`, `hdc`, `fdb`.
fn is_target(text: &str) -> bool {
    let rest = ["vd", "sd", "hd", "fd"].iter().find_map(|prefix| text.strip_prefix(prefix));
    rest.is_some_and(|rest| (1..=3).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_lowercase()))
}

fn word(field: &str, text: &str) -> Result<(), AbiError> {
    let is_word =
        !text.is_empty() && text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if is_word { Ok(()) } else { Err(value(field, text)) }
}

fn value(field: &str, value: &str) -> AbiError {
    AbiError::Value { field: field.to_owned(), value: value.to_owned() }
}

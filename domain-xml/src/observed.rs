//! A domain read back from libvirt: the parts that we act on. What we do not know is passed over, so that a newer libvirt's domains can be read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use thiserror::Error;
use uuid::Uuid;

use crate::tree::Element;
use crate::{MacAddress, Metadata};

/// Deepest backing chain that is read; libvirt itself allows 200 layers.
const MAX_LAYERS: usize = 200;

/// What libvirt says of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDomain {
    /// The domain's name.
    pub name: String,
    /// The domain's, and so the guest's firmware UUID.
    pub uuid: Uuid,
    /// `kvm`, `qemu`, or what else libvirt knows.
    pub domain_type: String,
    /// Machine type as libvirt resolved it, such as `pc-q35-10.0`.
    pub machine_type: String,
    /// SMBIOS serial number.
    pub serial: Option<String>,
    /// CPU model; none where it is the host's own.
    pub cpu_model: Option<String>,
    /// Ours; none if it is another tool's domain.
    pub metadata: Option<Metadata>,
    /// File to which the first serial console is copied.
    pub console_log: Option<PathBuf>,
    /// Disks, in order.
    pub disks: Vec<ObservedDisk>,
    /// Every controller, and every device that has an alias, an address or a hardware address, disks among them, in order. Not `console`, which is a `serial` once more.
    pub devices: Vec<ObservedDevice>,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDisk {
    /// Name of the target, such as `vda`.
    pub target: String,
    /// Alias; of a disk of ours `ua-disk-<name>`.
    pub alias: Option<String>,
    /// Paths of its layers, top first. Empty if the drive is, or if its content is no file or device.
    pub layers: Vec<PathBuf>,
}

/// A device of a domain, as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDevice {
    /// Name of its element, such as `disk` or `controller`.
    pub kind: String,
    /// Alias. On a domain that is defined only ours (`ua-...`) are there; on a running one each device has one.
    pub alias: Option<String>,
    /// Its address, as libvirt's attributes: `type`, `bus`, `slot` and so on.
    pub address: BTreeMap<String, String>,
    /// Hardware address, of network cards.
    pub mac: Option<MacAddress>,
    /// Model, where there is one.
    pub model: Option<String>,
    /// Bus, of disks.
    pub bus: Option<String>,
    /// Target, of disks.
    pub target: Option<String>,
    /// Type, of controllers.
    pub controller: Option<String>,
    /// Index, of controllers.
    pub index: Option<u32>,
    /// Chassis number, of PCI ports and bridges.
    pub chassis: Option<u32>,
    /// Port number, of PCI Express ports.
    pub port: Option<u32>,
}

/// Why a domain's XML could not be read.
#[derive(Debug, Error)]
pub enum ParseError {
    /// The text is no well-formed XML.
    #[error("read domain XML")]
    Syntax(#[source] quick_xml::Error),
    /// The text is XML, but nothing that libvirt writes.
    #[error("domain XML has {what}")]
    Structure {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A value that every domain, or our metadata, has is not there.
    #[error("{element} has no {what}")]
    Missing {
        /// Name of the element that should have it.
        element: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// A value cannot be read.
    #[error("{what} cannot be {value:?}")]
    Wrong {
        /// Name of its element.
        what: &'static str,
        /// What is there.
        value: String,
    },
}

impl ParseError {
    pub(crate) fn structure(what: &'static str) -> Self {
        Self::Structure { what }
    }

    /// One word for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        "DomainXmlUnreadable"
    }
}

/// Reads a domain as libvirt describes it.
///
/// # Errors
/// [`ParseError`]: not well-formed, no domain, without a name, UUID, type or machine type, or with metadata of ours that is broken.
pub fn parse(xml: &str) -> Result<ObservedDomain, ParseError> {
    let root = Element::parse(xml)?;
    if root.name != "domain" || !root.namespace.is_empty() {
        return Err(ParseError::structure("another root element than domain"));
    }
    let missing = |what| ParseError::Missing { element: "domain", what };
    let text = |name| root.child(name).map(|child| child.text.as_str()).ok_or(missing(name));
    let uuid = text("uuid")?;
    let os_type = root.child("os").and_then(|os| os.child("type"));
    let empty = Element::default();
    let devices = root.child("devices").unwrap_or(&empty);
    Ok(ObservedDomain {
        name: text("name")?.to_owned(),
        uuid: uuid.parse().map_err(|_| ParseError::Wrong { what: "uuid", value: uuid.to_owned() })?,
        domain_type: root.attribute("type").ok_or(missing("type"))?.to_owned(),
        machine_type: os_type.and_then(|kind| kind.attribute("machine")).ok_or(missing("machine type"))?.to_owned(),
        serial: read_serial(&root),
        cpu_model: root.child("cpu").and_then(|cpu| cpu.child("model")).map(|model| model.text.clone()),
        metadata: root.child("metadata").map(Metadata::find).transpose()?.flatten(),
        console_log: devices
            .child("serial")
            .and_then(|serial| serial.child("log")?.attribute("file"))
            .map(PathBuf::from),
        disks: devices.children.iter().filter(|device| device.name == "disk").map(read_disk).collect(),
        devices: devices.children.iter().filter(|device| device.name != "console").filter_map(read_device).collect(),
    })
}

fn read_serial(root: &Element) -> Option<String> {
    let system = root.child("sysinfo")?.child("system")?;
    let serial =
        system.children.iter().find(|entry| entry.name == "entry" && entry.attribute("name") == Some("serial"));
    serial.map(|entry| entry.text.clone())
}

fn read_disk(disk: &Element) -> ObservedDisk {
    let mut layers = Vec::new();
    let mut layer = Some(disk);
    while let Some(element) = layer.filter(|_| layers.len() < MAX_LAYERS) {
        let source =
            element.child("source").and_then(|source| source.attribute("file").or_else(|| source.attribute("dev")));
        layers.extend(source.map(PathBuf::from));
        layer = element.child("backingStore");
    }
    ObservedDisk {
        target: disk.child("target").and_then(|target| target.attribute("dev")).unwrap_or_default().to_owned(),
        alias: read_alias(disk),
        layers,
    }
}

fn read_device(device: &Element) -> Option<ObservedDevice> {
    let address =
        device.child("address").map(|address| address.attributes.iter().cloned().collect()).unwrap_or_default();
    let mac = device.child("mac").and_then(|mac| mac.attribute("address")?.parse().ok());
    let own = |name: &str| device.attribute(name).map(str::to_owned);
    let target = device.child("target");
    let of_target = |name: &str| target.and_then(|target| target.attribute(name));
    let is_controller = device.name == "controller";
    let model =
        own("model").or_else(|| device.child("model").and_then(|model| model.attribute("type")).map(str::to_owned));
    let device = ObservedDevice {
        kind: device.name.clone(),
        alias: read_alias(device),
        address,
        mac,
        model,
        bus: of_target("bus").map(str::to_owned),
        target: of_target("dev").map(str::to_owned),
        controller: own("type").filter(|_| is_controller),
        index: own("index").and_then(|index| index.parse().ok()).filter(|_| is_controller),
        chassis: of_target("chassis")
            .or_else(|| of_target("chassisNr"))
            .and_then(read_number)
            .filter(|_| is_controller),
        port: of_target("port").and_then(read_number).filter(|_| is_controller),
    };
    let is_known = device.alias.is_some() || device.mac.is_some() || !device.address.is_empty() || is_controller;
    is_known.then_some(device)
}

/// A number as libvirt writes it: with `0x` or without.
fn read_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn read_alias(device: &Element) -> Option<String> {
    device.child("alias").and_then(|alias| alias.attribute("name")).map(str::to_owned)
}

//! Addresses of devices: as libvirt's attributes, and as the one text that a record holds.
//!
//! Only the kinds that a guest of ours has: PCI, drive, USB. A device of another kind (ISA) is where the machine puts it, and its address is not recorded.
//! Reference: <https://libvirt.org/formatdomain.html#device-addresses>

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::xml::XmlWriter;

/// Deepest chain of USB hubs.
const MAX_USB_PORTS: usize = 4;

/// Where a device sits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceAddress {
    /// On a PCI bus. Printed `pci:0000:02:01.0`. That a slot has more than one function is libvirt's to say: it follows from the addresses.
    Pci {
        /// Domain.
        domain: u16,
        /// Bus: the index of the controller that it is behind.
        bus: u8,
        /// Slot, 0 to 31.
        slot: u8,
        /// Function, 0 to 7.
        function: u8,
    },
    /// A disk on a controller. Printed `drive:CONTROLLER.BUS.TARGET.UNIT`.
    Drive {
        /// Index of the controller.
        controller: u16,
        /// Bus.
        bus: u16,
        /// Target.
        target: u16,
        /// Unit.
        unit: u16,
    },
    /// On a USB bus. Printed `usb:BUS.PORT`, and `usb:BUS.PORT.PORT` behind a hub.
    Usb {
        /// Index of the controller.
        bus: u8,
        /// Ports, from the controller's down.
        ports: Vec<u8>,
    },
}

/// A text that is no address of a device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not the address of a device, such as pci:0000:02:01.0, drive:0.0.0.1 or usb:0.1")]
pub struct AddressError {
    /// What was given.
    pub text: String,
}

impl DeviceAddress {
    /// Reads `<address>` as libvirt writes it. None: of a kind that is not recorded.
    pub(crate) fn from_attributes(attributes: &BTreeMap<String, String>) -> Option<Self> {
        let text = |name: &str| attributes.get(name).map(String::as_str);
        let decimal = |name: &str| text(name)?.parse().ok();
        match text("type")? {
            "pci" => Some(Self::Pci {
                domain: u16::from_str_radix(text("domain")?.strip_prefix("0x")?, 16).ok()?,
                bus: u8::from_str_radix(text("bus")?.strip_prefix("0x")?, 16).ok()?,
                slot: u8::from_str_radix(text("slot")?.strip_prefix("0x")?, 16).ok()?,
                function: u8::from_str_radix(text("function")?.strip_prefix("0x")?, 16).ok()?,
            }),
            "drive" => Some(Self::Drive {
                controller: decimal("controller")?,
                bus: decimal("bus")?,
                target: decimal("target")?,
                unit: decimal("unit")?,
            }),
            "usb" => {
                let ports = text("port")?.split('.').map(|port| port.parse().ok()).collect::<Option<_>>()?;
                Some(Self::Usb { bus: text("bus")?.parse().ok()?, ports })
            }
            _ => None,
        }
    }

    /// `<address>`
    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        let element = xml.element("address");
        match self {
            Self::Pci { domain, bus, slot, function } => element
                .attribute("type", "pci")
                .attribute("domain", format_args!("0x{domain:04x}"))
                .attribute("bus", format_args!("0x{bus:02x}"))
                .attribute("slot", format_args!("0x{slot:02x}"))
                .attribute("function", format_args!("0x{function:x}"))
                .empty(),
            Self::Drive { controller, bus, target, unit } => element
                .attribute("type", "drive")
                .attribute("controller", controller)
                .attribute("bus", bus)
                .attribute("target", target)
                .attribute("unit", unit)
                .empty(),
            Self::Usb { bus, ports } => {
                element.attribute("type", "usb").attribute("bus", bus).attribute("port", join(ports)).empty();
            }
        }
    }

    /// The PCI bus that the device is on.
    pub(crate) fn pci_bus(&self) -> Option<u8> {
        match self {
            Self::Pci { domain: 0, bus, .. } => Some(*bus),
            Self::Pci { .. } | Self::Drive { .. } | Self::Usb { .. } => None,
        }
    }
}

fn join(ports: &[u8]) -> String {
    ports.iter().map(u8::to_string).collect::<Vec<_>>().join(".")
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci { domain, bus, slot, function } => {
                write!(f, "pci:{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
            }
            Self::Drive { controller, bus, target, unit } => write!(f, "drive:{controller}.{bus}.{target}.{unit}"),
            Self::Usb { bus, ports } => write!(f, "usb:{bus}.{}", join(ports)),
        }
    }
}

impl FromStr for DeviceAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let read = || match text.split_once(':')? {
            ("pci", rest) => read_pci(rest),
            ("drive", rest) => {
                let mut numbers = rest.split('.').map(|part| part.parse().ok());
                let mut next = || numbers.next().flatten();
                Some(Self::Drive { controller: next()?, bus: next()?, target: next()?, unit: next()? })
            }
            ("usb", rest) => {
                let (bus, ports) = rest.split_once('.')?;
                let ports: Vec<u8> = ports.split('.').map(|port| port.parse().ok()).collect::<Option<_>>()?;
                (ports.len() <= MAX_USB_PORTS).then_some(Self::Usb { bus: bus.parse().ok()?, ports })
            }
            _ => None,
        };
        // Only the text that we would write ourselves: one address, one spelling.
        let address: Option<Self> = read();
        address.filter(|address| address.to_string() == text).ok_or_else(|| AddressError { text: text.to_owned() })
    }
}

fn read_pci(text: &str) -> Option<DeviceAddress> {
    let (rest, function) = text.split_once('.')?;
    let mut parts = rest.split(':');
    let domain = u16::from_str_radix(parts.next()?, 16).ok()?;
    let bus = u8::from_str_radix(parts.next()?, 16).ok()?;
    let slot = u8::from_str_radix(parts.next()?, 16).ok().filter(|slot| *slot < 32)?;
    let function = u8::from_str_radix(function, 16).ok().filter(|function| *function < 8)?;
    parts.next().is_none().then_some(DeviceAddress::Pci { domain, bus, slot, function })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(address: &DeviceAddress) -> BTreeMap<String, String> {
        let mut xml = XmlWriter::with_capacity(0);
        address.write(&mut xml);
        let element = crate::tree::Element::parse(&xml.finish()).expect("one element");
        element.attributes.into_iter().collect()
    }

    #[test]
    fn each_kind_is_text_and_attributes_and_back() {
        for text in ["pci:0000:00:02.0", "pci:0000:1f:1f.7", "drive:0.0.0.5", "drive:1.0.0.0", "usb:0.1", "usb:0.1.8"] {
            let address: DeviceAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
            assert_eq!(DeviceAddress::from_attributes(&attributes(&address)), Some(address));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "pci",
            "pci:",
            "pci:0000:00:02",
            "pci:0:0:2.0",
            "pci:0000:00:20.0",
            "pci:0000:00:02.8",
            "pci:0000:00:02.0,",
            "pci:0000:00:02.0:1",
            "drive:0.0.0",
            "drive:0.0.0.0.0",
            "drive:+1.0.0.0",
            "usb:0",
            "usb:0.",
            "usb:0.1.1.1.1.1",
            "isa:0x505",
        ] {
            assert_eq!(text.parse::<DeviceAddress>(), Err(AddressError { text: text.to_owned() }));
        }
    }

    proptest! {
        #[test]
        fn i7_what_parses_is_what_is_printed(text in "(pci|drive|usb):[0-9a-f:.]{0,20}") {
            if let Ok(address) = text.parse::<DeviceAddress>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}

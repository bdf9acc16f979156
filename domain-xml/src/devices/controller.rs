//! Controllers: those on record, those that libvirt would leave out or choose otherwise than we need, and free PCI Express ports.
//!
//! A controller that a guest has had stays, whether a device is on it or not: what is behind a port keeps its address only while the port does.
//! SATA, IDE and floppy controllers, PCI bridges, and the ports that devices need, libvirt adds by itself.

use super::disk::Disk;
use crate::abi::{GuestAbi, KnownController};
use crate::xml::XmlWriter;
use crate::{DeviceAddress, DomainInput};

/// Disks of one SCSI controller when libvirt reads addresses from names: 8 as on a narrow bus, less the controller's own. A controller that is not written
/// out libvirt adds as an LSI one.
const SCSI_DISKS_PER_CONTROLLER: usize = 7;
/// PCI Express ports that a guest has beyond those in use. A device that is added, now or to the running guest, goes into one.
const FREE_PORTS: usize = 3;
/// With this many ports no free ones are added: q35 has room for some 230.
const MOST_PORTS: usize = 200;
/// Virtio devices that every guest has: balloon and random numbers.
const FIXED_PCIE_DEVICES: [&str; 2] = ["ua-balloon0", "ua-rng0"];

/// `<controller>`
#[derive(Debug)]
pub(crate) struct Controller<'a> {
    kind: &'static str,
    index: u32,
    model: Option<&'static str>,
    chassis: Option<u32>,
    port: Option<u32>,
    address: Option<&'a DeviceAddress>,
}

/// What else decides how many ports a guest needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Others<'d> {
    pub(crate) disks: &'d [Disk<'d>],
    /// The network card: whether it goes into a port of its own, and its alias.
    pub(crate) card: Option<(bool, &'static str)>,
    /// A watchdog is asked for.
    pub(crate) watchdog: bool,
}

impl<'a> Controller<'a> {
    /// All that are written out.
    pub(crate) fn make_all(input: &DomainInput<'a>, others: Others<'_>) -> Vec<Self> {
        let known = input.settled().map(GuestAbi::controllers).unwrap_or_default();
        let mut all: Vec<Self> = Vec::with_capacity(known.len() + 2);
        let is_known = |kind: &str, index: u32| known.iter().any(|known| (known.kind, known.index) == (kind, index));
        if !is_known("usb", 0) {
            // With no word on USB every guest gets a controller; the model `none` saves the polling of it, and its memory.
            let with_usb = others.disks.iter().any(|disk| disk.bus() == "usb");
            all.push(Self::new("usb", 0, if with_usb { "qemu-xhci" } else { "none" }));
        }
        // libvirt's own choice would be an emulated LSI controller, for which current guests have no driver.
        let scsi = others.disks.iter().filter_map(Disk::scsi_controller).max().map_or(0, |last| last + 1);
        all.extend(
            (0..scsi).filter(|index| !is_known("scsi", *index)).map(|index| Self::new("scsi", index, "virtio-scsi")),
        );
        let new_controllers = all.iter().filter(|controller| controller.model != Some("none")).count();
        let free = free_ports(input, &known, others, new_controllers);
        all.splice(0..0, known.iter().map(Self::from_record));
        let last = known.iter().filter(|known| known.kind == "pci").map(|known| known.index).max();
        all.extend((1..).take(free).map(|n| Self::new("pci", last.unwrap_or(0) + n, "pcie-root-port")));
        all
    }

    fn new(kind: &'static str, index: u32, model: &'static str) -> Self {
        Self { kind, index, model: Some(model), chassis: None, port: None, address: None }
    }

    fn from_record(known: &KnownController<'a>) -> Self {
        Self {
            kind: known.kind,
            index: known.index,
            model: known.model,
            chassis: known.device.chassis,
            port: known.device.port,
            address: known.device.address.as_ref(),
        }
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        let controller = xml.element("controller").attribute("type", self.kind).attribute("index", self.index);
        controller.optional("model", self.model).children(|xml| {
            if self.chassis.is_some() || self.port.is_some() {
                let chassis = if self.model == Some("pci-bridge") { "chassisNr" } else { "chassis" };
                let target = xml.element("target").optional(chassis, self.chassis);
                target.optional("port", self.port.map(|port| format!("0x{port:x}"))).empty();
            }
            self.address.iter().for_each(|address| address.write(xml));
        });
    }
}

/// How many ports to add: so many that [`FREE_PORTS`] are left when every new device has one.
fn free_ports(
    input: &DomainInput<'_>,
    known: &[KnownController<'_>],
    others: Others<'_>,
    new_controllers: usize,
) -> usize {
    if !input.machine_type.contains("q35") {
        return 0;
    }
    let abi = input.settled();
    let has_place = |alias: &str| abi.and_then(|abi| abi.device(alias)).is_some_and(|device| device.address.is_some());
    let disks = others.disks.iter().filter(|disk| disk.bus() == "virtio" && disk.address().is_none()).count();
    let fixed = FIXED_PCIE_DEVICES.iter().filter(|alias| !has_place(alias)).count();
    let card = others.card.filter(|(in_port, alias)| *in_port && !has_place(alias)).map_or(0, |_| 1);
    // A conventional card or watchdog sits on a bridge, and the bridge in a port.
    let on_bridge = others.watchdog
        || others.card.is_some_and(|(in_port, _)| !in_port)
        || others.disks.iter().any(Disk::needs_another_sata_controller);
    let has_bridge = known.iter().any(|known| known.model == Some("pcie-to-pci-bridge"));
    let needed = disks + fixed + card + new_controllers + usize::from(on_bridge && !has_bridge);
    let ports: Vec<u32> =
        known.iter().filter(|known| known.model == Some("pcie-root-port")).map(|known| known.index).collect();
    let in_use =
        |port: &u32| standing(input, abi, others.disks).any(|address| address.pci_bus().map(u32::from) == Some(*port));
    let free = ports.iter().filter(|port| !in_use(port)).count();
    let missing = (needed + FREE_PORTS).saturating_sub(free);
    missing.min(MOST_PORTS.saturating_sub(ports.len()))
}

/// Addresses on record of what this guest still has.
fn standing<'a>(
    input: &'a DomainInput<'_>,
    abi: Option<&'a GuestAbi>,
    disks: &'a [Disk<'a>],
) -> impl Iterator<Item = &'a DeviceAddress> {
    let is_there = move |alias: &str| {
        if alias.starts_with("ua-disk-") {
            disks.iter().any(|disk| disk.alias() == alias && disk.address().is_some())
        } else if alias.starts_with("ua-watchdog-") {
            input
                .spec
                .watchdog
                .as_ref()
                .is_some_and(|watchdog| super::alias::Alias::named("watchdog", &watchdog.name).as_str() == alias)
        } else {
            alias != "ua-net0" || *input.network != crate::Network::None
        }
    };
    abi.into_iter().flat_map(GuestAbi::addresses).filter(move |(alias, _)| is_there(alias)).map(|(_, address)| address)
}

/// The SCSI controller that libvirt puts a disk on, by the number of its target.
pub(crate) fn scsi_controller_of(target_number: usize) -> u32 {
    u32::try_from(target_number / SCSI_DISKS_PER_CONTROLLER).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

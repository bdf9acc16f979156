//! Controllers that libvirt would leave out, or choose otherwise than we need.
//!
//! SATA, IDE and floppy controllers, and PCI bridges, libvirt adds by itself.

use serde::Serialize;

use super::disk::Disk;

/// Targets that libvirt puts on one SCSI controller when it reads addresses from names: 16, less the controller's own.
const SCSI_DISKS_PER_CONTROLLER: usize = 15;

/// `<controller>`
#[derive(Debug, Serialize)]
pub(crate) struct Controller {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@index")]
    index: usize,
    #[serde(rename = "@model")]
    model: &'static str,
}

impl Controller {
    /// What the disks need.
    pub(crate) fn make_all(disks: &[Disk<'_>]) -> Vec<Self> {
        let with_usb = disks.iter().any(|disk| disk.bus() == "usb");
        // With no word on USB every guest gets a controller; the model `none` saves the polling of it, and its memory.
        let usb = Self { kind: "usb", index: 0, model: if with_usb { "qemu-xhci" } else { "none" } };
        // scsi, sata and usb share the names sda, sdb, ..., so that the last SCSI disk's place among all three counts.
        let sd_buses = disks.iter().map(Disk::bus).filter(|bus| matches!(*bus, "scsi" | "sata" | "usb"));
        let last_scsi = sd_buses.enumerate().filter(|(_, bus)| *bus == "scsi").last();
        let scsi = last_scsi.map_or(0, |(index, _)| index / SCSI_DISKS_PER_CONTROLLER + 1);
        // libvirt's own choice would be an emulated LSI controller, for which current guests have no driver.
        std::iter::once(usb).chain((0..scsi).map(|index| Self { kind: "scsi", index, model: "virtio-scsi" })).collect()
    }
}

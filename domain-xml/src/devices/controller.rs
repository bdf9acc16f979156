//! Controllers that libvirt would leave out, or choose otherwise than we need.
//!
//! SATA, IDE and floppy controllers, and PCI bridges, libvirt adds by itself.

use super::disk::Disk;
use crate::xml::XmlWriter;

/// Targets that libvirt puts on one SCSI controller when it reads addresses from names: 16, less the controller's own.
const SCSI_DISKS_PER_CONTROLLER: usize = 15;

/// `<controller>`
#[derive(Debug)]
pub(crate) struct Controller {
    kind: &'static str,
    index: usize,
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
    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        let controller = xml.element("controller").attribute("type", self.kind);
        controller.attribute("index", self.index).attribute("model", self.model).empty();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::tests::{Guest, elements};

    fn controllers(buses: &[&str]) -> Vec<String> {
        let disks: Vec<Value> = buses.iter().map(|bus| json!({"disk": {"bus": bus}})).collect();
        elements(&Guest::with_disks("q35", &disks).xml(), "controller").into_iter().map(str::to_owned).collect()
    }

    const NO_USB: &str = r#"<controller type="usb" index="0" model="none"/>"#;
    const USB: &str = r#"<controller type="usb" index="0" model="qemu-xhci"/>"#;
    const SCSI: &str = r#"<controller type="scsi" index="0" model="virtio-scsi"/>"#;
    const SECOND_SCSI: &str = r#"<controller type="scsi" index="1" model="virtio-scsi"/>"#;

    #[test]
    fn controllers_are_there_for_the_disks_that_need_them() {
        let mixed: Vec<_> = std::iter::repeat_n("sata", 14).chain(["usb", "scsi"]).collect();
        let cases: [(&[&str], &[&str]); 7] = [
            (&[], &[NO_USB]),
            (&["virtio", "sata"], &[NO_USB]),
            (&["usb"], &[USB]),
            (&["scsi"], &[NO_USB, SCSI]),
            (&["scsi"; 15], &[NO_USB, SCSI]),
            (&["scsi"; 16], &[NO_USB, SCSI, SECOND_SCSI]),
            (&mixed, &[USB, SCSI, SECOND_SCSI]),
        ];
        for (buses, expected) in cases {
            assert_eq!(controllers(buses), expected, "{buses:?}");
        }
    }
}

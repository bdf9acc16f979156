//! Disks, LUNs, floppies and CD-ROMs, in the user's order, which is the boot order.
//!
//! As in KubeVirt v0.5.0 a disk has no serial number, and its target is named after its bus and its place.
//!
//! Measured with libvirt 11.3 and QEMU 10.0.2, q35 and pc:
//! - `tray='open'` beside a source is forgotten at start, and the guest sees the medium. So an open tray is rendered as an empty drive, which is what
//!   KubeVirt v0.5.0's libvirt made of it. A drive on usb cannot be empty ("'usb' disk must not be empty") and keeps its medium; its guest sees a
//!   plain disk, since QEMU has no USB CD-ROM.
//! - libvirt refuses to define hard disks that are read-only on sata and ide, more than 4 devices on ide, and more than 2 floppies.
//! - Aliases of 72 characters, 30 virtio, 20 scsi and 7 sata disks, and a mix of all three start.

use std::ops::AddAssign as _;

use api::validated::{DiskBus, DiskDevice, Tray, ValidatedDisk, VolumeSource};
use serde::Serialize;

use super::alias::Alias;
use super::disk_source::{BackingStore, Source};
use crate::input::LayerKind;
use crate::{DomainInput, RenderError};

/// `<disk>`
#[derive(Debug, Serialize)]
pub(crate) struct Disk<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@device")]
    device: &'static str,
    driver: Driver,
    /// None is an empty drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source<'a>>,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    backing: Option<BackingStore<'a>>,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    readonly: Option<()>,
    boot: Boot,
    alias: Alias,
}

/// `<driver>`
#[derive(Debug, Serialize)]
struct Driver {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@type")]
    format: &'static str,
    /// A guest whose disk is full, or whose storage is gone, is paused and can be resumed; it does not lose writes.
    #[serde(rename = "@error_policy", skip_serializing_if = "Option::is_none")]
    error_policy: Option<&'static str>,
    /// A sector that cannot be read is the guest's to handle, as on real hardware.
    #[serde(rename = "@rerror_policy", skip_serializing_if = "Option::is_none")]
    rerror_policy: Option<&'static str>,
    /// What the guest trims is given back to the host.
    #[serde(rename = "@discard", skip_serializing_if = "Option::is_none")]
    discard: Option<&'static str>,
}

/// `<target dev='vda' bus='virtio'/>`
#[derive(Debug, Serialize)]
struct Target {
    #[serde(rename = "@dev")]
    dev: String,
    #[serde(rename = "@bus")]
    bus: &'static str,
    #[serde(rename = "@tray", skip_serializing_if = "Option::is_none")]
    tray: Option<&'static str>,
}

/// `<boot order='1'/>`
#[derive(Debug, Serialize)]
struct Boot {
    #[serde(rename = "@order")]
    order: usize,
}

/// How many targets of each prefix have been named; scsi, sata and usb share `sd`.
#[derive(Debug, Default)]
struct TargetNames {
    virtio: usize,
    scsi_like: usize,
    ide: usize,
    floppy: usize,
}

impl<'a> Disk<'a> {
    /// Every disk of the spec.
    pub(crate) fn make_all(input: &DomainInput<'a>) -> Result<Vec<Self>, RenderError> {
        let mut names = TargetNames::default();
        input.spec.disks.iter().enumerate().map(|(index, disk)| Self::make(input, index, disk, &mut names)).collect()
    }

    fn make(
        input: &DomainInput<'a>,
        index: usize,
        disk: &ValidatedDisk,
        names: &mut TargetNames,
    ) -> Result<Self, RenderError> {
        let missing = |volume: String| RenderError::MissingSource { disk: disk.name.clone(), volume };
        let volume = input.spec.volumes.get(disk.volume).ok_or_else(|| missing(disk.volume.to_string()))?;
        let layers = input.disk_sources.get(&volume.name).ok_or_else(|| missing(volume.name.clone()))?;
        let (device, readonly, tray) = match disk.device {
            DiskDevice::Disk { readonly, .. } => ("disk", readonly, None),
            DiskDevice::Lun { .. } if layers.top.kind == LayerKind::File => {
                return Err(RenderError::LunOnFile { disk: disk.name.clone() });
            }
            DiskDevice::Lun { readonly, .. } => ("lun", readonly, None),
            DiskDevice::Floppy { readonly, tray } => ("floppy", readonly, Some(tray)),
            DiskDevice::Cdrom { readonly, tray, .. } => ("cdrom", readonly, Some(tray)),
        };
        let readonly = readonly || matches!(volume.source, VolumeSource::PersistentVolumeClaim { read_only: true, .. });
        let target = names.next(disk.device, tray);
        let medium = (target.tray.is_none() || target.bus == DiskBus::Usb.as_str()).then_some(layers);
        let field = format_args!("disk_sources[{}]", volume.name);
        Ok(Self {
            kind: layers.top.kind.as_str(),
            device,
            driver: Driver::make(layers.top.format.as_str(), device == "disk" && !readonly),
            source: medium.map(|layers| Source::make(&field, &layers.top)).transpose()?,
            backing: medium.map(|layers| BackingStore::make(&field, layers)).transpose()?,
            target,
            readonly: readonly.then_some(()),
            boot: Boot { order: index + 1 },
            alias: Alias::named("disk", &disk.name),
        })
    }

    /// Name of the bus.
    pub(crate) fn bus(&self) -> &'static str {
        self.target.bus
    }
}

impl Driver {
    /// `writable_disk`: QEMU takes no policies for floppies, and a LUN's errors are its device's own.
    fn make(format: &'static str, writable_disk: bool) -> Self {
        Self {
            name: "qemu",
            format,
            error_policy: writable_disk.then_some("stop"),
            rerror_policy: writable_disk.then_some("report"),
            discard: writable_disk.then_some("unmap"),
        }
    }
}

impl TargetNames {
    fn next(&mut self, device: DiskDevice, tray: Option<Tray>) -> Target {
        let bus = match device {
            DiskDevice::Disk { bus, .. } | DiskDevice::Lun { bus, .. } | DiskDevice::Cdrom { bus, .. } => Some(bus),
            DiskDevice::Floppy { .. } => None,
        };
        let (prefix, count) = match bus {
            Some(DiskBus::Virtio) => ("vd", &mut self.virtio),
            Some(DiskBus::Scsi | DiskBus::Sata | DiskBus::Usb) => ("sd", &mut self.scsi_like),
            Some(DiskBus::Ide) => ("hd", &mut self.ide),
            None => ("fd", &mut self.floppy),
        };
        let dev = make_target_name(prefix, *count);
        count.add_assign(1);
        Target {
            dev,
            bus: bus.map_or("fdc", DiskBus::as_str),
            tray: tray.filter(|&tray| tray == Tray::Open).map(Tray::as_str),
        }
    }
}

/// `vda` to `vdz`, then `vdaa`: Linux' own scheme, and the one that libvirt reads addresses from.
fn make_target_name(prefix: &str, index: usize) -> String {
    const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(LETTERS[rest % 26]));
        rest /= 26;
    }
    prefix.chars().chain(letters.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tests::{Guest, elements};
    use crate::{DiskFormat, DiskLayer, DiskSource};

    /// The driver of a disk that the guest writes to.
    const WRITABLE: &str =
        r#"<driver name="qemu" type="raw" error_policy="stop" rerror_policy="report" discard="unmap"/>"#;
    const PLAIN: &str = r#"<driver name="qemu" type="raw"/>"#;
    const MEDIUM: &str = r#"<source file="/var/lib/ovm/vms/1/0.img"/><backingStore/>"#;

    #[test]
    fn each_device_on_each_bus() {
        let cases = [
            ("q35", json!({}), "disk", WRITABLE, MEDIUM, r#"<target dev="sda" bus="sata"/>"#, false),
            ("pc", json!({}), "disk", WRITABLE, MEDIUM, r#"<target dev="hda" bus="ide"/>"#, false),
            (
                "q35",
                json!({"disk": {"bus": "virtio"}}),
                "disk",
                WRITABLE,
                MEDIUM,
                r#"<target dev="vda" bus="virtio"/>"#,
                false,
            ),
            (
                "q35",
                json!({"disk": {"bus": "scsi"}}),
                "disk",
                WRITABLE,
                MEDIUM,
                r#"<target dev="sda" bus="scsi"/>"#,
                false,
            ),
            (
                "q35",
                json!({"disk": {"bus": "usb"}}),
                "disk",
                WRITABLE,
                MEDIUM,
                r#"<target dev="sda" bus="usb"/>"#,
                false,
            ),
            (
                "q35",
                json!({"disk": {"bus": "virtio", "readonly": true}}),
                "disk",
                PLAIN,
                MEDIUM,
                r#"<target dev="vda" bus="virtio"/>"#,
                true,
            ),
            ("q35", json!({"cdrom": {}}), "cdrom", PLAIN, MEDIUM, r#"<target dev="sda" bus="sata"/>"#, true),
            ("pc", json!({"cdrom": {}}), "cdrom", PLAIN, MEDIUM, r#"<target dev="hda" bus="ide"/>"#, true),
            (
                "q35",
                json!({"cdrom": {"bus": "scsi", "readonly": false}}),
                "cdrom",
                PLAIN,
                MEDIUM,
                r#"<target dev="sda" bus="scsi"/>"#,
                false,
            ),
            (
                "q35",
                json!({"cdrom": {"tray": "open"}}),
                "cdrom",
                PLAIN,
                "",
                r#"<target dev="sda" bus="sata" tray="open"/>"#,
                true,
            ),
            (
                "q35",
                json!({"cdrom": {"bus": "usb", "tray": "open"}}),
                "cdrom",
                PLAIN,
                MEDIUM,
                r#"<target dev="sda" bus="usb" tray="open"/>"#,
                true,
            ),
            ("q35", json!({"floppy": {}}), "floppy", PLAIN, MEDIUM, r#"<target dev="fda" bus="fdc"/>"#, false),
            (
                "q35",
                json!({"floppy": {"readonly": true, "tray": "open"}}),
                "floppy",
                PLAIN,
                "",
                r#"<target dev="fda" bus="fdc" tray="open"/>"#,
                true,
            ),
        ];
        for (machine, disk, device, driver, medium, target, readonly) in cases {
            let xml = Guest::with_disks(machine, std::slice::from_ref(&disk)).xml();
            let readonly = if readonly { "<readonly/>" } else { "" };
            let expected = format!(
                r#"<disk type="file" device="{device}">{driver}{medium}{target}{readonly}<boot order="1"/><alias name="ua-disk-d0"/></disk>"#
            );
            assert_eq!(elements(&xml, "disk"), [expected], "{machine} {disk}");
        }
    }

    #[test]
    fn a_lun_is_a_block_device_passed_through() {
        let mut guest = Guest::with_disks("q35", &[json!({"lun": {"bus": "scsi", "readonly": true}})]);
        let error = guest.render().expect_err("a file cannot be a lun");
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            ("LunNeedsBlockDevice", "disk d0: a lun needs a volume that is a block device")
        );
        guest.disk_sources.insert("d0".to_owned(), DiskSource::block("/dev/vg0/claim"));
        let expected = concat!(
            r#"<disk type="block" device="lun"><driver name="qemu" type="raw"/><source dev="/dev/vg0/claim"/><backingStore/>"#,
            r#"<target dev="sda" bus="scsi"/><readonly/><boot order="1"/><alias name="ua-disk-d0"/></disk>"#
        );
        assert_eq!(elements(&guest.xml(), "disk"), [expected]);
    }

    #[test]
    fn a_read_only_claim_makes_a_read_only_disk() {
        let domain = json!({"devices": {"disks": [{"name": "d", "volumeName": "v", "disk": {"bus": "virtio"}}]}});
        let claim = |read_only: bool| json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": read_only}}]);
        assert!(Guest::new(&domain, &claim(true)).xml().contains("<readonly/>"));
        assert!(!Guest::new(&domain, &claim(false)).xml().contains("<readonly/>"));
    }

    #[test]
    fn format_and_layers_are_those_that_were_prepared() {
        let mut guest = Guest::with_disks("q35", &[json!({"disk": {"bus": "virtio"}})]);
        let base = DiskLayer { kind: LayerKind::Block, path: "/dev/vg0/claim".into(), format: DiskFormat::Raw };
        guest
            .disk_sources
            .insert("d0".to_owned(), DiskSource::file("/var/lib/ovm/vms/1/0.qcow2", DiskFormat::Qcow2).over(base));
        let xml = guest.xml();
        let backing = r#"<backingStore type="block"><format type="raw"/><source dev="/dev/vg0/claim"/><backingStore/></backingStore>"#;
        let expected = format!(
            r#"type="qcow2" error_policy="stop" rerror_policy="report" discard="unmap"/><source file="/var/lib/ovm/vms/1/0.qcow2"/>{backing}"#
        );
        assert!(xml.contains(&expected), "{xml}");
    }

    #[test]
    fn targets_are_unique_across_buses_and_boot_in_order() {
        let buses = ["virtio", "sata", "scsi", "usb", "virtio", "sata"];
        let disks: Vec<_> = buses.iter().map(|bus| json!({"disk": {"bus": bus}})).collect();
        let xml = Guest::with_disks("q35", &disks).xml();
        let expected = ["vda", "sda", "sdb", "sdc", "vdb", "sdd"];
        let targets = expected.iter().zip(buses).map(|(dev, bus)| format!(r#"<target dev="{dev}" bus="{bus}"/>"#));
        let orders = (1..=6).map(|order| format!(r#"<boot order="{order}"/>"#));
        assert_eq!(elements(&xml, "target")[..6], targets.collect::<Vec<_>>());
        assert_eq!(elements(&xml, "boot"), orders.collect::<Vec<_>>());
    }

    #[test]
    fn target_names_go_on_past_z() {
        for (index, name) in
            [(0, "vda"), (25, "vdz"), (26, "vdaa"), (51, "vdaz"), (52, "vdba"), (701, "vdzz"), (702, "vdaaa")]
        {
            assert_eq!(make_target_name("vd", index), name);
        }
    }

    #[test]
    fn a_volume_that_was_not_prepared_is_named() {
        let mut guest = Guest::with_disks("q35", &[json!({})]);
        guest.disk_sources.clear();
        let error = guest.render().expect_err("nothing prepared");
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            ("MissingDiskSource", "disk d0: volume d0 has not been prepared")
        );
    }
}

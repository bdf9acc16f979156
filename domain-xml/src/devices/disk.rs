//! Disks, LUNs, floppies and CD-ROMs, in the user's order, which is the boot order.
//!
//! As in KubeVirt v0.5.0 a disk has no serial number, and its target is named after its bus and its place.
//!
//! Measured with libvirt 11.3 and QEMU 10.0.2, q35 and pc:
//! - `tray='open'` beside a source is forgotten at start, and the guest sees the medium. So an open tray is rendered as an empty drive, which is what
//!   KubeVirt v0.5.0's libvirt made of it. A drive on usb cannot be empty ("'usb' disk must not be empty") and keeps its medium; its guest sees a
//!   plain disk, since QEMU has no USB CD-ROM.
//! - libvirt refuses to define hard disks that are read-only on sata and ide, more than 4 devices on ide, and more than 2 floppies.
//! - Aliases of 71 characters, 200 virtio disks, 256 on scsi, and 256 on all buses together start; 256 on virtio are more than q35 has PCI slots for.
//! - A write that finds the host's disk full pauses the guest (`paused (I/O error)`, `domblkerror`: no space) on virtio, sata, scsi and usb.

use std::ops::AddAssign as _;

use api::validated::{DiskBus, DiskDevice, Tray, ValidatedDisk, VolumeSource};

use super::alias::Alias;
use super::disk_source::Layers;
use crate::input::LayerKind;
use crate::xml::XmlWriter;
use crate::{DomainInput, RenderError};

/// `<disk>`
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    kind: &'static str,
    device: &'static str,
    format: &'static str,
    /// None is an empty drive.
    medium: Option<Layers<'a>>,
    target: Target,
    readonly: bool,
    boot_order: usize,
    alias: Alias,
}

/// `<target dev='vda' bus='virtio'/>`
#[derive(Debug)]
struct Target {
    dev: String,
    bus: &'static str,
    tray: Option<&'static str>,
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
        let source = input.disk_sources.get(&volume.name).ok_or_else(|| missing(volume.name.clone()))?;
        let (device, readonly, tray) = match disk.device {
            DiskDevice::Disk { readonly, .. } => ("disk", readonly, None),
            DiskDevice::Lun { .. } if source.top.kind == LayerKind::File => {
                return Err(RenderError::LunOnFile { disk: disk.name.clone() });
            }
            DiskDevice::Lun { readonly, .. } => ("lun", readonly, None),
            DiskDevice::Floppy { readonly, tray } => ("floppy", readonly, Some(tray)),
            DiskDevice::Cdrom { readonly, tray, .. } => ("cdrom", readonly, Some(tray)),
        };
        let target = names.next(disk.device, tray);
        let layers = Layers::make(&format_args!("disk_sources[{}]", volume.name), source)?;
        Ok(Self {
            kind: source.top.kind.as_str(),
            device,
            format: source.top.format.as_str(),
            medium: (target.tray.is_none() || target.bus == DiskBus::Usb.as_str()).then_some(layers),
            target,
            readonly: readonly || matches!(volume.source, VolumeSource::PersistentVolumeClaim { read_only: true, .. }),
            boot_order: index + 1,
            alias: Alias::named("disk", &disk.name),
        })
    }

    /// Name of the bus.
    pub(crate) fn bus(&self) -> &'static str {
        self.target.bus
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        xml.element("disk").attribute("type", self.kind).attribute("device", self.device).children(|xml| {
            self.write_driver(xml);
            self.medium.iter().for_each(|layers| layers.write(xml));
            let target = xml.element("target").attribute("dev", &self.target.dev).attribute("bus", self.target.bus);
            target.optional("tray", self.target.tray).empty();
            if self.readonly {
                xml.element("readonly").empty();
            }
            xml.element("boot").attribute("order", self.boot_order).empty();
            self.alias.write(xml);
        });
    }

    fn write_driver(&self, xml: &mut XmlWriter) {
        // QEMU takes no policies for floppies, and a LUN's errors are its device's own.
        let writable = (self.device == "disk" && !self.readonly).then_some(());
        xml.element("driver")
            .attribute("name", "qemu")
            .attribute("type", self.format)
            // A guest whose disk is full, or whose storage is gone, is paused and can be resumed; it does not lose writes.
            .optional("error_policy", writable.map(|()| "stop"))
            // A sector that cannot be read is the guest's to handle, as on real hardware.
            .optional("rerror_policy", writable.map(|()| "report"))
            // What the guest trims is given back to the host.
            .optional("discard", writable.map(|()| "unmap"))
            .empty();
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
mod tests;

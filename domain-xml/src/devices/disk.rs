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

use std::collections::BTreeSet;

use api::validated::{DiskBus, DiskDevice, Tray, ValidatedDisk, VolumeSource};

use super::alias::Alias;
use super::controller::scsi_controller_of;
use super::disk_source::Layers;
use super::place::Place;
use crate::input::LayerKind;
use crate::xml::XmlWriter;
use crate::{DeviceAddress, DiskAccess, DomainInput, RenderError};

/// Ports of one SATA controller.
const SATA_DISKS_PER_CONTROLLER: usize = 6;

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
    /// Others write to it too.
    shared: bool,
    boot_order: usize,
    alias: String,
    place: Place<'a>,
}

/// `<target dev='vda' bus='virtio'/>`
#[derive(Debug)]
struct Target {
    dev: String,
    bus: &'static str,
    tray: Option<&'static str>,
}

/// Targets that are taken: those on record by disks that are still on the same bus, then each as it is named. scsi, sata and usb share `sd`.
///
/// libvirt reads the address of a disk on a controller from its target's name, and does not look whether another disk has it.
#[derive(Debug, Default)]
struct TargetNames {
    taken: BTreeSet<String>,
}

impl<'a> Disk<'a> {
    /// Every disk of the spec.
    pub(crate) fn make_all(input: &DomainInput<'a>) -> Result<Vec<Self>, RenderError> {
        let taken =
            input.spec.disks.iter().filter_map(|disk| recorded_target(input, disk)).map(str::to_owned).collect();
        let mut names = TargetNames { taken };
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
        let readonly = readonly
            || matches!(source.access, DiskAccess::ReadOnly | DiskAccess::SharedReadOnly)
            || matches!(volume.source, VolumeSource::PersistentVolumeClaim { read_only: true, .. });
        if let DiskDevice::Disk { bus: bus @ (DiskBus::Sata | DiskBus::Ide), .. } = disk.device
            && readonly
        {
            return Err(RenderError::ReadOnlyBus {
                disk: disk.name.clone(),
                volume: volume.name.clone(),
                bus: bus.as_str(),
            });
        }
        let recorded = recorded_target(input, disk);
        let target = names.next(disk.device, tray, recorded);
        // A disk on another bus than before is another device to the guest.
        let alias = Alias::named("disk", &disk.name);
        let alias_text = alias.as_str().to_owned();
        let place = if recorded.is_some() { Place::of(input, alias) } else { Place::free(alias) };
        let layers = Layers::make(&format_args!("disk_sources[{}]", volume.name), source)?;
        Ok(Self {
            kind: source.top.kind.as_str(),
            device,
            format: source.top.format.as_str(),
            medium: (target.tray.is_none() || target.bus == DiskBus::Usb.as_str()).then_some(layers),
            target,
            readonly,
            // Of a reader too: QEMU locks a file against writers unless it is told of them.
            shared: matches!(source.access, DiskAccess::Shared | DiskAccess::SharedReadOnly),
            boot_order: index + 1,
            alias: alias_text,
            place,
        })
    }

    /// Name of the bus.
    pub(crate) fn bus(&self) -> &'static str {
        self.target.bus
    }

    pub(crate) fn alias(&self) -> &str {
        &self.alias
    }

    /// The address on record.
    pub(crate) fn address(&self) -> Option<&DeviceAddress> {
        self.place.address()
    }

    /// Index of the SCSI controller that the disk is on, if it is on one.
    pub(crate) fn scsi_controller(&self) -> Option<u32> {
        match (self.target.bus, self.address()) {
            ("scsi", Some(DeviceAddress::Drive { controller, .. })) => Some(u32::from(*controller)),
            ("scsi", _) => Some(scsi_controller_of(target_number(&self.target.dev))),
            _ => None,
        }
    }

    /// Whether libvirt adds a SATA controller for the disk, beyond the machine's own.
    pub(crate) fn needs_another_sata_controller(&self) -> bool {
        self.target.bus == "sata"
            && self.address().is_none()
            && target_number(&self.target.dev) >= SATA_DISKS_PER_CONTROLLER
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
            if self.shared {
                xml.element("shareable").empty();
            }
            xml.element("boot").attribute("order", self.boot_order).empty();
            self.place.write(xml);
        });
    }

    fn write_driver(&self, xml: &mut XmlWriter) {
        // QEMU takes no policies for floppies, and a LUN's errors are its device's own.
        let writable = (self.device == "disk" && !self.readonly).then_some(());
        xml.element("driver")
            .attribute("name", "qemu")
            .attribute("type", self.format)
            // What one guest writes the others are to read: not from the host's cache, nor later.
            .optional("cache", self.shared.then_some("none"))
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
    /// The recorded target, or the first that is free.
    fn next(&mut self, device: DiskDevice, tray: Option<Tray>, recorded: Option<&str>) -> Target {
        let prefix = prefix_of(device);
        let is_free = |name: &String| !self.taken.contains(name);
        let fresh =
            || (0..=self.taken.len()).map(|index| make_target_name(prefix, index)).find(is_free).unwrap_or_default();
        let dev = recorded.map_or_else(fresh, str::to_owned);
        self.taken.insert(dev.clone());
        Target { dev, bus: bus_of(device), tray: tray.filter(|&tray| tray == Tray::Open).map(Tray::as_str) }
    }
}

fn bus_of(device: DiskDevice) -> &'static str {
    match device {
        DiskDevice::Disk { bus, .. } | DiskDevice::Lun { bus, .. } | DiskDevice::Cdrom { bus, .. } => bus.as_str(),
        DiskDevice::Floppy { .. } => "fdc",
    }
}

fn prefix_of(device: DiskDevice) -> &'static str {
    match device {
        DiskDevice::Disk { bus, .. } | DiskDevice::Lun { bus, .. } | DiskDevice::Cdrom { bus, .. } => match bus {
            DiskBus::Virtio => "vd",
            DiskBus::Scsi | DiskBus::Sata | DiskBus::Usb => "sd",
            DiskBus::Ide => "hd",
        },
        DiskDevice::Floppy { .. } => "fd",
    }
}

/// The target on record of a disk that is still on its bus.
fn recorded_target<'a>(input: &DomainInput<'a>, disk: &ValidatedDisk) -> Option<&'a str> {
    let known = input.settled()?.device(Alias::named("disk", &disk.name).as_str())?;
    let target = known.target.as_deref()?;
    (known.bus.as_deref() == Some(bus_of(disk.device)) && target.starts_with(prefix_of(disk.device))).then_some(target)
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

/// The number that [`make_target_name`] made a name from.
fn target_number(name: &str) -> usize {
    let letters = name.bytes().skip(2).map(|letter| usize::from(letter.saturating_sub(b'a')) + 1);
    letters.fold(0, |number, digit| number * 26 + digit).saturating_sub(1)
}

#[cfg(test)]
mod tests;

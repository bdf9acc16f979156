//! Disks, LUNs, floppies and CD-ROMs, in the user's order, which is the boot order.
//!
//! As in KubeVirt v0.5.0 a disk has no serial number, and its target is named after its bus and its place.

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
    source: Source<'a>,
    #[serde(rename = "backingStore")]
    backing: BackingStore<'a>,
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
        let field = format_args!("disk_sources[{}]", volume.name);
        Ok(Self {
            kind: layers.top.kind.as_str(),
            device,
            driver: Driver::make(layers.top.format.as_str(), device == "disk" && !readonly),
            source: Source::make(&field, &layers.top)?,
            backing: BackingStore::make(&field, layers)?,
            target: names.next(disk.device, tray),
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

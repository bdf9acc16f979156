//! Rules over disks and volumes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::domain::{MachineFamily, word};
use super::{Faults, given, is_dns_subdomain};
use crate::v1alpha1::{CloudInitNoCloudSource, Disk, VirtualMachineSpec, Volume};
use crate::validated::{DiskBus, DiskDevice, Tray, UserData, ValidatedDisk, ValidatedVolume, VolumeSource};

/// KubeVirt v0.5.0's limit on disks and on volumes.
const MAX_ELEMENTS: usize = 256;
/// KubeVirt v0.5.0's limit on user data, decoded.
const MAX_USER_DATA_BYTES: usize = 2048;
/// Sizes of disks are whole sectors.
const SECTOR_BYTES: u64 = 512;
/// A machine has one floppy controller, with two drives.
const MAX_FLOPPIES: usize = 2;
/// An i440fx machine has two IDE channels, with two devices each.
const MAX_IDE: usize = 4;
/// Longest image name that registries take: host, path, tag and digest.
const MAX_IMAGE_NAME: usize = 512;

pub(super) fn volumes(spec: &VirtualMachineSpec, path: &str, faults: &mut Faults) -> Vec<ValidatedVolume> {
    let list = spec.volumes.as_deref().unwrap_or_default();
    let base = format!("{path}.volumes");
    if list.len() > MAX_ELEMENTS {
        faults.invalid(&base, format!("{base} list exceeds the {MAX_ELEMENTS} element limit in length"));
        return Vec::new();
    }
    let mut seen = BTreeMap::new();
    let mut validated = Vec::with_capacity(list.len());
    for (index, volume) in list.iter().enumerate() {
        let field = format!("{base}[{index}]");
        if let Some(other) = seen.get(volume.name.as_str()) {
            faults
                .invalid(format!("{field}.name"), format!("{field} and {base}[{other}] must not have the same Name."));
        } else {
            seen.insert(volume.name.as_str(), index);
        }
        faults.dns_label(&format!("{field}.name"), &volume.name);
        if let Some(source) = source(volume, &field, faults) {
            validated.push(ValidatedVolume { name: volume.name.clone(), source });
        }
    }
    validated
}

fn source(volume: &Volume, field: &str, faults: &mut Faults) -> Option<VolumeSource> {
    let count = usize::from(volume.persistent_volume_claim.is_some())
        + usize::from(volume.cloud_init_no_cloud.is_some())
        + usize::from(volume.registry_disk.is_some())
        + usize::from(volume.ephemeral.is_some())
        + usize::from(volume.empty_disk.is_some());
    if count != 1 {
        faults.invalid(field, format!("{field} must have exactly one source type set"));
        return None;
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        object_name(&format!("{field}.persistentVolumeClaim.claimName"), &claim.claim_name, faults);
        return Some(VolumeSource::PersistentVolumeClaim {
            claim_name: claim.claim_name.clone(),
            read_only: claim.read_only.unwrap_or(false),
        });
    }
    if let Some(ephemeral) = &volume.ephemeral {
        let Some(claim) = &ephemeral.persistent_volume_claim else {
            let field = format!("{field}.ephemeral.persistentVolumeClaim");
            faults.invalid(&field, format!("{field} must name the claim to read from."));
            return None;
        };
        object_name(&format!("{field}.ephemeral.persistentVolumeClaim.claimName"), &claim.claim_name, faults);
        return Some(VolumeSource::Ephemeral { claim_name: claim.claim_name.clone() });
    }
    if let Some(image) = &volume.registry_disk {
        image_name(&format!("{field}.registryDisk.image"), &image.image, faults);
        let secret = given(image.image_pull_secret.as_ref());
        if let Some(name) = secret {
            object_name(&format!("{field}.registryDisk.imagePullSecret"), name, faults);
        }
        return Some(VolumeSource::RegistryDisk {
            image: image.image.clone(),
            image_pull_secret: secret.map(str::to_owned),
        });
    }
    if let Some(empty) = &volume.empty_disk {
        let field = format!("{field}.emptyDisk.capacity");
        return match empty.capacity.to_units() {
            Ok(0) => {
                faults.invalid(&field, format!("{field} must be more than 0."));
                None
            }
            Ok(bytes) => Some(VolumeSource::EmptyDisk { capacity_bytes: bytes.div_ceil(SECTOR_BYTES) * SECTOR_BYTES }),
            Err(error) => {
                faults.invalid(&field, format!("{field} {error}."));
                None
            }
        };
    }
    let seed = volume.cloud_init_no_cloud.as_ref()?;
    user_data(seed, &format!("{field}.cloudInitNoCloud"), faults).map(VolumeSource::CloudInitNoCloud)
}

fn user_data(seed: &CloudInitNoCloudSource, field: &str, faults: &mut Faults) -> Option<UserData> {
    let secret = seed.secret_ref.as_ref().map(|s| s.name.as_str()).filter(|name| !name.is_empty());
    let base64 = given(seed.user_data_base64.as_ref());
    let plain = given(seed.user_data.as_ref());
    let bytes = match (secret, base64, plain) {
        (Some(name), None, None) => {
            object_name(&format!("{field}.secretRef.name"), name, faults);
            return Some(UserData::Secret { name: name.to_owned() });
        }
        (None, Some(text), None) => {
            let Ok(bytes) = STANDARD.decode(text) else {
                let field = format!("{field}.userDataBase64");
                faults.invalid(&field, format!("{field} is not a valid base64 value."));
                return None;
            };
            bytes
        }
        (None, None, Some(text)) => text.as_bytes().to_vec(),
        _ => {
            faults.invalid(field, format!("{field} must have one exactly one userdata source set."));
            return None;
        }
    };
    if bytes.len() > MAX_USER_DATA_BYTES {
        faults.invalid(field, format!("{field} userdata exceeds {MAX_USER_DATA_BYTES} byte limit"));
        return None;
    }
    Some(UserData::Inline(bytes))
}

fn object_name(field: &str, name: &str, faults: &mut Faults) {
    if !is_dns_subdomain(name) {
        faults.invalid(field, format!("{field} '{name}' is not the name of an object."));
    }
}

fn image_name(field: &str, name: &str, faults: &mut Faults) {
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@'));
    if name.is_empty() || name.len() > MAX_IMAGE_NAME || !fits {
        faults.invalid(
            field,
            format!("{field} '{name}' is not the name of an image, such as example.org/disks/debian:12."),
        );
    }
}

pub(super) fn disks(
    spec: &VirtualMachineSpec,
    path: &str,
    machine: MachineFamily,
    faults: &mut Faults,
) -> Vec<ValidatedDisk> {
    let list = spec.domain.devices.disks.as_deref().unwrap_or_default();
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let base = format!("{path}.domain.devices.disks");
    if list.len() > MAX_ELEMENTS {
        faults.invalid(&base, format!("{base} list exceeds the {MAX_ELEMENTS} element limit in length"));
        return Vec::new();
    }
    let mut names = BTreeMap::new();
    let mut used = BTreeMap::new();
    let mut room = Room { floppies: MAX_FLOPPIES, ide: MAX_IDE };
    let mut validated = Vec::with_capacity(list.len());
    for (index, disk) in list.iter().enumerate() {
        let field = format!("{base}[{index}]");
        if let Some(other) = names.get(disk.name.as_str()) {
            faults
                .invalid(format!("{field}.name"), format!("{field} and {base}[{other}] must not have the same Name."));
        } else {
            names.insert(disk.name.as_str(), index);
        }
        faults.dns_label(&format!("{field}.name"), &disk.name);
        if let Some(other) = used.get(disk.volume_name.as_str()) {
            faults.invalid(
                format!("{field}.volumeName"),
                format!("{field} and {base}[{other}] reference the same volumeName."),
            );
        } else {
            used.insert(disk.volume_name.as_str(), index);
        }
        let volume = volumes.iter().position(|volume| volume.name == disk.volume_name);
        if volume.is_none() {
            let field = format!("{field}.volumeName");
            faults.invalid(&field, format!("{field} '{}' not found.", disk.volume_name));
        }
        let source = volume.and_then(|index| volumes.get(index));
        let device = device(disk, source, &field, machine, faults);
        if let Some(device) = device {
            room.take(device, &field, faults);
            refusals(device, &field, faults);
        }
        if let (Some(device), Some(volume)) = (device, volume) {
            validated.push(ValidatedDisk { name: disk.name.clone(), volume, device });
        }
    }
    validated
}

fn device(
    disk: &Disk,
    volume: Option<&Volume>,
    field: &str,
    machine: MachineFamily,
    faults: &mut Faults,
) -> Option<DiskDevice> {
    let targets = usize::from(disk.disk.is_some())
        + usize::from(disk.lun.is_some())
        + usize::from(disk.floppy.is_some())
        + usize::from(disk.cdrom.is_some());
    if targets > 1 {
        faults.invalid(field, format!("{field} can only have a single target type defined"));
        return None;
    }
    let default_bus = match machine {
        MachineFamily::Q35 => DiskBus::Sata,
        MachineFamily::Pc => DiskBus::Ide,
    };
    if let Some(lun) = &disk.lun {
        if volume.is_some_and(|volume| volume.persistent_volume_claim.is_none()) {
            let field = format!("{field}.lun");
            faults.invalid(&field, format!("{field} can only be mapped to a PersistentVolumeClaim volume."));
        }
        let bus = bus(lun.bus.as_ref(), &format!("{field}.lun"), machine, &[DiskBus::Scsi, DiskBus::Virtio], faults);
        return Some(DiskDevice::Lun { bus: bus.unwrap_or(DiskBus::Scsi), readonly: lun.readonly.unwrap_or(false) });
    }
    if let Some(floppy) = &disk.floppy {
        let tray = tray(floppy.tray.as_ref(), &format!("{field}.floppy"), faults);
        return Some(DiskDevice::Floppy { readonly: floppy.readonly.unwrap_or(false), tray });
    }
    if let Some(cdrom) = &disk.cdrom {
        let field = format!("{field}.cdrom");
        let buses = [DiskBus::Sata, DiskBus::Scsi, DiskBus::Ide, DiskBus::Usb];
        let bus = bus(cdrom.bus.as_ref(), &field, machine, &buses, faults);
        return Some(DiskDevice::Cdrom {
            bus: bus.unwrap_or(default_bus),
            readonly: cdrom.readonly.unwrap_or(true),
            tray: tray(cdrom.tray.as_ref(), &field, faults),
        });
    }
    let wire = disk.disk.clone().unwrap_or_default();
    let bus = bus(wire.bus.as_ref(), &format!("{field}.disk"), machine, DiskBus::ALL, faults);
    Some(DiskDevice::Disk { bus: bus.unwrap_or(default_bus), readonly: wire.readonly.unwrap_or(false) })
}

/// Places that are left for devices of a kind that cannot have more.
struct Room {
    floppies: usize,
    ide: usize,
}

impl Room {
    /// Takes the place of one device.
    fn take(&mut self, device: DiskDevice, field: &str, faults: &mut Faults) {
        let (left, limit, what) = match device {
            DiskDevice::Floppy { .. } => (&mut self.floppies, MAX_FLOPPIES, "floppy drives"),
            DiskDevice::Disk { bus: DiskBus::Ide, .. } | DiskDevice::Cdrom { bus: DiskBus::Ide, .. } => {
                (&mut self.ide, MAX_IDE, "IDE devices")
            }
            DiskDevice::Disk { .. } | DiskDevice::Lun { .. } | DiskDevice::Cdrom { .. } => return,
        };
        match left.checked_sub(1) {
            Some(rest) => *left = rest,
            None => faults.invalid(field, format!("{field} is one too many: a machine has at most {limit} {what}.")),
        }
    }
}

/// Settings that libvirt refuses on a bus.
fn refusals(device: DiskDevice, field: &str, faults: &mut Faults) {
    match device {
        DiskDevice::Disk { bus: bus @ (DiskBus::Sata | DiskBus::Ide), readonly: true } => {
            let field = format!("{field}.disk.readonly");
            faults.invalid(&field, format!("{field} cannot be true on bus '{bus}'; use bus virtio, scsi or usb."));
        }
        DiskDevice::Cdrom { bus: DiskBus::Usb, tray: Tray::Open, .. } => {
            let field = format!("{field}.cdrom.tray");
            faults.invalid(&field, format!("{field} cannot be open on bus 'usb'; use bus sata or scsi."));
        }
        DiskDevice::Disk { .. } | DiskDevice::Lun { .. } | DiskDevice::Floppy { .. } | DiskDevice::Cdrom { .. } => {}
    }
}

fn bus(
    text: Option<&String>,
    field: &str,
    machine: MachineFamily,
    allowed: &[DiskBus],
    faults: &mut Faults,
) -> Option<DiskBus> {
    let field = format!("{field}.bus");
    let bus = word(given(text), &field, allowed, DiskBus::as_str, faults)?;
    if bus == DiskBus::Ide && machine == MachineFamily::Q35 {
        faults.invalid(&field, format!("{field} 'ide' does not exist on a q35 machine; use sata, or machine.type pc."));
    }
    Some(bus)
}

fn tray(text: Option<&String>, field: &str, faults: &mut Faults) -> Tray {
    word(given(text), &format!("{field}.tray"), Tray::ALL, Tray::as_str, faults).unwrap_or(Tray::Closed)
}

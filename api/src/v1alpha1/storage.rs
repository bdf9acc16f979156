//! Disks, and the volumes that they are made from.

use std::fmt;

use k8s_openapi::api::core::v1::LocalObjectReference;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// A disk of the guest. At most one of `disk`, `lun`, `floppy` and `cdrom`; `disk` if none is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Name of the disk, unique among the disks of the guest.
    pub name: String,
    /// Name of the volume with the disk's content.
    pub volume_name: String,
    /// A hard disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTarget>,
    /// A SCSI device passed through. Needs a persistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<LunTarget>,
    /// A floppy disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floppy: Option<FloppyTarget>,
    /// A CD-ROM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<CdRomTarget>,
}

/// A hard disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskTarget {
    /// Bus of the disk: `virtio`, `sata`, `scsi`, `ide` or `usb`. `sata` on q35 if unset, else `ide`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Whether the guest may only read. False if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
}

/// A SCSI device passed through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LunTarget {
    /// Bus of the device: `scsi` (the default) or `virtio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Whether the guest may only read. False if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
}

/// A floppy disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FloppyTarget {
    /// Whether the guest may only read. False if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// State of the tray: `open` or `closed`. `closed` if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tray: Option<String>,
}

/// A CD-ROM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CdRomTarget {
    /// Bus of the device: `sata`, `scsi`, `ide` or `usb`. `sata` on q35 if unset, else `ide`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Whether the guest may only read. True if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// State of the tray: `open` or `closed`. `closed` if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tray: Option<String>,
}

/// Where a disk's content comes from. Exactly one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Name of the volume, unique among the volumes of the guest.
    pub name: String,
    /// A claim in the guest's namespace. The guest writes to it directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSource>,
    /// A small disk with user data, for cloud-init in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init_no_cloud: Option<CloudInitNoCloudSource>,
    /// A disk from an image. What the guest writes ends with the VirtualMachine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_disk: Option<RegistryDiskSource>,
    /// A claim that is only read; what the guest writes ends with the VirtualMachine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralSource>,
    /// An empty disk that ends with the VirtualMachine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_disk: Option<EmptyDiskSource>,
}

/// A claim in the guest's namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimSource {
    /// Name of the claim.
    pub claim_name: String,
    /// Whether the guest may only read. False if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
}

/// User data for cloud-init. Exactly one of `secretRef`, `userDataBase64` and `userData`; at most 2048 bytes decoded.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInitNoCloudSource {
    /// A Secret in the guest's namespace with the user data under key `userdata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
    /// User data, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_base64: Option<String>,
    /// User data as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
}

/// User data may hold passwords and keys, and whole objects are printed in logs: only its length is shown.
impl fmt::Debug for CloudInitNoCloudSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |text: &Option<String>| text.as_ref().map(|text| format!("{} bytes", text.len()));
        f.debug_struct("CloudInitNoCloudSource")
            .field("secret_ref", &self.secret_ref)
            .field("user_data_base64", &length(&self.user_data_base64))
            .field("user_data", &length(&self.user_data))
            .finish()
    }
}

/// A disk from an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryDiskSource {
    /// Name of the image, such as `kubevirt/cirros-registry-disk-demo:latest`.
    pub image: String,
    /// Secret in the guest's namespace with the registry's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secret: Option<String>,
}

/// A claim that is only read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralSource {
    /// The claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSource>,
}

/// An empty disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDiskSource {
    /// Size of the disk.
    pub capacity: Quantity,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_user_data_is_in_no_debug_output() {
        let seed = CloudInitNoCloudSource {
            user_data: Some("password: hunter2".to_owned()),
            user_data_base64: Some("aHVudGVyMg==".to_owned()),
            ..CloudInitNoCloudSource::default()
        };
        let printed = format!("{:?}", Volume { cloud_init_no_cloud: Some(seed), ..Volume::default() });
        assert!(!printed.contains("hunter2") && !printed.contains("aHVud"), "{printed}");
        assert!(printed.contains("17 bytes"), "{printed}");
    }
}

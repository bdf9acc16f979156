//! The guest ABI on the wire: what a guest sees of its machine, and must see again at every start.
//!
//! ```text
//! ControllerRevision.data: AbiRecord ─ at binding ─> VM.status.abi ─ libvirt settles ─> VM.status.abi ─> next ControllerRevision
//!                                                                                                    └─> OVM.status.abi (a summary)
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The guest ABI in a status: of a VirtualMachine, all of it; of an OfflineVirtualMachine, which record counts, and the part that people ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbiStatus {
    /// Number of the ControllerRevision that this comes from; none before the first. A VirtualMachine keeps the one that it was bound with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// SHA-256 over the record, in hex. A VirtualMachine has one as soon as there is a record, or its guest has been defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Firmware (SMBIOS) UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_uuid: Option<String>,
    /// SMBIOS serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Machine type as libvirt resolved it, such as `pc-q35-10.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// CPU model as libvirt decided it, such as `qemu64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Every device, by alias. Always empty in an OfflineVirtualMachine's status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub devices: Vec<AbiDevice>,
}

/// One device, as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbiDevice {
    /// Stable name: `ua-disk-<disk>`, `ua-net0`, `ua-watchdog-<name>` and the like; of a controller `ua-<type>-<index>`, such as `ua-pci-3`.
    pub alias: String,
    /// Model of a network card or a controller, in libvirt's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Bus of a disk: virtio, sata, scsi, ide, usb or fdc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Target of a disk, such as `vda`. The guest does not see it; libvirt's tools do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Address: `pci:0000:02:01.0`, `drive:CONTROLLER.BUS.TARGET.UNIT` or `usb:BUS.PORT`. None where the machine decides it, as for an ISA serial port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Hardware address of a network card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Chassis number of a PCI port or bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub chassis: Option<u32>,
    /// Port number of a PCI Express port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub port: Option<u32>,
}

/// The record: `data` of a ControllerRevision. The guest ABI as it was defined once, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AbiRecord {
    /// Version of this document: [`AbiRecord::VERSION`].
    pub version: u32,
    /// Firmware (SMBIOS) UUID.
    pub firmware_uuid: String,
    /// SMBIOS serial number; none where the guest sees none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Machine type as libvirt resolved it.
    pub machine_type: String,
    /// CPU model as libvirt decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Every device, by alias.
    #[serde(default)]
    pub devices: Vec<AbiDevice>,
}

//! Everything that a domain is rendered from. Nothing else is looked at: the same input gives the same XML.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use api::validated::ValidatedSpec;
use thiserror::Error;
use uuid::Uuid;

use crate::{GuestAbi, Metadata};

/// Model of the network card where the installation says nothing: every guest has a driver, as in KubeVirt v0.5.0.
pub const DEFAULT_NIC_MODEL: &str = "e1000";
/// Translation cache of an emulated guest in MiB where the installation says nothing. QEMU's own default is 1 GiB, more than most guests' memory.
pub const DEFAULT_TB_CACHE_MIB: u32 = 128;

/// All that a domain is rendered from: what the user asked for, and what its node and installation decided.
#[derive(Clone, Debug)]
pub struct DomainInput<'a> {
    /// What the user asked for.
    pub spec: &'a ValidatedSpec,
    /// Whose domain it is. Its name is made of namespace and name.
    pub metadata: &'a Metadata,
    /// UUID of the domain and of the guest's SMBIOS table.
    pub firmware_uuid: Uuid,
    /// Machine type as libvirt resolved it, such as `pc-q35-10.0`.
    pub machine_type: &'a str,
    /// KVM, or QEMU's emulation.
    pub acceleration: Acceleration,
    /// QEMU's binary, as libvirt's capabilities name it.
    pub emulator: &'a Path,
    /// The prepared source of each volume, by the volume's name.
    pub disk_sources: &'a BTreeMap<String, DiskSource>,
    /// What the guest's network card is attached to.
    pub network: &'a Network,
    /// Model of the network card; [`DEFAULT_NIC_MODEL`] unless the installation says otherwise.
    pub nic_model: &'a str,
    /// The ABI on record; none for a guest that was never defined.
    pub abi: Option<&'a GuestAbi>,
    /// File to which the guest's serial console is copied.
    pub console_log: &'a Path,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's emulation (TCG).
    Emulation {
        /// Most memory that translated code may take, in MiB.
        tb_cache_mib: u32,
    },
}

/// Where the content of a volume lies on the node: its newest layer, and the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSource {
    /// The layer that the guest reads and writes.
    pub top: DiskLayer,
    /// The layers below, nearest first; none if `top` stands alone. Written out so that QEMU never follows a name inside an image.
    pub backing: Vec<DiskLayer>,
    /// Who else has the disk.
    pub access: DiskAccess,
}

/// Who else has a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DiskAccess {
    /// Nobody.
    #[default]
    Exclusive,
    /// Others that only read, as this guest does, whatever its spec says.
    ReadOnly,
    /// Others that write, as this guest may.
    Shared,
    /// Others that write, while this guest only reads.
    SharedReadOnly,
}

/// One layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskLayer {
    /// Whether the layer is a file or a block device.
    pub kind: LayerKind,
    /// Absolute path.
    pub path: PathBuf,
    /// Format of the content, as recorded at import; never probed.
    pub format: DiskFormat,
}

/// What holds a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// A file.
    File,
    /// A block device.
    Block,
}

/// Format of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskFormat {
    /// The bytes themselves.
    Raw,
    /// QEMU's copy on write format.
    Qcow2,
}

/// What a guest's network card is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// QEMU's own network: works everywhere, reachable from nowhere.
    User,
    /// No network card.
    None,
    /// A network of libvirt, by name.
    Libvirt(String),
    /// A bridge of the host, by name.
    Bridge(String),
}

/// A text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("network {text:?} is none of user, none, libvirt:NAME, bridge:NAME")]
pub struct NetworkError {
    /// What was given.
    pub text: String,
}

impl<'a> DomainInput<'a> {
    /// The ABI on record, as far as it is about this machine: on one of another family no device can be where it was.
    pub(crate) fn settled(&self) -> Option<&'a GuestAbi> {
        self.abi.filter(|abi| abi.fits(self.machine_type))
    }
}

impl DiskSource {
    /// A file that stands alone.
    pub fn file(path: impl Into<PathBuf>, format: DiskFormat) -> Self {
        Self {
            top: DiskLayer { kind: LayerKind::File, path: path.into(), format },
            backing: Vec::new(),
            access: DiskAccess::Exclusive,
        }
    }

    /// A block device with the content as it is.
    pub fn block(path: impl Into<PathBuf>) -> Self {
        Self {
            top: DiskLayer { kind: LayerKind::Block, path: path.into(), format: DiskFormat::Raw },
            backing: Vec::new(),
            access: DiskAccess::Exclusive,
        }
    }

    /// This source, over one more layer.
    #[must_use]
    pub fn over(mut self, layer: DiskLayer) -> Self {
        self.backing.push(layer);
        self
    }
}

impl DiskFormat {
    /// The format's name in domain XML and for `qemu-img`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl LayerKind {
    /// The value of domain XML's attribute `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Block => "block",
        }
    }
}

impl Acceleration {
    /// The value of domain XML's attribute `type`.
    pub fn domain_type(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulation { .. } => "qemu",
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads the flag `--network` and `VM.status.network`.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let named =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        match text.split_once(':') {
            None if text == "user" => Ok(Self::User),
            None if text == "none" => Ok(Self::None),
            Some(("libvirt", name)) if named(name) => Ok(Self::Libvirt(name.to_owned())),
            Some(("bridge", name)) if named(name) => Ok(Self::Bridge(name.to_owned())),
            _ => Err(NetworkError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("user"),
            Self::None => f.write_str("none"),
            Self::Libvirt(name) => write!(f, "libvirt:{name}"),
            Self::Bridge(name) => write!(f, "bridge:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_and_print_alike() {
        for text in ["user", "none", "libvirt:default", "bridge:br0", "bridge:br-1.2_x"] {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn other_networks_are_refused() {
        for text in [
            "",
            "User",
            "user:",
            "none:x",
            "libvirt",
            "libvirt:",
            "bridge:",
            "bridge:a b",
            "bridge:<x",
            "tap:x",
            "bridge:a:b",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError { text: text.to_owned() }));
        }
    }
}

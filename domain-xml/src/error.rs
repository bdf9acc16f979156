//! Why a domain could not be rendered.

use std::path::PathBuf;

use thiserror::Error;

/// Why a domain could not be rendered. From a validated spec and prepared disks only a fault in our own node facts can come out here.
#[derive(Debug, Error)]
pub enum RenderError {
    /// A string has a character that XML 1.0 cannot carry.
    #[error("field {field} has character U+{code:04X}, which domain XML cannot carry")]
    IllegalCharacter {
        /// Which input.
        field: String,
        /// The character's code point.
        code: u32,
    },
    /// A path is relative, has `.`, `..` or an empty part in it, or is no text.
    #[error("field {field} is not a plain absolute path: {path:?}")]
    IllegalPath {
        /// Which input.
        field: String,
        /// The path.
        path: PathBuf,
    },
    /// A disk names a volume for which no source was prepared.
    #[error("disk {disk}: volume {volume} has not been prepared")]
    MissingSource {
        /// Name of the disk.
        disk: String,
        /// Name of the volume, or its index where the spec has no such volume.
        volume: String,
    },
    /// A hard disk on a bus that has no read-only ones.
    #[error(
        "disk {disk}: volume {volume} can only be read, and a disk on bus {bus} cannot be read-only; use bus virtio, scsi or usb, or a cdrom"
    )]
    ReadOnlyBus {
        /// Name of the disk.
        disk: String,
        /// Name of the volume.
        volume: String,
        /// Its bus.
        bus: &'static str,
    },
    /// A LUN's volume is a file.
    #[error("disk {disk}: a lun needs a volume that is a block device")]
    LunOnFile {
        /// Name of the disk.
        disk: String,
    },
}

impl RenderError {
    /// One word for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::IllegalCharacter { .. } => "IllegalCharacter",
            Self::IllegalPath { .. } => "IllegalPath",
            Self::MissingSource { .. } => "MissingDiskSource",
            Self::ReadOnlyBus { .. } => "ReadOnlyBus",
            Self::LunOnFile { .. } => "LunNeedsBlockDevice",
        }
    }
}

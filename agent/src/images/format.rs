//! Which format a file has that is about to be imported, and why it is refused.
//!
//! This is the only place where a format is guessed. What it finds is recorded, and from then on the record counts: a guest that writes a
//! qcow2 header into its raw disk gains nothing.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::qcow2::{self, Qcow2Error, Qcow2Header};

/// A guest sees whole sectors; QEMU fills up the last one of a raw file.
const SECTOR_BYTES: u64 = 512;

/// Formats that QEMU would recognise by their first bytes: name as `qemu-img` calls it, offset, bytes.
const FOREIGN_DISKS: &[(&str, usize, &[u8])] = &[
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
];

/// Trailers of formats that cannot be told by their first bytes: name, distance from the end, bytes.
const FOREIGN_TRAILERS: &[(&str, u64, &[u8])] = &[("vpc", 512, b"conectix"), ("dmg", 512, b"koly")];

/// Packed files, which users take for disks: name, offset, bytes, program that unpacks.
const PACKED: &[(&str, usize, &[u8], &str)] = &[
    ("gzip", 0, b"\x1f\x8b", "gunzip"),
    ("xz", 0, b"\xfd7zXZ\0", "unxz"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd", "unzstd"),
    ("bzip2", 0, b"BZh", "bunzip2"),
    ("zip", 0, b"PK\x03\x04", "unzip"),
    ("7z", 0, b"7z\xbc\xaf\x27\x1c", "7z x"),
    ("tar", 257, b"ustar", "tar -xf"),
];

/// Format of a disk's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's own format.
    Qcow2,
}

impl DiskFormat {
    /// The format as QEMU and libvirt call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// How files of this format end. libvirt's AppArmor profile admits `.img` and `.qcow2`.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Raw => "img",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an importable file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectedFormat {
    /// Its format.
    pub format: DiskFormat,
    /// Size of the disk that a guest sees, in bytes, a multiple of 512.
    pub virtual_bytes: u64,
}

/// Why a file's content is refused. Each message says what to do instead.
#[derive(Debug, thiserror::Error)]
pub enum RefusedFormat {
    /// The file cannot be read.
    #[error("read the first bytes")]
    Read(#[source] io::Error),
    /// The file has no content.
    #[error("the file is empty")]
    Empty,
    /// A disk in a format that is not offered.
    #[error(
        "the format {0} is not supported; convert the disk first: qemu-img convert -f {0} -O qcow2 FILE FILE.qcow2"
    )]
    Foreign(&'static str),
    /// A packed file.
    #[error("this is a {format} file, not a disk; unpack it first: {program} FILE")]
    Packed {
        /// What it is.
        format: &'static str,
        /// What unpacks it.
        program: &'static str,
    },
    /// A qcow2 file that needs another file.
    #[error("it needs the backing file {0:?}; merge the two first: qemu-img convert -O qcow2 FILE FILE.merged.qcow2")]
    BackingFile(String),
    /// A qcow2 file whose content lies in another file.
    #[error("its content lies in another file; merge the two first: qemu-img convert -O qcow2 FILE FILE.merged.qcow2")]
    ExternalDataFile,
    /// An encrypted qcow2 file.
    #[error("it is encrypted; decrypt it first with qemu-img convert")]
    Encrypted,
    /// A qcow2 file that was not closed properly.
    #[error("it was not closed properly or is corrupt; repair it first: qemu-img check -r all FILE")]
    NeedsRepair,
    /// A header that is no good.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
}

/// Finds the format of `file`, by content alone.
///
/// # Errors
/// If it is not a raw disk, nor a qcow2 file that stands for itself.
pub fn detect_format(file: &File) -> Result<DetectedFormat, RefusedFormat> {
    let file_bytes = file.metadata().map_err(RefusedFormat::Read)?.len();
    if file_bytes == 0 {
        return Err(RefusedFormat::Empty);
    }
    let mut head = [0; 1024];
    let read = qcow2::read_up_to(file, &mut head).map_err(RefusedFormat::Read)?;
    let head = &head[..read];
    if head.starts_with(&qcow2::MAGIC) {
        return detect_qcow2(file);
    }
    let begins_with = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((name, ..)) = FOREIGN_DISKS.iter().find(|(_, at, magic)| begins_with(*at, magic)) {
        return Err(RefusedFormat::Foreign(name));
    }
    if let Some((format, _, _, program)) = PACKED.iter().find(|(_, at, magic, _)| begins_with(*at, magic)) {
        return Err(RefusedFormat::Packed { format, program });
    }
    for (name, from_end, magic) in FOREIGN_TRAILERS {
        let mut trailer = [0; 8];
        if let Some(at) = file_bytes.checked_sub(*from_end)
            && file.read_at(&mut trailer, at).map_err(RefusedFormat::Read)? >= magic.len()
            && trailer.starts_with(magic)
        {
            return Err(RefusedFormat::Foreign(name));
        }
    }
    Ok(DetectedFormat { format: DiskFormat::Raw, virtual_bytes: file_bytes.next_multiple_of(SECTOR_BYTES) })
}

fn detect_qcow2(file: &File) -> Result<DetectedFormat, RefusedFormat> {
    let header = match Qcow2Header::read(file) {
        // The same magic number, in version 1, is the format that QEMU calls qcow.
        Err(Qcow2Error::Version(1)) => return Err(RefusedFormat::Foreign("qcow")),
        other => other?,
    };
    if let Some(backing_file) = header.backing_file {
        return Err(RefusedFormat::BackingFile(backing_file));
    }
    if header.external_data_file {
        return Err(RefusedFormat::ExternalDataFile);
    }
    if header.encrypted {
        return Err(RefusedFormat::Encrypted);
    }
    if header.needs_repair {
        return Err(RefusedFormat::NeedsRepair);
    }
    let virtual_bytes = header.virtual_bytes.next_multiple_of(SECTOR_BYTES);
    Ok(DetectedFormat { format: DiskFormat::Qcow2, virtual_bytes })
}

#[cfg(test)]
mod tests;

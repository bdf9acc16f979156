//! The header of a qcow2 file, read without trusting it.
//!
//! Format: <https://www.qemu.org/docs/master/interop/qcow2.html>. A guest can write anything into its own overlay's data, but not into the
//! header; an imported image may be hostile from its first byte. So everything that would make QEMU open a second file, or that QEMU itself
//! would stumble over, is looked at here, before QEMU sees the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first four bytes of every version of the format.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

const VERSION_2_HEADER_BYTES: u32 = 72;
const VERSION_3_HEADER_BYTES: u32 = 104;
/// The header and its extensions lie in the first cluster, which has at most 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Longest name of a backing file, from the specification.
const MAX_BACKING_NAME_BYTES: u32 = 1023;
/// More than any disk has; keeps all sums far from the end of a u64.
const MAX_VIRTUAL_BYTES: u64 = 1 << 56;
/// QEMU refuses longer first-level tables.
const MAX_L1_ENTRIES: u32 = (32 << 20) / 8;
const MAX_EXTENSIONS: usize = 64;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = INCOMPATIBLE_DIRTY
    | INCOMPATIBLE_CORRUPT
    | INCOMPATIBLE_DATA_FILE
    | INCOMPATIBLE_COMPRESSION
    | INCOMPATIBLE_EXTENDED_L2;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Header {
    /// Size of the disk that the guest sees, in bytes.
    pub virtual_bytes: u64,
    /// The file that is read where this one holds nothing.
    pub backing_file: Option<String>,
    /// Format of that file, as the header names it.
    pub backing_format: Option<String>,
    /// Whether the content is encrypted.
    pub encrypted: bool,
    /// Whether the content lies in another file.
    pub external_data_file: bool,
    /// Whether the file was not closed properly, or is marked corrupt.
    pub needs_repair: bool,
}

/// Why a header is refused.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The file cannot be read.
    #[error("read the qcow2 header")]
    Read(#[source] io::Error),
    /// The file does not begin with the magic number.
    #[error("it does not begin as a qcow2 file")]
    NoMagic,
    /// A version that QEMU does not write any more, or not yet.
    #[error("qcow2 version {0} is not supported, only 2 and 3")]
    Version(u32),
    /// A value in the header cannot be true.
    #[error("its qcow2 header is damaged: {0}")]
    Damaged(&'static str),
    /// Features that this program does not know, so that it cannot tell whether they are safe.
    #[error("it uses unknown incompatible qcow2 features ({0:#x})")]
    UnknownFeatures(u64),
}

impl Qcow2Header {
    /// Reads the header of `file`.
    ///
    /// # Errors
    /// If it is not the header of a qcow2 file that can be used.
    pub fn read(file: &File) -> Result<Self, Qcow2Error> {
        let file_bytes = file.metadata().map_err(Qcow2Error::Read)?.len();
        // The longest cluster would be 2 MiB; header, extensions and backing name of a sane file lie in its first 64 KiB.
        let mut head = vec![0; 64 << 10];
        let read = read_up_to(file, &mut head).map_err(Qcow2Error::Read)?;
        head.truncate(read);
        Self::parse(&head, file_bytes)
    }

    /// Reads the header from `head`, the first bytes of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// If it is not the header of a qcow2 file that can be used.
    pub fn parse(head: &[u8], file_bytes: u64) -> Result<Self, Qcow2Error> {
        use Qcow2Error::{Damaged, NoMagic, UnknownFeatures, Version};
        if !head.starts_with(&MAGIC) {
            return Err(NoMagic);
        }
        let u32_at = |at| be_u32(head, at).ok_or(Damaged("it is cut short"));
        let u64_at = |at| be_u64(head, at).ok_or(Damaged("it is cut short"));
        let version = u32_at(4)?;
        let (incompatible, header_bytes) = match version {
            2 => (0, VERSION_2_HEADER_BYTES),
            3 => (u64_at(72)?, u32_at(100)?),
            other => return Err(Version(other)),
        };
        if incompatible & !INCOMPATIBLE_KNOWN != 0 {
            return Err(UnknownFeatures(incompatible & !INCOMPATIBLE_KNOWN));
        }
        let cluster_bits = u32_at(20)?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Damaged("the cluster size is out of range"));
        }
        let cluster_bytes = 1_u64 << cluster_bits;
        if version == 3 && (header_bytes < VERSION_3_HEADER_BYTES || header_bytes % 8 != 0) {
            return Err(Damaged("the header length is out of range"));
        }
        if u64::from(header_bytes) > cluster_bytes {
            return Err(Damaged("the header is longer than a cluster"));
        }
        let virtual_bytes = u64_at(24)?;
        if virtual_bytes == 0 || virtual_bytes > MAX_VIRTUAL_BYTES {
            return Err(Damaged("the size of the disk is out of range"));
        }
        check_tables(head, file_bytes, cluster_bits, virtual_bytes, incompatible & INCOMPATIBLE_EXTENDED_L2 != 0)?;
        let backing_file = backing_name(head, cluster_bytes)?;
        let extensions = Extensions::parse(head, header_bytes)?;
        Ok(Self {
            virtual_bytes,
            backing_file,
            backing_format: extensions.backing_format,
            encrypted: u32_at(32)? != 0,
            external_data_file: incompatible & INCOMPATIBLE_DATA_FILE != 0 || extensions.names_data_file,
            needs_repair: incompatible & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT) != 0,
        })
    }
}

/// Checks that the first-level and the reference count table lie in the file and are large enough.
fn check_tables(
    head: &[u8],
    file_bytes: u64,
    cluster_bits: u32,
    virtual_bytes: u64,
    extended_l2: bool,
) -> Result<(), Qcow2Error> {
    use Qcow2Error::Damaged;
    let cut = Damaged("it is cut short");
    let (Some(l1_entries), Some(l1_at), Some(refcounts_at), Some(refcount_clusters)) =
        (be_u32(head, 36), be_u64(head, 40), be_u64(head, 48), be_u32(head, 56))
    else {
        return Err(cut);
    };
    let cluster_bytes = 1_u64 << cluster_bits;
    let entry_bytes = if extended_l2 { 16 } else { 8 };
    // One first-level entry covers as many clusters as a cluster has second-level entries.
    let covered = cluster_bytes * (cluster_bytes / entry_bytes);
    if l1_entries > MAX_L1_ENTRIES || u64::from(l1_entries) < virtual_bytes.div_ceil(covered) {
        return Err(Damaged("the first-level table does not fit the size of the disk"));
    }
    let lies_inside = |at: u64, bytes: u64| {
        at != 0 && at.is_multiple_of(cluster_bytes) && at.checked_add(bytes).is_some_and(|end| end <= file_bytes)
    };
    if !lies_inside(l1_at, u64::from(l1_entries) * 8) {
        return Err(Damaged("the first-level table lies outside of the file"));
    }
    if refcount_clusters == 0 || !lies_inside(refcounts_at, u64::from(refcount_clusters) << cluster_bits) {
        return Err(Damaged("the reference count table lies outside of the file"));
    }
    Ok(())
}

fn backing_name(head: &[u8], cluster_bytes: u64) -> Result<Option<String>, Qcow2Error> {
    use Qcow2Error::Damaged;
    let (Some(at), Some(bytes)) = (be_u64(head, 8), be_u32(head, 16)) else {
        return Err(Damaged("it is cut short"));
    };
    if at == 0 {
        return Ok(None);
    }
    let end = at.saturating_add(u64::from(bytes));
    if bytes > MAX_BACKING_NAME_BYTES || end > cluster_bytes {
        return Err(Damaged("the backing file's name lies outside of the first cluster"));
    }
    let name = usize::try_from(at).ok().zip(usize::try_from(end).ok()).and_then(|(at, end)| head.get(at..end));
    name.map(|name| Some(String::from_utf8_lossy(name).into_owned()))
        .ok_or(Damaged("the backing file's name is cut short"))
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    names_data_file: bool,
}

impl Extensions {
    fn parse(head: &[u8], header_bytes: u32) -> Result<Self, Qcow2Error> {
        use Qcow2Error::Damaged;
        let mut found = Self::default();
        let mut at = header_bytes as usize;
        for _ in 0..MAX_EXTENSIONS {
            // A file of version 2 may end its extensions where its header ends.
            let (Some(kind), Some(length)) = (be_u32(head, at), be_u32(head, at + 4)) else {
                return Err(Damaged("the header extensions are cut short"));
            };
            if kind == EXTENSION_END {
                return Ok(found);
            }
            let start = at + 8;
            let data = start.checked_add(length as usize).and_then(|end| head.get(start..end));
            let data = data.ok_or(Damaged("a header extension is cut short"))?;
            match kind {
                EXTENSION_BACKING_FORMAT => found.backing_format = Some(String::from_utf8_lossy(data).into_owned()),
                EXTENSION_DATA_FILE => found.names_data_file = true,
                _ => {}
            }
            at = start + (length as usize).next_multiple_of(8);
        }
        Err(Damaged("it has too many header extensions"))
    }
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_be_bytes(*chunk))
}

/// Reads from the start of `file` until `buffer` is full or the file ends; gives the number of bytes read.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;

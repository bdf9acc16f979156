//! Takes the one disk out of a layer, while the layer streams by: nothing else of it is ever written.
//!
//! ```text
//! bytes as served ─► digest ─► gzip, zstd or neither ─► size limit ─► digest of the unpacked layer ─► tar: disk/NAME.{img,qcow2,raw} ─► sink
//!                                                                                                 └► no tar: the layer is the disk ─┘
//! ```
//!
//! A layer is a stranger's. What two readers could take for two different things is refused, not guessed. Nothing here knows files, names or registries.

mod archive;
mod compression;
mod error;
mod hashing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{self, BufRead, Cursor, Read, Write};

pub use error::LayerError;

use crate::images::Digest;
use archive::Archive;
use compression::unpack;
pub(crate) use hashing::read_filled;
use hashing::{Hashing, Limited};

/// Where a tar archive says that it is one, and how.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");
const HEAD_BYTES: u64 = 512;

/// What a layer has to be.
#[derive(Clone, Debug)]
pub struct LayerRules {
    /// SHA-256 of the layer as it is served.
    pub digest: Digest,
    /// SHA-256 of the layer as it is unpacked, if the image's configuration says.
    pub diff_id: Option<Digest>,
    /// The disk may have so many bytes.
    pub limit_bytes: u64,
    /// The unpacked layer may have so many: an archive has headers and other files beside the disk.
    pub unpacked_limit_bytes: u64,
    /// A layer that is no archive is the disk itself.
    pub may_be_disk: bool,
}

/// Names that upper layers hide in the ones below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// All of `disk/`.
    pub all: bool,
    /// Files in `disk/`.
    pub names: BTreeSet<Vec<u8>>,
}

/// What a layer held.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The disk's name in the layer, if it held one; its bytes are in the sink then.
    pub disk: Option<DiskName>,
    /// What it hides below, with what was hidden before.
    pub hidden: Hidden,
}

/// How a disk is named in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskName {
    /// `disk/NAME.img`, which may be of either format.
    Img,
    /// `disk/NAME.qcow2`.
    Qcow2,
    /// `disk/NAME.raw`.
    Raw,
    /// The layer itself: no name.
    Layer,
}

/// Reads a layer to its end, and writes the disk in it to `sink`. What `hidden` names is not there.
///
/// # Errors
/// If the layer breaks a rule, or cannot be read, or the sink cannot be written. What is in the sink is worth nothing then.
pub fn extract(
    layer: impl BufRead,
    rules: &LayerRules,
    hidden: Hidden,
    sink: &mut dyn Write,
) -> Result<Found, LayerError> {
    let mut served = Hashing::new(layer);
    // What is not packed has one digest for both.
    let is_packed;
    let unpacked_digest;
    let found;
    {
        let (unpacked, packed) = unpack(&mut served)?;
        is_packed = packed;
        let mut unpacked =
            Hashing::only_if(packed && rules.diff_id.is_some(), Limited::new(unpacked, rules.unpacked_limit_bytes));
        found = read_unpacked(&mut unpacked, rules, hidden, sink)?;
        unpacked_digest = unpacked.finish();
    }
    io::copy(&mut served, &mut io::sink()).map_err(LayerError::from_io)?;
    let served_digest = served.finish();
    require("the layer", &rules.digest, served_digest.as_ref())?;
    if let Some(diff_id) = &rules.diff_id {
        let actual = if is_packed { unpacked_digest } else { served_digest };
        require("the unpacked layer", diff_id, actual.as_ref())?;
    }
    Ok(found)
}

fn read_unpacked(
    unpacked: &mut impl BufRead,
    rules: &LayerRules,
    hidden: Hidden,
    sink: &mut dyn Write,
) -> Result<Found, LayerError> {
    let mut head = Vec::new();
    unpacked.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(LayerError::from_io)?;
    let is_tar = head.get(TAR_MAGIC.0..).is_some_and(|rest| rest.starts_with(TAR_MAGIC.1))
        || head.iter().all(|byte| *byte == 0) && !rules.may_be_disk;
    let mut whole = Cursor::new(head).chain(unpacked);
    if is_tar {
        return Archive::new(&mut whole, rules.limit_bytes, hidden).extract(sink);
    }
    if !rules.may_be_disk {
        return Err(LayerError::NoArchive);
    }
    let copied = copy(&mut whole.take(rules.limit_bytes.saturating_add(1)), sink)?;
    if copied > rules.limit_bytes {
        return Err(LayerError::TooLarge { limit_bytes: rules.limit_bytes });
    }
    Ok(Found { disk: Some(DiskName::Layer), hidden })
}

/// Copies all, telling errors of reading from those of writing.
fn copy(from: &mut impl BufRead, to: &mut dyn Write) -> Result<u64, LayerError> {
    let mut copied = 0;
    loop {
        match from.fill_buf() {
            Ok([]) => return Ok(copied),
            Ok(filled) => {
                to.write_all(filled).map_err(LayerError::Write)?;
                let count = filled.len();
                from.consume(count);
                copied += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(LayerError::from_io(error)),
        }
    }
}

fn require(what: &'static str, expected: &Digest, found: Option<&Digest>) -> Result<(), LayerError> {
    match found {
        Some(found) if found != expected => {
            Err(LayerError::DigestMismatch { what, expected: expected.clone(), found: found.clone() })
        }
        _ => Ok(()),
    }
}

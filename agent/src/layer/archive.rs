//! A strict reader of tar archives that takes one file out: <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html>.
//!
//! The walk is ours because it has to see what a lenient one hides: an entry whose extended header names another file, or another size, than its own header
//! (CVE-2025-62518 and its kin). Fields are decoded by the `tar` crate.

use std::io::{self, BufRead, Read, Write};

use tar::{EntryType, Header, PaxExtensions};

use super::{DiskName, Found, Hidden, LayerError};

const BLOCK_BYTES: usize = 512;
/// Extended headers hold names; those of a container's files are short.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Sizes that do not fit into a header's twelve octal digits stand in an extended header, and the header says 0.
const MAX_OCTAL_SIZE: u64 = 1 << 33;
/// The name field of a header.
const NAME_BYTES: usize = 100;
/// No file system has longer ones.
const MAX_FILE_NAME_BYTES: usize = 255;
/// An image has one disk; a few layers may have replaced it.
const MAX_HIDDEN_DISKS: usize = 1024;
const DISK_DIRECTORY: &[u8] = b"disk";
/// <https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// An archive as it streams by.
pub(super) struct Archive<'r> {
    reader: &'r mut dyn BufRead,
    limit_bytes: u64,
    hidden_above: Hidden,
    found: Found,
    extension: Extension,
}

/// What stands before an entry's header and belongs to it.
#[derive(Default)]
struct Extension {
    pax_path: Option<Vec<u8>>,
    pax_size: Option<u64>,
    is_sparse: bool,
    long_name: Option<Vec<u8>>,
}

/// Where an entry lies, as far as it is of interest.
enum Place {
    /// `disk` itself.
    Directory,
    /// Takes all of `disk` away.
    HidesAll,
    /// Takes one file away.
    Hides(Vec<u8>),
    /// A file right in `disk`.
    File(Vec<u8>),
    Elsewhere,
}

impl<'r> Archive<'r> {
    pub(super) fn new(reader: &'r mut dyn BufRead, limit_bytes: u64, hidden: Hidden) -> Self {
        let found = Found { disk: None, hidden: hidden.clone() };
        Self { reader, limit_bytes, hidden_above: hidden, found, extension: Extension::default() }
    }

    /// Walks the archive to its end.
    pub(super) fn extract(mut self, sink: &mut dyn Write) -> Result<Found, LayerError> {
        let mut block = [0; BLOCK_BYTES];
        while self.read_block(&mut block)? {
            if block.iter().all(|byte| *byte == 0) {
                self.require_zeros()?;
                break;
            }
            let header = Header::from_byte_slice(&block);
            check_sum(header)?;
            self.take_entry(header, sink)?;
        }
        Ok(self.found)
    }

    fn take_entry(&mut self, header: &Header, sink: &mut dyn Write) -> Result<(), LayerError> {
        let size = header.entry_size().map_err(|_| LayerError::Damaged("a size is no number"))?;
        match header.entry_type() {
            EntryType::XHeader => self.read_pax(size),
            EntryType::XGlobalHeader => self.read_global(size),
            EntryType::GNULongName => {
                let name = self.read_extension(size)?;
                self.extension.long_name = Some(until_zero(&name).to_vec());
                Ok(())
            }
            EntryType::GNULongLink => self.read_extension(size).map(drop),
            _ => {
                let extension = std::mem::take(&mut self.extension);
                self.take_file(header, size, &extension, sink)
            }
        }
    }

    /// An entry that would be something in a file system.
    fn take_file(
        &mut self,
        header: &Header,
        size: u64,
        extension: &Extension,
        sink: &mut dyn Write,
    ) -> Result<(), LayerError> {
        let path = agreed_path(header, extension)?;
        let shown = || shown(&path);
        let size = agreed_size(size, extension.pax_size)
            .ok_or_else(|| LayerError::Disagreement { field: "size", name: shown() })?;
        let kind = header.entry_type();
        if kind == EntryType::GNUSparse || extension.is_sparse {
            return Err(LayerError::Sparse(shown()));
        }
        if size > 0 && other_kind(kind).is_some() {
            return Err(LayerError::Damaged("what is no file has content"));
        }
        match place(&path)? {
            Place::Elsewhere => {}
            Place::HidesAll => self.found.hidden.all = true,
            Place::Hides(name) => self.hide(name)?,
            Place::Directory if kind == EntryType::Directory => {}
            Place::Directory => {
                return Err(LayerError::Kind { name: shown(), kind: other_kind(kind).unwrap_or("a file") });
            }
            Place::File(name) => {
                if let Some(disk) = disk_name(&name) {
                    let is_hidden = self.hidden_above.all || self.hidden_above.names.contains(&name);
                    if let Some(kind) = other_kind(kind) {
                        return Err(LayerError::Kind { name: shown(), kind });
                    }
                    if !is_hidden {
                        return self.take_disk(disk, size, &shown(), sink);
                    }
                } else if let Some(kind) = other_kind(kind).filter(|_| kind != EntryType::Directory) {
                    return Err(LayerError::Kind { name: shown(), kind });
                }
            }
        }
        self.skip(size)
    }

    /// Notes what upper layers hide, as far as it may be a disk: a stranger's list is kept in memory.
    fn hide(&mut self, name: Vec<u8>) -> Result<(), LayerError> {
        if disk_name(&name).is_some() && name.len() <= MAX_FILE_NAME_BYTES {
            self.found.hidden.names.insert(name);
        }
        if self.found.hidden.names.len() > MAX_HIDDEN_DISKS {
            return Err(LayerError::Damaged("it hides more disks than an image has"));
        }
        Ok(())
    }

    fn take_disk(&mut self, disk: DiskName, size: u64, shown: &str, sink: &mut dyn Write) -> Result<(), LayerError> {
        if self.found.disk.is_some() {
            return Err(LayerError::TwoDisks(shown.to_owned()));
        }
        if size > self.limit_bytes {
            return Err(LayerError::TooLarge { limit_bytes: self.limit_bytes });
        }
        let copied = super::copy(&mut (&mut *self.reader).take(size), sink)?;
        if copied < size {
            return Err(LayerError::Truncated);
        }
        self.found.disk = Some(disk);
        self.skip_padding(size)
    }

    fn read_pax(&mut self, size: u64) -> Result<(), LayerError> {
        const DAMAGED: LayerError = LayerError::Damaged("an extended header is no list of keys and values");
        let bytes = self.read_extension(size)?;
        for field in PaxExtensions::new(&bytes) {
            let field = field.map_err(|_| DAMAGED)?;
            let key = field.key_bytes();
            // What comes twice, one reader takes from the first and another from the last.
            let is_first = match key {
                b"path" => self.extension.pax_path.replace(field.value_bytes().to_vec()).is_none(),
                b"size" => {
                    let size = field.value().ok().and_then(|value| value.parse().ok()).ok_or(DAMAGED)?;
                    self.extension.pax_size.replace(size).is_none()
                }
                key => {
                    self.extension.is_sparse |= key.starts_with(b"GNU.sparse.");
                    true
                }
            };
            if !is_first {
                return Err(LayerError::Damaged("an extended header says one thing twice"));
            }
        }
        Ok(())
    }

    /// Comments, as `git archive` writes them. What would change entries is refused: few readers agree on it.
    fn read_global(&mut self, size: u64) -> Result<(), LayerError> {
        let bytes = self.read_extension(size)?;
        for field in PaxExtensions::new(&bytes) {
            let key =
                field.map_err(|_| LayerError::Damaged("a global header is no list of keys and values"))?.key_bytes();
            if matches!(key, b"path" | b"size" | b"linkpath") || key.starts_with(b"GNU.") {
                return Err(LayerError::Damaged("a global header changes all entries"));
            }
        }
        Ok(())
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(LayerError::Damaged("an extended header is longer than a MiB"));
        }
        let mut bytes = Vec::new();
        (&mut *self.reader).take(size).read_to_end(&mut bytes).map_err(LayerError::from_io)?;
        if (bytes.len() as u64) < size {
            return Err(LayerError::Truncated);
        }
        self.skip_padding(size)?;
        Ok(bytes)
    }

    fn skip(&mut self, size: u64) -> Result<(), LayerError> {
        self.discard(size)?;
        self.skip_padding(size)
    }

    fn skip_padding(&mut self, size: u64) -> Result<(), LayerError> {
        let block = BLOCK_BYTES as u64;
        self.discard((block - size % block) % block)
    }

    fn discard(&mut self, bytes: u64) -> Result<(), LayerError> {
        let skipped = io::copy(&mut (&mut *self.reader).take(bytes), &mut io::sink()).map_err(LayerError::from_io)?;
        if skipped < bytes { Err(LayerError::Truncated) } else { Ok(()) }
    }

    /// One header's place; false at the end of the archive.
    fn read_block(&mut self, block: &mut [u8; BLOCK_BYTES]) -> Result<bool, LayerError> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        (&mut *self.reader).take(BLOCK_BYTES as u64).read_to_end(&mut bytes).map_err(LayerError::from_io)?;
        if bytes.is_empty() {
            return Ok(false);
        }
        *block = bytes.try_into().map_err(|_| LayerError::Truncated)?;
        Ok(true)
    }

    /// After the end there is padding, and nothing that another reader could take for entries.
    fn require_zeros(&mut self) -> Result<(), LayerError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) if buffer.iter().take(count).all(|byte| *byte == 0) => {}
                Ok(_) => return Err(LayerError::Damaged("something follows its end")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::from_io(error)),
            }
        }
    }
}

fn check_sum(header: &Header) -> Result<(), LayerError> {
    const FIELD: std::ops::Range<usize> = 148..156;
    let bytes = header.as_bytes().iter().enumerate();
    let sum: u32 = bytes.map(|(at, byte)| if FIELD.contains(&at) { u32::from(b' ') } else { u32::from(*byte) }).sum();
    if header.cksum().is_ok_and(|said| said == sum) {
        Ok(())
    } else {
        Err(LayerError::Damaged("a header's checksum is wrong"))
    }
}

/// The entry's name, if all that name it agree as far as it concerns the disk.
fn agreed_path(header: &Header, extension: &Extension) -> Result<Vec<u8>, LayerError> {
    let own = header.path_bytes().into_owned();
    let mut path = own.clone();
    for other in [&extension.long_name, &extension.pax_path].into_iter().flatten() {
        let is_cut = other.len() > NAME_BYTES && other.starts_with(&own);
        let concerns_disk = [&own, &path, other]
            .into_iter()
            .any(|name| components(name).first().is_some_and(|first| first.ends_with(DISK_DIRECTORY)));
        if concerns_disk && !is_cut && components(other) != components(&path) {
            return Err(LayerError::Disagreement { field: "name", name: shown(other) });
        }
        path.clone_from(other);
    }
    Ok(path)
}

fn agreed_size(own: u64, pax: Option<u64>) -> Option<u64> {
    match pax {
        None => Some(own),
        Some(pax) if pax == own || (own == 0 && pax >= MAX_OCTAL_SIZE) => Some(pax),
        Some(_) => None,
    }
}

/// The parts of a path, without those that say nothing.
fn components(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect()
}

fn place(path: &[u8]) -> Result<Place, LayerError> {
    let parts = components(path);
    if parts.contains(&&b".."[..]) || path.contains(&0) {
        return Err(LayerError::Path(shown(path)));
    }
    Ok(match parts.as_slice() {
        [name] if name.strip_prefix(WHITEOUT) == Some(DISK_DIRECTORY) => Place::HidesAll,
        [DISK_DIRECTORY] => Place::Directory,
        [OPAQUE] | [DISK_DIRECTORY, OPAQUE] => Place::HidesAll,
        [DISK_DIRECTORY, name] => match name.strip_prefix(WHITEOUT) {
            Some(hidden) => Place::Hides(hidden.to_vec()),
            None => Place::File(name.to_vec()),
        },
        _ => Place::Elsewhere,
    })
}

fn disk_name(name: &[u8]) -> Option<DiskName> {
    let extension = name.rsplit(|byte| *byte == b'.').next().filter(|extension| extension.len() < name.len())?;
    match extension {
        b"img" => Some(DiskName::Img),
        b"qcow2" => Some(DiskName::Qcow2),
        b"raw" => Some(DiskName::Raw),
        _ => None,
    }
}

/// What an entry is that is no plain file.
fn other_kind(kind: EntryType) -> Option<&'static str> {
    match kind {
        EntryType::Regular | EntryType::Continuous => None,
        EntryType::Link => Some("a hard link"),
        EntryType::Symlink => Some("a symbolic link"),
        EntryType::Char => Some("a character device"),
        EntryType::Block => Some("a block device"),
        EntryType::Directory => Some("a directory"),
        EntryType::Fifo => Some("a fifo"),
        _ => Some("of an unknown kind"),
    }
}

/// A stranger's path in a message that ends up in a status: not more of it than helps.
fn shown(path: &[u8]) -> String {
    let cut = path.get(..MAX_FILE_NAME_BYTES).unwrap_or(path);
    String::from_utf8_lossy(cut).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

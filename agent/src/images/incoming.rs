//! A disk file on its way into the store, and how a stream is written into it.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::error::StoreError;
use super::format::DetectedFormat;
use super::index::{Blob, Digest};
use super::store::ImageStore;
use crate::hostfs::{Directory, FileError};

/// Many guests' QEMUs read one disk file, and none may write to it. Reading needs its name, which is its content's hash, because the directory
/// cannot be listed.
const DISK_FILE_MODE: u32 = 0o444;
/// Written at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// So many zeros in their place are a hole.
const HOLE_BYTES: usize = 64 << 10;
/// Room is asked for in such steps.
pub(super) const ROOM_BYTES: u64 = 32 << 20;

/// A disk file in the making. Deleted when dropped, unless it was moved into place.
pub(super) struct Incoming<'s> {
    directory: &'s Directory,
    pub(super) name: String,
    pub(super) file: File,
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // Gone already if it was moved into place; else what stays is swept at the next change.
        let _ = self.directory.remove_file_if_exists(&self.name);
    }
}

impl Incoming<'_> {
    /// Finishes the file: what it is from now on, and that on disk.
    pub(super) fn seal(&self, digest: Digest, detected: DetectedFormat) -> Result<Blob, FileError> {
        let on_file = |operation| move |e: io::Error| FileError::new(operation, self.directory.path(), e);
        let mode = Permissions::from_mode(DISK_FILE_MODE);
        self.file.set_permissions(mode).map_err(on_file("set the mode of a file in"))?;
        self.file.sync_all().map_err(on_file("write in"))?;
        let file_bytes = self.file.metadata().map_err(on_file("read in"))?.len();
        let DetectedFormat { format, virtual_bytes } = detected;
        Ok(Blob { digest, format, file_bytes, virtual_bytes })
    }

    /// A second handle, that can read and nothing else.
    pub(super) fn open_to_read(&self) -> Result<File, FileError> {
        self.directory.open_file(&self.name)
    }
}

impl ImageStore {
    /// Makes an empty file on its way in. It is locked while somebody makes it.
    pub(super) fn create_incoming(&self) -> Result<Incoming<'_>, StoreError> {
        // Made and locked while nobody sweeps: a sweep takes an unlocked file for left over.
        let _lock = self.lock_exclusive()?;
        self.sweep()?;
        let name = Uuid::new_v4().to_string();
        let file = self.incoming.create_file(&name)?;
        let incoming = Incoming { directory: &self.incoming, name, file };
        incoming.file.lock().map_err(|e| FileError::new("lock", self.incoming.path_of(&incoming.name), e))?;
        Ok(incoming)
    }
}

/// Writes a stream into an incoming file: hashed, with holes where it is zero, within the store's limit.
pub(super) struct DiskWriter<'s> {
    store: &'s ImageStore,
    file: &'s File,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs.
    at: u64,
    hasher: Sha256,
    /// Bytes that may be written before room must be asked for.
    room: u64,
}

impl<'s> DiskWriter<'s> {
    pub(super) fn new(store: &'s ImageStore, incoming: &'s Incoming<'_>) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Self { store, file: &incoming.file, buffer, at: 0, hasher: Sha256::new(), room: 0 }
    }

    /// Writes what is left. The digest of all of it.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        self.write_buffer()?;
        // What ends with a hole is as long as if it did not.
        self.file.set_len(self.at)?;
        Ok(Digest::from_sha256(&self.hasher.finalize().into()))
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.hasher.update(&buffer);
        for (at, run) in data_runs(&buffer) {
            self.ask_for_room(run.len() as u64)?;
            self.file.write_all_at(run, self.at + at as u64)?;
        }
        self.at += buffer.len() as u64;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    fn ask_for_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.room < bytes {
            self.store.make_room().map_err(io::Error::other)?;
            self.room = ROOM_BYTES;
        }
        self.room -= bytes;
        Ok(())
    }
}

impl Write for DiskWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BUFFER_BYTES - self.buffer.len());
        self.buffer.extend(bytes.iter().take(count));
        if self.buffer.len() == BUFFER_BYTES {
            self.write_buffer()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The parts of `buffer` that are not all zero: where each begins, and its bytes.
fn data_runs(buffer: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut chunks = buffer.chunks(HOLE_BYTES).map(is_zero).enumerate().peekable();
    std::iter::from_fn(move || {
        let (first, _) = chunks.find(|(_, zero)| !zero)?;
        let mut end = first + 1;
        while chunks.next_if(|(_, zero)| !zero).is_some() {
            end += 1;
        }
        let (from, to) = (first * HOLE_BYTES, (end * HOLE_BYTES).min(buffer.len()));
        buffer.get(from..to).map(|run| (from, run))
    })
}

fn is_zero(chunk: &[u8]) -> bool {
    let (words, rest) = chunk.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;
    use crate::images::DiskFormat;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_written_is_read_back_and_zeros_take_no_room(
            pieces in proptest::collection::vec((any::<bool>(), 1_usize..700_000), 1..6),
            step in 1_usize..200_000,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let store = ImageStore::open(directory.path()).unwrap();
            let incoming = store.create_incoming().unwrap();
            let content: Vec<u8> =
                pieces.iter().flat_map(|(zero, length)| std::iter::repeat_n(if *zero { 0 } else { 7 }, *length)).collect();
            let mut writer = DiskWriter::new(&store, &incoming);
            content.chunks(step).for_each(|piece| writer.write_all(piece).unwrap());
            let digest = writer.finish().unwrap();
            prop_assert_eq!(&digest, &Digest::from_sha256(&Sha256::digest(&content).into()));
            let detected = DetectedFormat { format: DiskFormat::Raw, virtual_bytes: 512 };
            let blob = incoming.seal(digest, detected).unwrap();
            prop_assert_eq!(blob.file_bytes, content.len() as u64);
            let path = store.incoming.path_of(&incoming.name);
            prop_assert!(std::fs::read(&path).unwrap() == content);
            let data = content.chunks(HOLE_BYTES).filter(|chunk| !is_zero(chunk)).count() as u64;
            prop_assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= data * HOLE_BYTES as u64 + 4096);
        }
    }
}

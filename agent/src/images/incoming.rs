//! A disk file on its way into the store, and how a stream is written into it.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
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
/// Hashed at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// Written at a time. For more at once the kernel takes memory in pieces so large that a virtual machine often has to get them from its host first, which makes the
/// write up to six times as slow (docs/decisions/0173).
const WRITE_BYTES: usize = 32 << 10;
/// Buffers between the stream and the disk.
const BUFFERS: usize = 8;
/// The kernel begins to put on disk what was written in such steps.
const FLUSH_BYTES: u64 = 16 << 20;
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

/// Writes a stream into an incoming file: hashed, with holes where it is zero, within the store's limit. Hashing and writing have a thread of their own, because
/// whoever brings the stream has hashed and unpacked it first.
pub(super) struct DiskWriter {
    buffer: Vec<u8>,
    /// Full buffers to the thread; none once it was told that there are no more.
    full: Option<SyncSender<Vec<u8>>>,
    /// Buffers that it is done with.
    empty: Receiver<Vec<u8>>,
    /// None once it has ended.
    thread: Option<JoinHandle<io::Result<Digest>>>,
}

impl DiskWriter {
    /// # Errors
    /// If the file cannot be shared with a thread, or there is none.
    pub(super) fn new(store: &Arc<ImageStore>, incoming: &Incoming<'_>) -> io::Result<Self> {
        let file = incoming.file.try_clone()?;
        let (full, filled) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
        let (give_back, empty) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // There is room for all of them.
            let _given = give_back.send(Vec::new());
        }
        let mut back = Back { store: Arc::clone(store), file, at: 0, hasher: Sha256::new(), room: 0 };
        let thread = std::thread::Builder::new().name("disk-writer".to_owned()).spawn(move || {
            for buffer in filled {
                back.write(&buffer)?;
                // Nobody takes it when the stream has broken off.
                let _given = give_back.send(buffer);
            }
            back.finish()
        })?;
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { buffer, full: Some(full), empty, thread: Some(thread) })
    }

    /// Writes what is left. The digest of all of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        self.pass_on()?;
        self.end()
    }

    /// Gives the buffer to the thread, and takes one that it is done with.
    fn pass_on(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let is_taken = self.full.as_ref().is_some_and(|full| full.send(buffer).is_ok());
        match self.empty.recv() {
            Ok(mut buffer) if is_taken => {
                buffer.clear();
                buffer.reserve_exact(BUFFER_BYTES);
                self.buffer = buffer;
                Ok(())
            }
            // The thread ends before the stream only with an error.
            _ => self.end().and(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Lets the thread come to its end, and says what it was.
    fn end(&mut self) -> io::Result<Digest> {
        self.full = None;
        let Some(thread) = self.thread.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for DiskWriter {
    /// Nothing is written to the file any more once this is gone: it is about to be deleted.
    fn drop(&mut self) {
        self.full = None;
        if let Some(thread) = self.thread.take() {
            // What it says is of no use to anybody.
            let _ended = thread.join();
        }
    }
}

impl Write for DiskWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (now, _) = bytes.split_at(bytes.len().min(BUFFER_BYTES - self.buffer.len()));
        self.buffer.extend_from_slice(now);
        if self.buffer.len() == BUFFER_BYTES {
            self.pass_on()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's half of a [`DiskWriter`].
struct Back {
    store: Arc<ImageStore>,
    file: File,
    /// Where the next byte belongs.
    at: u64,
    hasher: Sha256,
    /// Bytes that may be written before room must be asked for.
    room: u64,
}

impl Back {
    fn write(&mut self, buffer: &[u8]) -> io::Result<()> {
        self.hasher.update(buffer);
        for (at, run) in data_runs(buffer) {
            self.ask_for_room(run.len() as u64)?;
            for (piece, nth) in run.chunks(WRITE_BYTES).zip(0..) {
                self.file.write_all_at(piece, self.at + (at + nth * WRITE_BYTES) as u64)?;
            }
        }
        let begun = self.at / FLUSH_BYTES;
        self.at += buffer.len() as u64;
        if self.at / FLUSH_BYTES > begun {
            self.begin_to_flush(begun * FLUSH_BYTES);
        }
        Ok(())
    }

    /// Has the kernel begin to put on disk what was written since `from`: else all of it is waited for in the end. Advice: nothing is lost if it is not taken.
    fn begin_to_flush(&self, from: u64) {
        let (Ok(from), Ok(length)) = (i64::try_from(from), i64::try_from(self.at - from)) else { return };
        // Linux begins to write at this word; what is being written stays in memory.
        let _advised = posix_fadvise(&self.file, from, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    fn finish(self) -> io::Result<Digest> {
        // What ends with a hole is as long as if it did not.
        self.file.set_len(self.at)?;
        Ok(Digest::from_sha256(&self.hasher.finalize().into()))
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
            let store = Arc::new(ImageStore::open(directory.path()).unwrap());
            let incoming = store.create_incoming().unwrap();
            let content: Vec<u8> =
                pieces.iter().flat_map(|(zero, length)| std::iter::repeat_n(if *zero { 0 } else { 7 }, *length)).collect();
            let mut writer = DiskWriter::new(&store, &incoming).unwrap();
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

//! Copies a disk file into the store: holes stay holes, blocks are shared where the file system can, and what is hashed is the copy.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::unistd::{Whence, lseek};
use sha2::{Digest as _, Sha256};

use super::index::Digest;

const BUFFER_BYTES: usize = 1 << 20;
/// One call copies at most this much, so that a signal ends the program soon.
const MAX_RANGE_BYTES: u64 = 64 << 20;

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The source cannot be read.
    #[error("read")]
    Read(#[source] io::Error),
    /// The target cannot be written.
    #[error("write")]
    Write(#[source] io::Error),
    /// The source is not what it was when the copy began.
    #[error("changed while it was copied")]
    Changed,
}

/// What tells one state of a file from the next.
#[derive(PartialEq, Eq)]
pub(super) struct FileState {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// The state that `file` is in now.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let m = file.metadata()?;
        Ok(Self {
            device: m.dev(),
            inode: m.ino(),
            bytes: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }
}

/// Copies all of `source` into the empty file `target`.
///
/// # Errors
/// If one of the two fails, or `source` changes meanwhile.
pub(super) fn copy_file(source: &File, target: &File) -> Result<(), CopyError> {
    let before = FileState::of(source).map_err(CopyError::Read)?;
    target.set_len(before.bytes).map_err(CopyError::Write)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(source, at, before.bytes).map_err(CopyError::Read)? {
        copy_range(source, target, start, end)?;
        at = end;
    }
    if FileState::of(source).map_err(CopyError::Read)? != before {
        return Err(CopyError::Changed);
    }
    Ok(())
}

/// Hashes all of `file`.
///
/// # Errors
/// If it cannot be read.
pub(super) fn hash_file(file: &File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(Digest::from_sha256(&hasher.finalize().into())),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The next run of data at or after `at`: start and end, in bytes. A file system without holes says that all is data.
fn next_data(file: &File, at: u64, file_bytes: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= file_bytes {
        return Ok(None);
    }
    let seek = |at: u64, whence| -> io::Result<Option<u64>> {
        match lseek(file, i64::try_from(at).map_err(io::Error::other)?, whence) {
            Ok(found) => u64::try_from(found).map(Some).map_err(io::Error::other),
            Err(Errno::ENXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    };
    let Some(start) = seek(at, Whence::SeekData)? else { return Ok(None) };
    let end = seek(start, Whence::SeekHole)?.unwrap_or(file_bytes).min(file_bytes);
    Ok((start < end).then_some((start, end)))
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> Result<(), CopyError> {
    let mut at = start;
    while at < end {
        let wanted = (end - at).min(MAX_RANGE_BYTES);
        let (mut from, mut to) = (at.cast_signed(), at.cast_signed());
        // Lossless: at most MAX_RANGE_BYTES.
        let length = usize::try_from(wanted).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            Ok(0) => return Err(CopyError::Changed),
            Ok(n) => at += n as u64,
            Err(Errno::EINTR) => {}
            // Not between these two file systems, or not on this kernel.
            Err(Errno::EXDEV | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL | Errno::EPERM) => {
                return copy_bytes(source, target, at, end);
            }
            Err(e @ Errno::EIO) => return Err(CopyError::Read(e.into())),
            Err(e) => return Err(CopyError::Write(e.into())),
        }
    }
    Ok(())
}

fn copy_bytes(source: &File, target: &File, start: u64, end: u64) -> Result<(), CopyError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        match source.read_at(&mut buffer[..wanted], at) {
            Ok(0) => return Err(CopyError::Changed),
            Ok(n) => {
                target.write_all_at(&buffer[..n], at).map_err(CopyError::Write)?;
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(CopyError::Read(e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn both_ways_copy_every_byte_and_keep_holes(pieces in proptest::collection::vec((any::<bool>(), 1_usize..200_000, any::<u8>()), 1..6)) {
            let mut source = tempfile::tempfile().unwrap();
            let mut content = Vec::new();
            for (hole, length, byte) in pieces {
                let byte = if hole { 0 } else { byte };
                content.extend(std::iter::repeat_n(byte, length));
                if hole {
                    source.set_len(content.len() as u64).unwrap();
                    std::io::Seek::seek(&mut source, io::SeekFrom::End(0)).unwrap();
                } else {
                    source.write_all(&vec![byte; length]).unwrap();
                }
            }
            let (by_range, by_bytes) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            copy_file(&source, &by_range).unwrap();
            copy_bytes(&source, &by_bytes, 0, content.len() as u64).unwrap();
            let expected = Digest::from_sha256(&Sha256::digest(&content).into());
            prop_assert_eq!(hash_file(&by_range).unwrap(), expected.clone());
            prop_assert_eq!(hash_file(&by_bytes).unwrap(), expected);
            let blocks = |file: &File| file.metadata().unwrap().blocks();
            prop_assert!(blocks(&by_range) <= blocks(&source), "{} > {}", blocks(&by_range), blocks(&source));
        }
    }

    #[test]
    fn a_source_that_shrinks_is_noticed() {
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.set_len(100).unwrap();
        assert!(matches!(copy_range(&source, &target, 0, 200), Err(CopyError::Changed)));
        assert!(matches!(copy_bytes(&source, &target, 0, 200), Err(CopyError::Changed)));
    }

    #[test]
    fn any_write_changes_the_state_of_a_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let before = FileState::of(&file).unwrap();
        assert!(FileState::of(&file).unwrap() == before);
        // Timestamps advance with the kernel's tick: write until one is seen, as a writer of a whole disk would.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while FileState::of(&file).unwrap() == before {
            file.write_all_at(b"x", 0).unwrap();
            assert!(std::time::Instant::now() < deadline, "no write changed the state");
        }
    }
}

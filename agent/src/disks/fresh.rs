//! Fresh qcow2 files. `qemu-img` makes the first of a kind; the next are copies of it, which spares a start a process and five waits for the disk.
//!
//! Two files of one kind are equal byte for byte: a fresh one holds its size, the name of what it stands on, and tables of zeros.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::make::Qcow2Disk;
use super::qemu_img::BackingFile;

/// Kinds that are remembered: images in use on a node, by their size.
const MAX_KINDS: usize = 64;
/// No fresh file of a disk up to 64 TiB is longer.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// Compared and remembered at a time.
const PIECE_BYTES: usize = 4096;

/// The fresh files that were made since this process began.
#[derive(Debug, Default)]
pub(super) struct FreshDisks {
    /// The newest last.
    known: Mutex<VecDeque<(Kind, Arc<FreshDisk>)>>,
}

/// What makes two fresh files equal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    virtual_bytes: u64,
    backing: Option<BackingFile>,
}

/// A fresh file: how long it is, and what of it is not zero.
#[derive(Debug)]
pub(super) struct FreshDisk {
    length: u64,
    pieces: Vec<(u64, Box<[u8]>)>,
}

impl FreshDisks {
    /// One of this disk's kind, if there was one.
    pub(super) fn like(&self, disk: &Qcow2Disk) -> Option<Arc<FreshDisk>> {
        let kind = Kind::of(disk);
        self.lock().iter().find(|(known, _)| *known == kind).map(|(_, fresh)| Arc::clone(fresh))
    }

    /// Remembers `file` as what a fresh disk like `disk` is, unless it is long.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn remember(&self, disk: &Qcow2Disk, file: &File) -> io::Result<()> {
        let length = file.metadata()?.len();
        if length > MAX_FILE_BYTES {
            return Ok(());
        }
        let mut content = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut content, 0)?;
        let pieces = (0..).step_by(PIECE_BYTES).zip(content.chunks(PIECE_BYTES));
        let pieces = pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != 0));
        let fresh = FreshDisk { length, pieces: pieces.map(|(at, piece)| (at, piece.into())).collect() };
        let kind = Kind::of(disk);
        let mut known = self.lock();
        // Two may have been made at once.
        known.retain(|(other, _)| *other != kind);
        if known.len() == MAX_KINDS {
            known.pop_front();
        }
        known.push_back((kind, Arc::new(fresh)));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Kind, Arc<FreshDisk>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FreshDisk {
    /// Writes it into an empty file.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(self.length)?;
        self.pieces.iter().try_for_each(|(at, piece)| file.write_all_at(piece, *at))
    }
}

impl Kind {
    fn of(disk: &Qcow2Disk) -> Self {
        Self { virtual_bytes: disk.virtual_bytes, backing: disk.backing.clone() }
    }
}

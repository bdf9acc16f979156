//! PersistentVolumes on this node, below the volume roots that the operator lists.
//!
//! Where a volume is comes from an object that others write. libvirt runs as root and would attach, and hand to QEMU's user, any path of the host. So
//! a volume is looked for below the listed roots alone, one component after the other, beneath a directory handle and without following links; and
//! what is found there is a regular file `disk.img` or a block device. Its content is taken as it is (raw): a format that is looked for could be
//! written there by a guest. Nothing here knows guests.

mod holders;

use std::path::{Component, Path, PathBuf};

use crate::hostfs::{Directory, Entry, EntryKind, FileError, entry_of};

pub use holders::{HoldError, Holders, HoldersPlace, WantedDisk};

/// Name of a guest's disk in a volume that is a directory, as in KubeVirt.
pub const DISK_FILE: &str = "disk.img";
/// The kernel's unit of a device's size.
const SECTOR_BYTES: u64 = 512;

/// The directories, and the block devices, that volumes may be in.
#[derive(Clone, Debug, Default)]
pub struct VolumeRoots {
    /// As the operator wrote them; absolute.
    roots: Vec<PathBuf>,
}

/// A disk in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDisk {
    /// Absolute path, without links.
    pub path: PathBuf,
    /// Whether it is a block device; else it is a file.
    pub is_block: bool,
    /// Its size.
    pub bytes: u64,
    /// What it is on this host, whatever its path: `file:DEVICE:INODE`, or `block:MAJOR:MINOR`.
    pub identity: String,
}

/// Why a volume has no disk for a guest.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It is below no root.
    #[error(
        "{path:?} is below no volume root of this node; list a directory above it with the agent's --volume-root DIR (OVM_VOLUME_ROOTS), or use \
         another volume"
    )]
    NotAllowed {
        /// Where the volume is said to be.
        path: String,
    },
    /// A directory or the disk cannot be opened, or is a link.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its file system does not answer.
    #[error("the file system of {path} does not answer; see to its server, or to its mount on this node")]
    Silent {
        /// Where the volume is.
        path: String,
    },
    /// There is a directory, and no disk in it.
    #[error("there is no {}; make it: qemu-img create -f raw {} SIZE", path.display(), path.display())]
    NoDisk {
        /// The file that should be there.
        path: PathBuf,
    },
    /// Something else than a disk is there.
    #[error("{} is {what}; a volume is a directory with {DISK_FILE} in it, or a block device", path.display())]
    NotADisk {
        /// What was looked at.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

/// A volume root that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume root {root:?} is not an absolute path below /, without . and ..; give --volume-root /DIRECTORY")]
pub struct RootError {
    /// What was given.
    pub root: PathBuf,
}

impl VolumeRoots {
    /// The roots that the operator lists. They are opened when a volume is looked for: a file system may be mounted later.
    ///
    /// # Errors
    /// If one is no plain absolute path, or is `/`.
    pub fn new(roots: &[PathBuf]) -> Result<Self, RootError> {
        let plain = |root: &&PathBuf| !(is_plain(root) && root.parent().is_some());
        match roots.iter().find(plain) {
            Some(root) => Err(RootError { root: root.clone() }),
            // Without a trailing slash, which would read as an empty last component.
            None => Ok(Self { roots: roots.iter().map(|root| root.components().collect()).collect() }),
        }
    }

    /// Directories and devices that volumes may be in, as they were given.
    pub fn paths(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The disk of the volume at `path`. Waits for files.
    ///
    /// # Errors
    /// If it is below no root, or is not what it should be.
    pub fn find(&self, path: &str) -> Result<VolumeDisk, FindError> {
        let not_allowed = || FindError::NotAllowed { path: path.to_owned() };
        let wanted = Path::new(path);
        if !is_plain(wanted) {
            return Err(not_allowed());
        }
        // The nearest root, should one be in another.
        let below = self.roots.iter().filter_map(|root| Some((root, wanted.strip_prefix(root).ok()?)));
        let (root, rest) = below.min_by_key(|(_, rest)| rest.components().count()).ok_or_else(not_allowed)?;
        let rest: Vec<&str> = rest.iter().filter_map(std::ffi::OsStr::to_str).collect();
        let Some((last, above)) = rest.split_last() else { return find_at_root(root) };
        let directory = above.iter().try_fold(Directory::open_root(root)?, |at, name| at.subdirectory(name))?;
        let entry = directory.entry(last)?;
        match entry.kind {
            EntryKind::Directory => disk_in(&directory.subdirectory(last)?),
            EntryKind::BlockDevice => block(directory.path_of(last), &entry),
            EntryKind::File | EntryKind::Other(_) => {
                Err(FindError::NotADisk { path: directory.path_of(last), what: entry.kind.describe() })
            }
        }
    }
}

/// A volume that is a root itself. The root's own links are the operator's, and followed: `/dev/mapper/NAME` is one.
fn find_at_root(root: &Path) -> Result<VolumeDisk, FindError> {
    let path = root.canonicalize().map_err(|e| FileError::new("open", root, e))?;
    let entry = entry_of(&path)?;
    if entry.kind == EntryKind::BlockDevice { block(path, &entry) } else { disk_in(&Directory::open_root(&path)?) }
}

fn disk_in(directory: &Directory) -> Result<VolumeDisk, FindError> {
    let path = directory.path_of(DISK_FILE);
    let entry = match directory.entry(DISK_FILE) {
        Ok(entry) => entry,
        Err(error) if error.is_not_found() => return Err(FindError::NoDisk { path }),
        Err(error) => return Err(error.into()),
    };
    match entry.kind {
        EntryKind::File => {
            let identity = format!("file:{}:{}", entry.device, entry.inode);
            Ok(VolumeDisk { path, is_block: false, bytes: entry.bytes, identity })
        }
        EntryKind::BlockDevice => block(path, &entry),
        EntryKind::Directory | EntryKind::Other(_) => Err(FindError::NotADisk { path, what: entry.kind.describe() }),
    }
}

/// A block device. Its size is asked of the kernel by number: opening it may be forbidden to an agent in a pod, and waits for some devices.
fn block(path: PathBuf, entry: &Entry) -> Result<VolumeDisk, FindError> {
    let (major, minor) = (nix::sys::stat::major(entry.special), nix::sys::stat::minor(entry.special));
    let size = format!("/sys/dev/block/{major}:{minor}/size");
    let sectors = std::fs::read_to_string(&size).map_err(|e| FileError::new("read", &size, e))?;
    let invalid = |e| FileError::new("read", &size, std::io::Error::new(std::io::ErrorKind::InvalidData, e));
    let sectors: u64 = sectors.trim().parse().map_err(invalid)?;
    Ok(VolumeDisk { path, is_block: true, bytes: sectors * SECTOR_BYTES, identity: format!("block:{major}:{minor}") })
}

/// Whether a path is absolute and has nothing in it that leads elsewhere than it reads. A slash at its end is let pass.
fn is_plain(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    let parts = text.strip_suffix('/').unwrap_or(text).split('/').skip(1);
    path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && text.starts_with('/')
        && !text.chars().any(char::is_control)
        && parts.clone().all(|part| !part.is_empty() && part != ".")
}

impl FindError {
    /// One word for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAllowed { .. } => "VolumeNotAllowed",
            Self::NoDisk { .. } => "DiskImageMissing",
            Self::File(_) | Self::Silent { .. } | Self::NotADisk { .. } => "VolumeUnusable",
        }
    }
}

#[cfg(test)]
mod tests;

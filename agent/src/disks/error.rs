//! What can go wrong with a VM's disks.

use std::path::{Path, PathBuf};

use super::qemu_img::QemuImgError;
use crate::hostfs::FileError;
use crate::images::StoreError;
use crate::images::qcow2::Qcow2Error;
use crate::seed::SeedTooLarge;
use crate::volumes::{FindError, HoldError};

/// Why the disks of a VM are not ready.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The images could not be claimed.
    #[error(transparent)]
    Images(#[from] StoreError),
    /// A disk of a PersistentVolume is another guest's, or cannot be taken.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The VM's directory cannot be made or written.
    #[error(transparent)]
    Directory(#[from] FileError),
    /// A volume could not be made, or is not what it should be.
    #[error("volume {volume}")]
    Volume {
        /// Name of the volume.
        volume: String,
        /// Why.
        #[source]
        source: VolumeError,
    },
    /// The file system is full.
    #[error("the file system of {} is full; free space there", directory.display())]
    Full {
        /// The directory that was written to.
        directory: PathBuf,
        /// What failed.
        #[source]
        source: Box<PrepareError>,
    },
}

/// Why the disks of a VM were not deleted or listed.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// A file cannot be deleted, or a directory not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its images could not be given back.
    #[error(transparent)]
    Images(#[from] StoreError),
    /// Its disks of PersistentVolumes could not be given back.
    #[error(transparent)]
    Hold(#[from] HoldError),
}

/// What is wrong with one volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The overlay or the empty disk could not be made.
    #[error(transparent)]
    QemuImg(#[from] QemuImgError),
    /// The PersistentVolume cannot be used.
    #[error("PersistentVolume {persistent_volume}")]
    Find {
        /// Its name.
        persistent_volume: String,
        /// Why.
        #[source]
        source: FindError,
    },
    /// It was not among those that were found.
    #[error("its PersistentVolume was not looked for")]
    NotFound,
    /// The user data does not fit.
    #[error(transparent)]
    Seed(#[from] SeedTooLarge),
    /// The file is there and is not one of ours. It is not made again: a guest may have written to it.
    #[error("{}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Qcow2Error,
    },
    /// The file is there and is another disk than the recorded one. It is not made again: a guest may have written to it.
    #[error("{} is not the recorded disk: {difference}", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// What is different.
        difference: String,
    },
}

impl PrepareError {
    /// Stable word for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Images(StoreError::NotFound(_)) => "ErrImageNotFound",
            Self::Images(_) => "ImageStoreFailed",
            Self::Hold(error) => error.reason(),
            Self::Volume { source: VolumeError::Unreadable { .. } | VolumeError::Differs { .. }, .. } => "DiskDiffers",
            Self::Volume { source: VolumeError::Find { source, .. }, .. } => source.reason(),
            Self::Volume { source: VolumeError::Seed(_), .. } => "UserDataTooLarge",
            Self::Directory(_) | Self::Volume { .. } => "DiskFailed",
            Self::Full { .. } => "DiskFull",
        }
    }

    /// The directory whose file system is full, if that is why: `own`, which holds all that is made, or that of the locks.
    pub(super) fn full_directory<'a>(&'a self, own: &'a Path) -> Option<&'a Path> {
        let is_full = match self {
            Self::Hold(e) => return e.full_directory(),
            Self::Full { directory, .. } => return Some(directory),
            Self::Images(e) => e.is_full(),
            Self::Directory(e) | Self::Volume { source: VolumeError::File(e), .. } => e.is_full(),
            Self::Volume { source: VolumeError::QemuImg(e), .. } => e.is_full(),
            Self::Volume { .. } => false,
        };
        is_full.then_some(own)
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_full_file_system_is_named_by_what_was_written_there() {
        let own = Path::new("/var/lib/ovm/vms");
        let error = |path: &str| FileError::new("write", path, Errno::ENOSPC);
        let locks = PrepareError::from(HoldError::from(error("/run/lock/ovm-disks/1.json")));
        assert_eq!(locks.full_directory(own), Some(Path::new("/run/lock/ovm-disks")));
        assert_eq!(PrepareError::from(error("/var/lib/ovm/vms/1/seed-0.iso")).full_directory(own), Some(own));
        let refused = HoldError::from(FileError::new("write", "/run/lock/ovm-disks/1.json", Errno::EACCES));
        assert_eq!(PrepareError::from(refused).full_directory(own), None);
    }
}

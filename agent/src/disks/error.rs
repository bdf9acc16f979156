//! What can go wrong with a VM's disks.

use std::path::PathBuf;

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

    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Images(e) => e.is_full(),
            Self::Hold(e) => e.is_full(),
            Self::Directory(e) | Self::Volume { source: VolumeError::File(e), .. } => e.is_full(),
            Self::Volume { source: VolumeError::QemuImg(e), .. } => e.is_full(),
            Self::Volume { .. } => false,
            Self::Full { .. } => true,
        }
    }
}

//! What can go wrong with the store.

use std::path::PathBuf;

use super::claims::{VmReference, name_some};
use super::format::RefusedFormat;
use super::index::IndexError;
use super::name::ImageName;
use crate::hostfs::FileError;

/// VMs named in an error.
const SHOWN_VMS: usize = 10;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The index cannot be used.
    #[error("image index {}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: IndexError,
    },
    /// A claim cannot be read, so nobody can tell what may be deleted.
    #[error("{} is damaged; delete it if the VirtualMachine of that UID is gone", path.display())]
    DamagedClaim {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// libvirt's XML and our records hold text only.
    #[error("the path of the data directory {} is not UTF-8", .0.display())]
    PathNotText(PathBuf),
    /// No image of this name.
    #[error("image {0} is not on this node; import it: ovm-agent image import {0} FILE")]
    NotFound(ImageName),
    /// VMs still stand on the image.
    #[error("image {name} is in use by {}; delete these VirtualMachines first", name_some(used_by, SHOWN_VMS))]
    InUse {
        /// The image.
        name: ImageName,
        /// Its users.
        used_by: Vec<VmReference>,
    },
    /// A disk file has been deleted by hand, or cut short.
    #[error("disk file {} is damaged or missing; import image {full_name} again, from the same file", path.display())]
    DiskFileMissing {
        /// The disk file.
        path: PathBuf,
        /// The image.
        full_name: String,
    },
    /// All that could go is gone, and the rest is too much.
    #[error(
        "the image store may hold {limit_bytes} bytes and holds {used_bytes} that are in use or imported; raise --image-store-limit, or remove images: ovm-agent image list"
    )]
    Limit {
        /// What it may hold.
        limit_bytes: u64,
        /// What it holds.
        used_bytes: u64,
    },
    /// The VM has claimed other images than the ones asked for now, though a bound VM's spec does not change.
    #[error("VirtualMachine {vm} has claimed other images than its spec names now")]
    ClaimDiffers {
        /// The VM.
        vm: VmReference,
    },
}

impl StoreError {
    /// Whether the file system is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::File(e) if e.is_full())
    }
}

/// Why a file was not imported. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read, or its copy cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no disk that can be used.
    #[error("{} cannot be imported", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do instead.
        #[source]
        source: RefusedFormat,
    },
    /// Somebody wrote to the file meanwhile.
    #[error("{} changed while it was copied; try again when nothing writes to it", .0.display())]
    Changed(PathBuf),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    /// Whether the store's file system is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::File(e) => e.is_full(),
            Self::Store(e) => e.is_full(),
            Self::Refused { .. } | Self::Changed(_) => false,
        }
    }
}

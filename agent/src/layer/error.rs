//! Why a layer is refused.

use std::io;

use crate::images::Digest;

/// Why a layer gives no disk. Text from the layer is shown escaped.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer cannot be read further.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// The disk cannot be written.
    #[error("write the disk")]
    Write(#[source] io::Error),
    /// What it is packed with is damaged.
    #[error("it is not {0}, though it begins so; build and push the image again")]
    Packing(&'static str),
    /// More than may be unpacked.
    #[error("it unpacks to more than {limit_bytes} bytes; raise --image-size-limit if the disk is that large")]
    TooLarge {
        /// What may be.
        limit_bytes: u64,
    },
    /// Other bytes than the manifest or the configuration says.
    #[error("{what} should have digest {expected}, and has {found}")]
    DigestMismatch {
        /// Which bytes.
        what: &'static str,
        /// What was said.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A layer that ought to be an archive is none.
    #[error("it is no tar archive")]
    NoArchive,
    /// The archive ends in the middle of something.
    #[error("its archive is cut short")]
    Truncated,
    /// The archive says something that cannot be.
    #[error("its archive is damaged: {0}")]
    Damaged(&'static str),
    /// A name that leads elsewhere.
    #[error("its archive holds the name {0:?}, which leads elsewhere")]
    Path(String),
    /// Two headers of one entry say different things, so that two readers would see two disks.
    #[error("its archive has two headers that disagree about the {field} of {name:?}")]
    Disagreement {
        /// What they disagree about.
        field: &'static str,
        /// The entry.
        name: String,
    },
    /// What should be a disk is none.
    #[error("{name:?} is {kind}, not a plain file")]
    Kind {
        /// The entry.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A file with holes that the archive does not hold.
    #[error("{0:?} is stored as a sparse file; pack it again without tar's --sparse")]
    Sparse(String),
    /// More than one disk.
    #[error("it holds more than one disk in /disk: {0:?} is the second")]
    TwoDisks(String),
}

impl LayerError {
    /// An error that came through a reader: our own, if it is one.
    pub(super) fn from_io(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read(error),
        })
    }

    /// As an error of a reader, to pass through those above it.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

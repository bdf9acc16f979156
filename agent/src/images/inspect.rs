//! Who looks at the header of a disk that a stranger made.

use std::fs::File;

use super::format::DetectedFormat;

/// Looks at disks.
pub trait Inspect: Send + Sync + 'static {
    /// What the file is, if it is a disk that can be used.
    ///
    /// # Errors
    /// If it is refused, or could not be looked at.
    fn inspect(&self, file: &File) -> Result<DetectedFormat, InspectError>;
}

/// Why a disk has no verdict, or a bad one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// It cannot be used; the text says what to do instead.
    #[error("{0}")]
    Refused(String),
    /// It could not be looked at.
    #[error("look at its header: {0}")]
    Failed(String),
}

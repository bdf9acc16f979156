//! The images of this node: disk files that VMs' overlays stand on, and the names by which `registryDisk.image` finds them.
//!
//! ```text
//! <data-dir>/images/
//!   lock                        flock: shared to read and to claim, exclusive to change names and to delete
//!   index.json                  name -> disk file; replaced as a whole
//!   blobs/sha256-<hex>.qcow2    disk files, named by content, never changed once they are there
//!   claims/<VM UID>.json        which VM stands on which disk files
//!   incoming/<random>           copies being made; each is locked by its maker, so what is not locked is left over from a crash
//! ```
//!
//! Whoever opens the store may be the agent or a command beside it: all of them go by the files and the lock, and none talks to another.
//! A disk file that neither a name nor a claim refers to is deleted at the next change. Nothing here knows domains, or pulls from registries.

pub mod claims;
mod copy;
pub mod error;
pub mod format;
mod incoming;
pub mod index;
pub mod inspect;
pub mod inspector;
pub mod name;
pub mod pull;
mod pulled;
pub mod puller;
pub mod qcow2;
pub mod sandbox;
pub mod store;

/// Characters of a stranger's words that are passed on.
const MAX_STRANGERS_WORDS: usize = 500;

/// Where the agent keeps its state unless it is told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/ovm";

pub use claims::{ClaimedImage, VmReference, name_some};
pub use error::{ImportError, StoreError};
pub use format::{DiskFormat, RefusedFormat};
pub use index::{Blob, Digest, Image, Pulled};
pub use inspect::{Inspect, InspectError};
pub use name::{ImageName, ImageNameError};
pub use pull::{Progress, PullError, PullRequest, PullSettings, pull};
pub use pulled::Pruned;
pub use puller::{Fetched, Puller, named_image};
pub use store::{ImageStore, ImportedImage, ListedImage};

/// A stranger's words on one line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STRANGERS_WORDS).collect()
}

/// A size in the largest binary unit that leaves something before the point, with one digit after it: `11.5Mi`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{}{unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes}"),
    }
}

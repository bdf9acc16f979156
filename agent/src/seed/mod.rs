//! The NoCloud seed: a small CD image by which cloud-init in the guest gets its user data and the guest's name.
//!
//! Contract: <https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>: a file system labelled `cidata` with the files
//! `meta-data` and `user-data`. User data may hold secrets, so it goes into this image (mode 0600) and nowhere else.

mod iso;

use std::fmt;

use iso::{IsoFile, make_iso};
use uuid::Uuid;

/// The label by which cloud-init finds the seed.
pub const SEED_LABEL: &str = "cidata";

/// A Secret holds at most 1 MiB, and inline user data far less.
pub const MAX_USER_DATA_BYTES: usize = 1 << 20;

/// What a seed tells the guest.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// Tells cloud-init whether it has run for this guest before: the UID of the VirtualMachine object.
    pub instance_id: Uuid,
    /// The guest's host name: the name of the VirtualMachine.
    pub local_hostname: String,
    /// The user data, as the user wrote it.
    pub user_data: Vec<u8>,
}

/// Leaves out the user data: it may hold secrets.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed")
            .field("instance_id", &self.instance_id)
            .field("local_hostname", &self.local_hostname)
            .field("user_data", &format_args!("{} bytes", self.user_data.len()))
            .finish()
    }
}

/// The user data is longer than a seed takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user data of {bytes} bytes exceeds the limit of {MAX_USER_DATA_BYTES} bytes")]
pub struct SeedTooLarge {
    /// Its length.
    pub bytes: usize,
}

impl Seed {
    /// The CD image. The same seed gives the same bytes.
    ///
    /// # Errors
    /// If the user data is too long.
    pub fn to_iso(&self) -> Result<Vec<u8>, SeedTooLarge> {
        let too_large = SeedTooLarge { bytes: self.user_data.len() };
        if self.user_data.len() > MAX_USER_DATA_BYTES {
            return Err(too_large);
        }
        let meta_data = self.meta_data();
        make_iso(
            SEED_LABEL,
            &[
                IsoFile { name: "meta-data", content: meta_data.as_bytes() },
                IsoFile { name: "user-data", content: &self.user_data },
            ],
        )
        .ok_or(too_large)
    }

    /// YAML. Quoted, because a name such as `123` or `on` is no string in YAML otherwise; a JSON string is a YAML one.
    fn meta_data(&self) -> String {
        format!(
            "instance-id: \"{}\"\nlocal-hostname: {}\n",
            self.instance_id,
            serde_json::Value::from(self.local_hostname.as_str())
        )
    }
}

#[cfg(test)]
mod tests;

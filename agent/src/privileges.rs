//! A command that root runs on the service's files works as the service's user: what root made there, the service could not open.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

/// Why the process did not become the owner of a directory.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// The directory cannot be looked at.
    #[error("look at {path}")]
    Look {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses another user.
    #[error("work as user {uid}, who owns {path}")]
    User {
        /// The directory.
        path: String,
        /// Its owner.
        uid: Uid,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The kernel refuses a capability.
    #[error("keep the right to read all files")]
    Capability(#[source] CapsError),
}

/// Where root runs this and `directory` is another user's, goes on as that user, for good, and with the one right more to read all files: what is imported may
/// be root's. To be called before there is a second thread.
///
/// # Errors
/// If the owner is not known, or the kernel refuses.
pub fn become_owner_of(directory: &Path) -> Result<(), PrivilegesError> {
    let path = || directory.display().to_string();
    let owner = match directory.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(PrivilegesError::Look { path: path(), source }),
    };
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    if !geteuid().is_root() || uid.is_root() {
        return Ok(());
    }
    caps::securebits::set_keepcaps(true).map_err(PrivilegesError::Capability)?;
    setgroups(&[gid])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|source| PrivilegesError::User { path: path(), uid, source })?;
    let kept = CapsHashSet::from([Capability::CAP_DAC_READ_SEARCH]);
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(PrivilegesError::Capability)?;
    }
    Ok(())
}

//! The data directory: made where it is missing, and held by one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::StartError;

/// Held while the server lives; its content is the holder's process id, for error messages only.
const LOCK_FILE: &str = "apiserver.lock";

/// A data directory that this process alone uses. The kernel frees the lock however the process ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Makes the directory where it is missing, and takes its lock. Others may pass through it (0711), for what its owner keeps there for other
    /// users; what is secret is a file of 0600 or in a directory of 0700.
    pub(crate) fn lock(path: &Path) -> Result<Self, StartError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::DataDir { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(unusable(path))?;
        let path = fs::canonicalize(path).map_err(unusable(path))?;
        let lock_path = path.join(LOCK_FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(unusable(&lock_path))?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
            if errno != nix::errno::Errno::EWOULDBLOCK {
                return StartError::DataDir { path: lock_path.clone(), source: errno.into() };
            }
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid).is_ok();
            StartError::InUse { path: path.clone(), pid: pid.trim().parse().ok().filter(|_| read) }
        })?;
        let write_pid = |lock: &mut Flock<File>| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        // A full disk must not keep the server from serving reads: the id is a convenience.
        if let Err(error) = write_pid(&mut lock) {
            tracing::warn!(path = %lock_path.display(), %error, "cannot write process id");
        }
        Ok(Self { path, _lock: lock })
    }

    /// The directory's absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

//! One agent per libvirt: a lock on this host, keyed by the URI. The kernel gives it back however the agent ends.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The lock. It is held until this is dropped.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent (process {holder}) already manages {uri}; stop it, or give this one another --libvirt-uri")]
    Held {
        /// The libvirt.
        uri: String,
        /// Process id of the other agent, as it wrote it down.
        holder: String,
    },
    /// The file cannot be used.
    #[error("lock {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl HostLock {
    /// Whether an agent has the lock of a libvirt.
    pub fn is_held(directory: &Path, uri: &str) -> bool {
        // Reading is enough to ask.
        let asked = File::open(path_of(directory, uri)).map(|file| file.try_lock_shared());
        matches!(asked, Ok(Err(TryLockError::WouldBlock)))
    }

    /// Takes the lock for a libvirt, with a file in `directory`.
    ///
    /// # Errors
    /// If another agent has it, or the file cannot be used.
    pub fn take(directory: &Path, uri: &str) -> Result<Self, LockError> {
        let path = path_of(directory, uri);
        let failed = |source| LockError::File { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let mut file = open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                return Err(LockError::Held { uri: uri.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        // What counts is the lock; its holder is named for the error of a second agent.
        match written {
            Err(error) if !is_not_ours(&error) => Err(failed(error)),
            _ => Ok(Self { _file: file }),
        }
    }
}

fn path_of(directory: &Path, uri: &str) -> PathBuf {
    use std::fmt::Write as _;

    let mut name = String::from("ovm-agent-");
    for byte in Sha256::digest(uri).iter().take(8) {
        let _ = write!(name, "{byte:02x}"); // writing to a String cannot fail
    }
    directory.join(format!("{name}.lock"))
}

/// Opens the lock's file, whoever made it. Where all may write, the kernel lets nobody open another user's file with O_CREAT, not even root
/// (<https://docs.kernel.org/admin-guide/sysctl/fs.html#protected-regular>); and reading is enough to lock.
fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
            // Whatever the umask is: others ask whether it is held.
            file.set_permissions(Permissions::from_mode(0o644))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    }
}

/// Whether an error says that the file is open for reading only: `EBADF` for a write, `EINVAL` for a cut.
fn is_not_ours(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_one_libvirt_is_refused_and_told_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!HostLock::is_held(directory.path(), "qemu:///system"));
        let first = HostLock::take(directory.path(), "qemu:///system").unwrap();
        assert!(HostLock::is_held(directory.path(), "qemu:///system"));
        let error = HostLock::take(directory.path(), "qemu:///system").unwrap_err().to_string();
        assert!(error.contains("qemu:///system") && error.contains(&std::process::id().to_string()), "{error}");
        HostLock::take(directory.path(), "qemu+unix:///system?socket=/other").unwrap();
        drop(first);
        HostLock::take(directory.path(), "qemu:///system").unwrap();
    }
}

//! Where the certificate is kept: a directory `pki` in the agent's own. What is written belongs to the owner of the agent's directory, whoever writes it:
//! a host is joined by root, and its agent may run as another user.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, fchown};

use crate::hostfs::{Directory, FileError};

const DIRECTORY: &str = "pki";
/// Certificate and key in force.
const CURRENT: &str = "agent-current.pem";
/// Key of a request whose certificate has not come yet.
const PENDING: &str = "agent-pending.key";
/// Far more than a certificate and a key are.
const MOST_BYTES: u64 = 1 << 20;

/// A joined agent's files.
#[derive(Debug)]
pub struct CredentialStore {
    directory: Directory,
    owner: (Uid, Gid),
}

impl CredentialStore {
    /// Opens the files in the agent's directory; makes what is missing of the directories.
    ///
    /// # Errors
    /// If that fails.
    pub fn open(data_dir: &Path) -> Result<Self, FileError> {
        let root = Directory::open_or_create_root(data_dir)?;
        let metadata = root.path().metadata().map_err(|error| FileError::new("look at", root.path(), error))?;
        let owner = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        let directory = root.subdirectory_or_create(DIRECTORY)?;
        let store = Self { directory, owner };
        let handle = File::open(store.directory.path())
            .map_err(|error| FileError::new("open", store.directory.path(), error))?;
        store.hand_over(&handle, store.directory.path())?;
        Ok(store)
    }

    /// The file of a joined agent's certificate and key below its directory, whether it is there or not.
    pub fn current_path(data_dir: &Path) -> PathBuf {
        data_dir.join(DIRECTORY).join(CURRENT)
    }

    /// Certificate and key in force; none if there are none.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn current(&self) -> Result<Option<String>, FileError> {
        self.read(CURRENT)
    }

    /// Puts certificate and key in the place of those before, as a whole and for good, and forgets the pending key.
    ///
    /// # Errors
    /// If they cannot be written; those before stay then.
    pub fn put_current(&self, pem: &str) -> Result<(), FileError> {
        self.write(CURRENT, pem)?;
        self.forget_pending()
    }

    /// The key of a request whose certificate has not come yet.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn pending_key(&self) -> Result<Option<String>, FileError> {
        self.read(PENDING)
    }

    /// Keeps the key of a request before it is sent.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put_pending_key(&self, pem: &str) -> Result<(), FileError> {
        self.write(PENDING, pem)
    }

    /// Removes the pending key.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn forget_pending(&self) -> Result<(), FileError> {
        self.directory.remove_file_if_exists(PENDING).map(drop)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn clear(&self) -> Result<(), FileError> {
        self.directory.remove_file_if_exists(CURRENT)?;
        self.forget_pending()?;
        self.directory.sync()
    }

    /// Makes a file belong to the owner of the agent's directory. It fails where somebody else than root writes for somebody else.
    fn hand_over(&self, file: &File, path: &Path) -> Result<(), FileError> {
        let failed = |error: std::io::Error| FileError::new("set the owner of", path, error);
        let found = file.metadata().map_err(failed)?;
        if (found.uid(), found.gid()) == (self.owner.0.as_raw(), self.owner.1.as_raw()) {
            return Ok(());
        }
        fchown(file, Some(self.owner.0), Some(self.owner.1)).map_err(|error| failed(error.into()))
    }

    fn read(&self, name: &str) -> Result<Option<String>, FileError> {
        let bytes = self.directory.read_if_exists(name, MOST_BYTES)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), FileError> {
        self.write_into(&self.directory, name, text)
    }

    /// Writes a file (0600) of any directory, whole and for good, that belongs to the owner of the agent's directory.
    ///
    /// # Errors
    /// If it cannot be written, or its owner not be set.
    pub(crate) fn write_into(&self, directory: &Directory, name: &str, text: &str) -> Result<(), FileError> {
        directory.write_atomically(name, text.as_bytes())?;
        self.hand_over(&directory.open_file(name)?, &directory.path_of(name))?;
        directory.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_is_for_nobody_else_and_replaced_as_a_whole() {
        let data = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(data.path()).unwrap();
        assert_eq!(store.current().unwrap(), None);
        store.put_pending_key("key").unwrap();
        store.put_current("one").unwrap();
        store.put_current("two").unwrap();
        assert_eq!((store.current().unwrap().as_deref(), store.pending_key().unwrap()), (Some("two"), None));
        let path = CredentialStore::current_path(data.path());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let owner = |path: &Path| path.metadata().unwrap().uid();
        assert_eq!(owner(&path), owner(data.path()));
        store.clear().unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }
}

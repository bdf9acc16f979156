//! A directory for servers, which a later run removes where this one was killed before it could.
//!
//! Its owner holds a lock on the file `.owner` in it, which the kernel drops with the process. Whoever gets that lock may remove the directory.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::cgroups;

/// What the names of these directories begin with.
const PREFIX: &str = "ovm-kube-";

/// The file that the owner holds locked.
const OWNER: &str = ".owner";

/// A directory below the system's temporary one. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct OwnDirectory {
    directory: TempDir,
    // Held, never read.
    _owner: Flock<File>,
}

impl OwnDirectory {
    /// Makes one, and removes those whose owners are gone.
    pub(crate) fn create() -> Result<Self> {
        remove_leftovers(&std::env::temp_dir())?;
        Self::create_in(&std::env::temp_dir())
    }

    fn create_in(parent: &Path) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).context("make a directory for servers")?;
        // Under its own name only once it is locked: nobody may find it without.
        let unnamed = directory.path().join(".owner.new");
        let file = File::create(&unnamed).with_context(|| format!("create {}", unnamed.display()))?;
        let owner = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("lock {}", unnamed.display()))?;
        fs::rename(&unnamed, directory.path().join(OWNER)).context("name the owner's file")?;
        Ok(Self { directory, _owner: owner })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn remove_leftovers(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent).with_context(|| format!("list {}", parent.display()))? {
        let entry = entry.with_context(|| format!("list {}", parent.display()))?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Without the file it is being made, or being removed.
        let Ok(file) = File::open(entry.path().join(OWNER)) else { continue };
        if let Ok(_owner) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Two sweeps at a time: the other one may be faster.
            let _removed = fs::remove_dir_all(entry.path());
            let _left = cgroups::remove(&entry.file_name().to_string_lossy());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_outlives_its_owner_until_the_next_sweep() {
        let parent = tempfile::tempdir().unwrap();
        let kept = OwnDirectory::create_in(parent.path()).unwrap();
        let OwnDirectory { directory, _owner: owner } = OwnDirectory::create_in(parent.path()).unwrap();
        // As after a kill: the lock is gone, the directory is not.
        let left = directory.keep();
        owner.unlock().unwrap();
        remove_leftovers(parent.path()).unwrap();
        assert!(!left.exists(), "{} is left", left.display());
        assert!(kept.path().exists(), "a directory in use was removed");
    }
}

//! A file system that is soon full: a tmpfs in a mount namespace of the calling thread and of the programs that it starts. It goes with them, even if
//! the test is killed.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// A small disk, mounted for this thread.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Mounts a disk of so many MiB. Programs have to be started after this to see it.
    ///
    /// # Errors
    /// When the host does not let us: it takes root.
    pub fn mount(mebibytes: u32) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ovm-small-disk-").tempdir().context("make a mount point")?;
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("keep mounts to ourselves")?;
        let size = format!("size={mebibytes}m");
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .context("mount a tmpfs")?;
        // QEMU runs as another user, and its files are below.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).context("open the disk to QEMU")?;
        Ok(Self { directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes so many MiB.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn take(&self, mebibytes: usize) -> Result<()> {
        fs::write(self.filler(), vec![0_u8; mebibytes << 20]).context("take room on the disk")
    }

    /// Takes all room that is left.
    ///
    /// # Errors
    /// When that fails for another reason than a full disk.
    pub fn fill(&self) -> Result<()> {
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(self.filler()).context("open the filler")?;
        let block = [0_u8; 4096];
        loop {
            match file.write(&block) {
                Ok(0) => bail!("the filler takes no more, and the disk is not full"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
    }

    /// Gives back what [`Self::take`] or [`Self::fill`] took.
    ///
    /// # Errors
    /// When it took nothing.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("remove the filler")
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

/// Else the mount point could not be removed.
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone_with_the_thread = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

//! A file system that does not answer, for tests of what becomes of those who wait for it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounted until it is dropped; then whoever waits for it is told that it is gone.
pub(crate) struct SilentMount {
    path: PathBuf,
    fuse: Option<File>,
}

impl SilentMount {
    /// Mounts one over a directory. None, said loudly: this host lets nobody.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let mounted = File::options().read(true).write(true).open("/dev/fuse").and_then(|fuse| {
            // Nobody reads what the kernel asks of it.
            let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
            mount(Some("silent"), path, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
            Ok(fuse)
        });
        match mounted {
            Ok(fuse) => Some(Self { path: path.to_owned(), fuse: Some(fuse) }),
            Err(error) => {
                let test = std::thread::current().name().unwrap_or_default().to_owned();
                eprintln!("SKIPPED {test}: no file system of its own to mount: {error}");
                None
            }
        }
    }
}

impl Drop for SilentMount {
    fn drop(&mut self) {
        self.fuse = None;
        umount2(&self.path, MntFlags::MNT_DETACH).unwrap();
    }
}

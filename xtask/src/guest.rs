//! The guests that are built from Debian packages: the demo guest, and one with cloud-init for tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// The files of the demo guest.
#[derive(Debug)]
pub(crate) struct Guest {
    /// A bootable raw disk.
    pub(crate) disk: PathBuf,
    /// Its kernel, to boot without the disk.
    pub(crate) kernel: PathBuf,
}

/// Builds the guest where it is not up to date. Always in `target/guest` of the repository, wherever cargo builds: scripts rely on that name.
pub(crate) fn build(workspace: &Workspace) -> Result<Guest> {
    process::run(&mut Command::new(workspace.root.join("xtask/guest/build.sh")))?;
    let folder = workspace.root.join("target/guest");
    Ok(Guest { disk: folder.join("disk.img"), kernel: folder.join("vmlinuz") })
}

/// Builds the guest with cloud-init where it is not up to date: `target/cloud-guest/disk.img`.
pub(crate) fn build_cloud(workspace: &Workspace) -> Result<()> {
    process::run(&mut Command::new(workspace.root.join("xtask/cloud-guest/build.sh")))
}

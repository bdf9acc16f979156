//! The root that hosts are clones of, and their clones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::programs::{output, repository};

/// The root of a host, deleted when it is dropped: what was changed lies over what is shared where the kernel can do that, else it is a copy.
#[derive(Debug)]
pub(super) struct RootClone {
    folder: TempDir,
    is_mounted: bool,
}

/// Why there is no root; `None` if there is one.
pub(super) fn why_missing() -> Option<String> {
    let made = made();
    (!made.join("made-from").is_file()).then(|| format!("{} is not made; run `cargo xtask host-root`", made.display()))
}

fn made() -> PathBuf {
    repository().join("target/host-root")
}

impl RootClone {
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ovm-host-").tempdir().context("make a folder for a host")?;
        let mut clone = Self { folder, is_mounted: false };
        for name in ["upper", "work", "root"] {
            fs::create_dir(clone.folder().join(name)).context("make a folder for a host")?;
        }
        let (base, path) = (made().join("root"), clone.folder().display().to_string());
        let layers = format!("lowerdir={},upperdir={path}/upper,workdir={path}/work", base.display());
        let mounted = output(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(clone.root()));
        clone.is_mounted = mounted.is_ok();
        if !clone.is_mounted {
            let copy = ["--archive", "--reflink=auto", "--no-target-directory"];
            output(Command::new("cp").args(copy).arg(base).arg(clone.root()))?;
        }
        Ok(clone)
    }

    /// The host's `/`.
    pub(super) fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    /// A name that no other host has.
    pub(super) fn name(&self) -> Result<String> {
        let name = self.folder().file_name().and_then(|name| name.to_str());
        name.map(str::to_owned).context("a clone's folder has a name")
    }

    /// The folder around it, for what belongs to the host and is not in it.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for RootClone {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: a folder that cannot be deleted because something is still busy in it would be the worse leftover.
            let _unmounted = output(Command::new("umount").arg("--lazy").arg(self.root()));
        }
    }
}

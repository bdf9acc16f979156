//! Where the demo keeps its state: one folder, `.demo` in the repository unless said otherwise.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Everyone may pass through a folder with this bit; QEMU's user needs it on the way to the guests' disks.
const OTHERS_MAY_ENTER: u32 = 0o001;

/// The demo's folder.
#[derive(Debug)]
pub(crate) struct DemoState {
    folder: PathBuf,
    data: PathBuf,
}

impl DemoState {
    /// Makes the folder where it is missing, and decides where the data goes.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let folder = folder.canonicalize().with_context(|| format!("look at {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))
            .with_context(|| format!("open {}", folder.display()))?;
        let data = data_folder(&folder)?;
        if data != folder {
            fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
            fs::set_permissions(&data, fs::Permissions::from_mode(0o711))
                .with_context(|| format!("open {}", data.display()))?;
            let link = folder.join("kubeconfig");
            if link.symlink_metadata().is_err() {
                symlink(data.join("kubeconfig"), &link).with_context(|| format!("create {}", link.display()))?;
            }
        }
        Ok(Self { folder, data })
    }

    /// The folder if it is there.
    pub(crate) fn open_existing(folder: &Path) -> Result<Option<Self>> {
        if folder.exists() { Self::open(folder).map(Some) } else { Ok(None) }
    }

    /// `--data-dir` of `ovm-standalone`.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Written by `ovm-standalone`.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Another file of the demo: process ids, logs, notes.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes all of it.
    pub(crate) fn remove(self) -> Result<()> {
        if self.data != self.folder {
            fs::remove_dir_all(&self.data).with_context(|| format!("remove {}", self.data.display()))?;
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder.display()))
    }
}

/// The folder itself, unless a folder above it (a private home, mostly) is closed to QEMU's user: then a folder in /var/lib, one for each repository.
fn data_folder(folder: &Path) -> Result<PathBuf> {
    for ancestor in folder.ancestors().skip(1) {
        let mode =
            fs::metadata(ancestor).with_context(|| format!("look at {}", ancestor.display()))?.permissions().mode();
        if mode & OTHERS_MAY_ENTER == 0 {
            let name = folder.display().to_string().trim_matches('/').replace('/', "-");
            return Ok(Path::new("/var/lib/ovm-demo").join(name));
        }
    }
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_elsewhere_only_below_a_closed_folder() {
        let base = std::env::temp_dir().join(format!("ovm-xtask-state-{}", std::process::id()));
        let (open, closed) = (base.join("open"), base.join("closed"));
        for (folder, mode) in [(&open, 0o755), (&closed, 0o700)] {
            fs::create_dir_all(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(data_folder(&open.join(".demo")).unwrap(), open.join(".demo"));
        let elsewhere = data_folder(&closed.join(".demo")).unwrap();
        assert!(elsewhere.starts_with("/var/lib/ovm-demo"), "{}", elsewhere.display());
        fs::remove_dir_all(base).unwrap();
    }
}

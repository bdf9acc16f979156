//! Our packages, as `cargo xtask packages` leaves them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::programs::repository;

/// A package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// The agent, and what all share.
    Agent,
    /// Everything in one process.
    Standalone,
    /// The command line.
    Virtctl,
}

impl Package {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Standalone, Self::Virtctl];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "ovm-agent",
            Self::Standalone => "ovm-standalone",
            Self::Virtctl => "ovm-virtctl",
        }
    }

    /// Its file, the newest where there are several.
    ///
    /// # Errors
    /// When it is not built; the message says how.
    pub fn file(self) -> Result<PathBuf> {
        self.file_in(&repository().join("target/packages"))
    }

    /// The file of a higher version.
    ///
    /// # Errors
    /// As for [`Self::file`].
    pub fn newer_file(self) -> Result<PathBuf> {
        self.file_in(&repository().join("target/packages/newer"))
    }

    fn file_in(self, folder: &Path) -> Result<PathBuf> {
        let prefix = format!("{}_", self.name());
        let files = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let ours = files.filter(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            name.starts_with(&prefix) && file.path().extension().is_some_and(|extension| extension == "deb")
        });
        let newest = ours.max_by_key(|file| file.metadata().and_then(|file| file.modified()).ok());
        let newest = newest.with_context(|| {
            format!("no {prefix}*.deb in {}; run `cargo xtask packages --profile dev`", folder.display())
        })?;
        Ok(newest.path())
    }
}

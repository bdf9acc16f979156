//! Where things are in this repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// The packages with binaries that users run.
const RELEASED_PACKAGES: [&str; 4] = ["standalone", "controller", "agent", "virtctl"];

/// The repository that this command was started in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Its root folder.
    pub(crate) root: PathBuf,
    /// Cargo's target folder: `target`, or what `CARGO_TARGET_DIR` says.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo, which started us.
    pub(crate) fn find() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("start this with `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask is at the root of a file system")?.to_owned();
        let text = process::output(
            Command::new(cargo()).args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&root),
        )?;
        let metadata: serde_json::Value = serde_json::from_str(&text).context("read cargo's metadata")?;
        let target = metadata["target_directory"].as_str().context("cargo's metadata has no target_directory")?;
        Ok(Self { root, target: PathBuf::from(target) })
    }

    /// `cargo SUBCOMMAND` in the root.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo());
        command.arg(subcommand).current_dir(&self.root);
        // cargo's own words about us, which build scripts of others look at: with them everything would be built once more.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_")
                || name == "CARGO_MANIFEST_DIR"
                || name == "CARGO_MANIFEST_PATH"
            {
                command.env_remove(name);
            }
        }
        command
    }

    /// The version of all our packages.
    pub(crate) fn version(&self) -> Result<String> {
        let manifest = self.root.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("version = \""));
        let version = line.and_then(|rest| rest.split('"').next()).context("Cargo.toml names no version")?;
        Ok(version.to_owned())
    }

    /// A release binary. It exists after [`Self::build_release`].
    pub(crate) fn release_binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// Builds the binaries that users run, with optimisation, and those of `more` packages: in one go, so that all share one build of each dependency.
    pub(crate) fn build_release(&self, more: &[&str]) -> Result<()> {
        let packages = RELEASED_PACKAGES.iter().chain(more).flat_map(|package| ["--package", package]);
        process::run(self.cargo("build").args(["--locked", "--release", "--bins"]).args(packages))
    }
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

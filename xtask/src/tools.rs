//! Cargo's tools that the project needs: of one version each, built once into the target folder.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::process;
use crate::workspace::Workspace;

/// A tool, and the version that our configuration of it is written for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    flags: &'static [&'static str],
}

/// Checks licenses, sources and bans by deny.toml.
pub(crate) const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", flags: &["--no-default-features"] };
/// Makes Debian packages by `package.metadata.deb`.
pub(crate) const CARGO_DEB: Tool = Tool { name: "cargo-deb", version: "3.7.0", flags: &[] };

impl Tool {
    /// The program; built where it is neither installed nor built yet.
    ///
    /// # Errors
    /// When it cannot be built, such as without a network.
    pub(crate) fn installed(&self, workspace: &Workspace) -> Result<PathBuf> {
        let (name, version) = (self.name, self.version);
        let tools = workspace.target.join("tools");
        let own = tools.join("bin").join(name);
        if let Some(program) = process::find(name).or_else(|| own.is_file().then(|| own.clone())) {
            return Ok(program);
        }
        println!("building {name} {version}, once (about a minute)");
        // What runs for seconds is not worth a release build.
        let built = process::run(
            workspace
                .cargo("install")
                .args([name, "--version", version, "--locked", "--quiet", "--profile", "dev"])
                .args(self.flags)
                .arg("--root")
                .arg(&tools)
                .env("CARGO_TARGET_DIR", tools.join("build")),
        );
        fs::remove_dir_all(tools.join("build")).ok();
        built.with_context(|| format!("{name} {version} cannot be installed"))?;
        Ok(own)
    }
}

//! Tools that the project needs, from cargo's registry and Go's: of one version each, built once into the target folder.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

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

/// A tool in Go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoTool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

/// Renders and installs the chart.
pub(crate) const HELM: GoTool = GoTool { name: "helm", package: "helm.sh/helm/v3/cmd/helm", version: "v3.18.4" };

impl GoTool {
    /// The program; built where it is neither installed nor built yet.
    ///
    /// # Errors
    /// When it cannot be built, such as without Go or a network.
    pub(crate) fn installed(&self, workspace: &Workspace) -> Result<PathBuf> {
        let folder = Tool::folder(workspace);
        let own = folder.join(self.name);
        if let Some(program) = process::find(self.name).or_else(|| own.is_file().then(|| own.clone())) {
            return Ok(program);
        }
        let (name, version) = (self.name, self.version);
        println!("building {name} {version}, once (some minutes)");
        let built = process::run(
            Command::new("go").args(["install", &format!("{}@{version}", self.package)]).env("GOBIN", &folder),
        );
        built.with_context(|| format!("{name} {version} cannot be installed"))?;
        Ok(own)
    }
}

impl Tool {
    /// Where such programs are.
    pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
        workspace.target.join("tools/bin")
    }

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

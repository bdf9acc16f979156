//! The Debian packages, in `target/packages`: programs, units, configuration. What is in which is said by `package.metadata.deb` of each crate.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::process;
use crate::tools::CARGO_DEB;
use crate::workspace::Workspace;

/// The crates that packages are made of.
const CRATES: [&str; 3] = ["agent", "standalone", "virtctl"];
/// How the programs in the packages are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// For users
    Release,
    /// For tests: what `cargo build` leaves, in packages of 100 MB
    Dev,
}

/// Builds the programs where that is to be done, and packages them.
pub(crate) fn build(workspace: &Workspace, profile: Profile, revision: u32) -> Result<()> {
    let packages = CRATES.iter().flat_map(|name| ["--package", name]);
    let folder = workspace.target.join("packages");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    match profile {
        Profile::Release => workspace.build_release(&[])?,
        Profile::Dev => process::run(workspace.cargo("build").args(["--locked", "--bins"]).args(packages))?,
    }
    let cargo_deb = CARGO_DEB.installed(workspace)?;
    for name in CRATES {
        let mut command = Command::new(&cargo_deb);
        // cargo's own subcommands are told their name once more.
        command.args(["deb", "--no-build", "--locked", "--quiet", "--package", name]);
        command.args(["--deb-revision", &revision.to_string(), "--output"]).arg(&folder).current_dir(&workspace.root);
        if profile == Profile::Dev {
            command.args(["--profile", "dev", "--fast"]);
        }
        process::run(&mut command)?;
    }
    Ok(())
}

//! The root of a Debian host, which tests boot. Made by `xtask/host/root.sh`, once.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// Why it cannot be made by whoever asks, or on this host; `None` if it can.
pub(crate) fn why_unsupported() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let missing = ["debootstrap", "systemd-nspawn"].into_iter().find(|tool| process::find(tool).is_none());
    missing.map(|missing| format!("{missing} is not installed; xtask/host/install.sh installs it"))
}

/// Makes it where it is missing, in `target/host-root` of the repository: the tests look there.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    if let Some(why) = why_unsupported() {
        bail!("no root of a host is made: {why}");
    }
    let script = workspace.root.join("xtask/host/root.sh");
    process::run(Command::new(script).arg(workspace.root.join("target/host-root")))
}

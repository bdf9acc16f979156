//! The root of a Debian host, which tests boot. Made by `xtask/host/root.sh`, once.

use std::process::Command;

use crate::process;
use crate::workspace::Workspace;

/// Makes it where it is missing, in `target/host-root` of the repository: the tests look there.
///
/// Where it cannot be made this says loudly what is skipped, and is no error.
pub(crate) fn build(workspace: &Workspace) {
    let why = if !nix::unistd::geteuid().is_root() {
        "it needs root".to_owned()
    } else if let Some(missing) =
        ["debootstrap", "systemd-nspawn"].into_iter().find(|tool| process::find(tool).is_none())
    {
        format!("{missing} is not installed")
    } else {
        let mut script = Command::new(workspace.root.join("xtask/host/root.sh"));
        match process::run(script.arg(workspace.root.join("target/host-root"))) {
            Ok(()) => return,
            Err(error) => format!("{error:#}"),
        }
    };
    println!("SKIPPED hosts with systemd (units, packages, shutdown): {why}");
}

//! The host's libvirt: started where it is not up, and ended by `make stop` only if the demo started it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::running::{Noted, start_detached, wait_for};
use super::say;
use super::state::DemoState;
use crate::process;

/// Where the demo's guests run.
pub(super) const URI: &str = "qemu:///system";

/// The daemon looks over this host's QEMU before its first answer.
const DEADLINE: Duration = Duration::from_mins(1);

/// The noted processes, in the order in which they are ended.
const DAEMONS: [(&str, &str); 2] = [("libvirtd.pid", "tini"), ("virtlogd.pid", "virtlogd")];

/// Exists where the demo told systemd to start libvirt.
const UNIT_NOTE: &str = "libvirtd.unit";

/// The host's libvirt as the demo sees it.
#[derive(Debug)]
pub(super) struct Libvirt<'a> {
    state: &'a DemoState,
}

impl<'a> Libvirt<'a> {
    pub(super) fn new(state: &'a DemoState) -> Self {
        Self { state }
    }

    /// Starts it, unless it answers: by systemd where there is one, else as a child of tini, which reaps what QEMU leaves behind.
    pub(super) fn start_if_needed(&self) -> Result<()> {
        if answers() {
            return Ok(());
        }
        if Path::new("/run/systemd/system").is_dir() {
            say("starting libvirt (systemctl start libvirtd)");
            process::run(Command::new("systemctl").args(["start", "libvirtd"]))?;
            fs::write(self.state.file(UNIT_NOTE), "libvirtd\n").context("note that libvirt is ours")?;
        } else {
            say("starting libvirt (no systemd here: virtlogd and libvirtd as processes of their own)");
            let log = self.state.file("libvirtd.log");
            // Where one runs already, this one says so in the log and ends.
            start_detached(&Command::new(daemon("virtlogd")?), &log, &self.state.file("virtlogd.pid"))?;
            let mut libvirtd = Command::new("tini");
            libvirtd.args(["-s", "--"]).arg(daemon("libvirtd")?);
            start_detached(&libvirtd, &log, &self.state.file("libvirtd.pid"))?;
        }
        if wait_for(DEADLINE, || answers().then_some(())).is_none() {
            bail!(
                "libvirt does not answer at {URI}; see {}, or `journalctl -u libvirtd`",
                self.state.file("libvirtd.log").display()
            );
        }
        Ok(())
    }

    /// Ends guests that the demo's server left behind: those with a disk below the demo's data folder.
    pub(super) fn destroy_guests(&self) -> Result<()> {
        if !answers() {
            return Ok(());
        }
        let data = self.state.data().display().to_string();
        for name in virsh(&["list", "--all", "--name"])?.lines().filter(|name| !name.is_empty()) {
            if virsh(&["dumpxml", name]).is_ok_and(|xml| xml.contains(&format!("'{data}/"))) {
                say(&format!("ending guest {name}"));
                // Fails for a guest that is shut off, which is as well.
                let _shut_off = virsh(&["destroy", name]);
                virsh(&["undefine", name, "--managed-save", "--nvram"])?;
            }
        }
        Ok(())
    }

    /// Ends it, if the demo started it.
    pub(super) fn stop_if_ours(&self) -> Result<()> {
        if self.state.file(UNIT_NOTE).exists() {
            return process::run(Command::new("systemctl").args(["stop", "libvirtd"]));
        }
        for (file, name) in DAEMONS {
            if let Some(daemon) = Noted::read(&self.state.file(file), name) {
                daemon.end(DEADLINE)?;
            }
        }
        Ok(())
    }
}

/// libvirt resolves the host's name at each start of a guest, and waits for DNS where `/etc/hosts` does not know it.
pub(super) fn warn_of_slow_host_name() {
    let Ok(name) = fs::read_to_string("/proc/sys/kernel/hostname") else { return };
    let name = name.trim();
    if process::output(Command::new("getent").args(["hosts", name])).is_err() {
        say(&format!(
            "this host's name, {name}, does not resolve, so each guest starts 5 s later; add \"127.0.1.1 {name}\" to /etc/hosts"
        ));
    }
}

fn answers() -> bool {
    virsh(&["version"]).is_ok()
}

fn virsh(arguments: &[&str]) -> Result<String> {
    process::output(Command::new("virsh").args(["-q", "-c", URI]).args(arguments))
}

fn daemon(name: &str) -> Result<std::path::PathBuf> {
    process::find(name).with_context(|| format!("{name} is not installed; run xtask/host/install.sh"))
}

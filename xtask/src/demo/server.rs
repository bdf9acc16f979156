//! The demo's `ovm-standalone`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::libvirt::URI;
use super::running::{Noted, start_detached, wait_for};
use super::say;
use super::state::DemoState;
use crate::kvm::Verdict;
use crate::process;

const PROGRAM: &str = "ovm-standalone";
const PID_FILE: &str = "ovm-standalone.pid";
/// Where the server itself writes its process id: people kill the demo's server to see what comes of it, and start it again by hand.
const LOCK_FILE: &str = "apiserver.lock";
/// The address, kept from one start to the next: it is in the kubeconfig that the user has exported.
const LISTEN_FILE: &str = "listen";
/// kube-apiserver's own port, and others for when that one is taken.
const PORTS: [u16; 4] = [6443, 16443, 26443, 36443];
const READY_DEADLINE: Duration = Duration::from_mins(1);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Guests get their grace period, 30 s by default, before they are ended hard.
const DELETE_TIMEOUT: &str = "--timeout=60s";

/// The server, up or not.
#[derive(Debug)]
pub(super) struct Server<'a> {
    state: &'a DemoState,
}

impl<'a> Server<'a> {
    pub(super) fn new(state: &'a DemoState) -> Self {
        Self { state }
    }

    pub(super) fn is_running(&self) -> bool {
        self.process().is_some_and(|process| process.is_alive())
    }

    /// Starts the program of that folder, and waits until its API answers.
    pub(super) fn start(&self, programs: &Path, verdict: &Verdict) -> Result<()> {
        let address = self.choose_address()?;
        let log = self.state.file("ovm-standalone.log");
        say(&format!("starting {PROGRAM} on {address} (log: {})", log.display()));
        let mut command = Command::new(programs.join(PROGRAM));
        command.arg("--data-dir").arg(self.state.data());
        command.args(["--listen", &address.to_string(), "--libvirt-uri", URI, "--emulation", verdict.emulation_flag()]);
        let process = start_detached(&command, &log, &self.state.file(PID_FILE))?;
        let ready = wait_for(READY_DEADLINE, || {
            if !process.is_alive() {
                return Some(false);
            }
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok().then_some(true)
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => bail!("{PROGRAM} ended:\n{}", tail(&log)),
            None => bail!("{PROGRAM} is not ready after {} s:\n{}", READY_DEADLINE.as_secs(), tail(&log)),
        }
    }

    /// Puts a disk into the node's image store, unless this very disk is there.
    pub(super) fn import_image(&self, programs: &Path, name: &str, disk: &Path) -> Result<()> {
        let modified = fs::metadata(disk)
            .and_then(|metadata| metadata.modified())
            .with_context(|| format!("look at {}", disk.display()))?;
        let stamp = format!("{name} {modified:?}\n");
        let note = self.state.file("imported");
        if fs::read_to_string(&note).is_ok_and(|noted| noted == stamp) {
            return Ok(());
        }
        say(&format!("importing {} as {name}", disk.display()));
        process::run(
            Command::new(programs.join("ovm-agent"))
                .args(["image", "import", name])
                .arg(disk)
                .arg("--data-dir")
                .arg(self.state.data()),
        )?;
        fs::write(&note, stamp).with_context(|| format!("write {}", note.display()))
    }

    /// Deletes every machine, so that their guests end in order. What is left after that is ended without order.
    pub(super) fn delete_machines(&self) {
        for kind in ["offlinevirtualmachines", "virtualmachines"] {
            say(&format!("deleting {kind}"));
            if let Err(error) = self.kubectl(&["delete", kind, "--all", "--all-namespaces", DELETE_TIMEOUT]) {
                say(&format!("{error:#}"));
            }
        }
    }

    /// Ends it. Its guests go on running.
    pub(super) fn stop(&self) -> Result<()> {
        match self.process() {
            Some(process) => process.end(STOP_DEADLINE).with_context(|| format!("stop {PROGRAM}")),
            None => Ok(()),
        }
    }

    fn process(&self) -> Option<Noted> {
        let data = self.state.data().join(LOCK_FILE);
        [self.state.file(PID_FILE), data].iter().find_map(|file| Noted::read(file, PROGRAM))
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        process::output(Command::new("kubectl").args(arguments).env("KUBECONFIG", self.state.kubeconfig()))
    }

    fn choose_address(&self) -> Result<SocketAddr> {
        let file = self.state.file(LISTEN_FILE);
        let noted = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let candidates = noted.into_iter().chain(PORTS.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        for address in candidates {
            if TcpListener::bind(address).is_ok() {
                fs::write(&file, format!("{address}\n")).with_context(|| format!("write {}", file.display()))?;
                return Ok(address);
            }
        }
        bail!("all of the ports {PORTS:?} on the loopback are taken")
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

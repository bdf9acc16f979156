//! `ovm-controller` as a process of its own, and what it costs.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::kube::{Server, Servers};
use tests::programs::program;

use super::SETTLE;
use super::cluster::Cluster;
use crate::process;

/// A controller that was started has read everything after this, and rests.
const STARTED: Duration = Duration::from_secs(5);

/// The running controller. It ends with this, and with the benchmark, however that ends.
pub(super) struct Controller {
    server: Server,
    _servers: Servers,
}

impl Controller {
    /// Starts it, and waits until it is at rest.
    ///
    /// # Errors
    /// When it does not start; the message then carries its log.
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let servers = Servers::new(cluster.control_plane.directory())?;
        let mut command = Command::new(program("ovm-controller")?);
        command.arg("--kubeconfig").arg(cluster.control_plane.kubeconfig()).env("OVM_LOG", "warn");
        let server = servers.start("ovm-controller", &command)?;
        let mut controller = Self { server, _servers: servers };
        sleep(STARTED);
        controller.server.look_if_running().context("start ovm-controller")?;
        Ok(controller)
    }

    /// The resident set, shared pages included.
    ///
    /// # Errors
    /// When the controller has ended.
    pub(super) fn resident_bytes(&self) -> Result<f64> {
        sleep(SETTLE);
        process::resident_bytes(self.server.pid())
    }

    /// User and system time so far.
    ///
    /// # Errors
    /// When the controller has ended.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.server.pid())
    }
}

//! `ovm-controller` as a process of its own, and what it costs.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::programs::program;

use super::SETTLE;
use super::cluster::Cluster;
use crate::process;

/// A controller that was started has read everything after this, and rests.
const STARTED: Duration = Duration::from_secs(5);

/// The running controller. Dropping it ends it.
pub(super) struct Controller(Child);

impl Controller {
    /// Starts it, and waits until it is at rest.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let log = File::create(cluster.control_plane.directory().join("ovm-controller.log"))?;
        let mut command = Command::new(program("ovm-controller")?);
        command.arg("--kubeconfig").arg(cluster.control_plane.kubeconfig());
        command.env("OVM_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut controller = Self(command.spawn().context("run ovm-controller")?);
        sleep(STARTED);
        ensure!(
            controller.0.try_wait()?.is_none(),
            "ovm-controller ended; its log is in the control plane's directory"
        );
        Ok(controller)
    }

    /// The resident set, shared pages included.
    ///
    /// # Errors
    /// When the controller has ended.
    pub(super) fn resident_bytes(&self) -> Result<f64> {
        sleep(SETTLE);
        process::resident_bytes(self.0.id())
    }

    /// User and system time so far.
    ///
    /// # Errors
    /// When the controller has ended.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.0.id())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

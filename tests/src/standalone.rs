//! `ovm-standalone` as a child process of a test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::libvirtd::Signal;
use crate::ports::free_address;
use crate::programs::program;
use crate::wait::wait_for;

/// Time to be ready, or to end, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running or stopped `ovm-standalone`. Dropping it kills it; its guests go on running.
#[derive(Debug)]
pub struct Standalone {
    data: PathBuf,
    log: PathBuf,
    address: SocketAddr,
    libvirt_uri: String,
    child: Option<Child>,
}

impl Standalone {
    /// Starts one over an empty or used data directory, and waits until its API is ready. The log is beside the directory.
    ///
    /// # Errors
    /// When it is not built, or not ready in time; the message then carries its log.
    pub fn start(data: &Path, libvirt_uri: &str) -> Result<Self> {
        let mut standalone = Self {
            data: data.to_owned(),
            log: data.with_extension("log"),
            address: free_address()?,
            libvirt_uri: libvirt_uri.to_owned(),
            child: None,
        };
        standalone.start_again()?;
        Ok(standalone)
    }

    /// The command that [`Self::start`] runs, without the guard that ends it with the test.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn command(data: &Path, listen: &str, libvirt_uri: &str) -> Result<Command> {
        let mut command = Command::new(program("ovm-standalone")?);
        command.arg("--data-dir").arg(data);
        command.args(["--listen", listen, "--libvirt-uri", libvirt_uri, "--emulation", "always"]);
        command.arg("--volume-root").arg(volume_root(data));
        Ok(command)
    }

    /// Starts it after [`Self::stop`], on the same address and data.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start_again(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).context("open the server's log")?;
        let command = Self::command(&self.data, &self.address.to_string(), &self.libvirt_uri)?;
        // The kernel kills the server when the test ends without having done so.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the server's log")?)
            .stderr(log)
            .spawn()
            .context("run ovm-standalone")?;
        self.child = Some(child);
        wait_for("ovm-standalone is ready", DEADLINE, || self.look_if_ready())
            .with_context(|| format!("its log:\n{}", self.log()))
    }

    /// Ends it by a signal and waits until it is gone.
    ///
    /// # Errors
    /// When it is not running, or does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        let mut child = self.child.take().context("ovm-standalone is not running")?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id is a positive i32")?);
        kill(pid, nix::sys::signal::Signal::from(signal)).context("signal ovm-standalone")?;
        wait_for("ovm-standalone ends", DEADLINE, || child.try_wait()?.context("it still runs").map(drop))
            .with_context(|| format!("its log:\n{}", self.log()))
    }

    /// Ends it and starts it again.
    ///
    /// # Errors
    /// When either fails.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.stop(signal)?;
        self.start_again()
    }

    /// The kubeconfig that it wrote.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its log so far, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn look_if_ready(&mut self) -> Result<()> {
        if let Some(child) = self.child.as_mut()
            && let Some(status) = child.try_wait().context("look at ovm-standalone")?
        {
            bail!("it ended with {status}");
        }
        crate::programs::output(
            Command::new("kubectl").args(["get", "--raw", "/readyz"]).env("KUBECONFIG", self.kubeconfig()),
        )
        .map(drop)
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _already_gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// The volume root of a server or agent with this data directory: beside it.
pub(crate) fn volume_root(data: &Path) -> PathBuf {
    data.with_file_name("volumes")
}

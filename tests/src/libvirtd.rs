//! A libvirtd for one test, apart from the host's own: its sockets, configuration, state and guests live in a temporary directory and in a mount
//! and pid namespace of their own. It ends with the test, guests included, even if the test is killed: the shell in `libvirtd.sh` holds the
//! namespace open for as long as the pipe from here stays open.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::programs::{output, repository};
use crate::wait::wait_for;

const SCRIPT: &str = include_str!("libvirtd.sh");

/// A daemon answers its first call within a second on an idle machine; this is for a busy one.
const READY_DEADLINE: Duration = Duration::from_mins(1);

/// What has to be installed for a private libvirtd.
const TOOLS: [&str; 5] = ["unshare", "tini", "libvirtd", "virtlogd", "virsh"];

/// What of a QEMU is its own: the emulator, its modules and its firmware.
const QEMU: [&str; 3] = ["/usr/bin/qemu-system-x86_64", "/usr/lib/x86_64-linux-gnu/qemu", "/usr/share/qemu"];

/// How a daemon is made to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The orderly way.
    Term,
    /// As a crash would.
    Kill,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
        }
    }
}

impl From<Signal> for nix::sys::signal::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Term => Self::SIGTERM,
            Signal::Kill => Self::SIGKILL,
        }
    }
}

/// A running libvirtd of our own. Dropping it ends it and every guest that it started.
#[derive(Debug)]
pub struct PrivateLibvirtd {
    // Ends the namespace; a field of its own, because dropping it is what ends the script.
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
    namespace: Child,
    directory: TempDir,
}

impl PrivateLibvirtd {
    /// Starts a libvirtd and waits until it answers.
    ///
    /// # Errors
    /// When the host cannot run one (see [`why_unsupported`]), or when it does not answer in time; the message then carries the daemon's log.
    pub fn start() -> Result<Self> {
        if let Some(reason) = why_unsupported() {
            bail!("a private libvirtd cannot run here: {reason}");
        }
        let directory =
            tempfile::Builder::new().prefix("ovm-libvirt-").tempdir().context("make a directory for libvirt")?;
        // QEMU runs as another user, and its files are below.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))
            .context("open the directory to QEMU's user")?;
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "tini", "--", "bash", "-c", SCRIPT, "libvirtd.sh"])
            .arg(directory.path())
            .arg(capability_cache())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(directory.path().join("namespace.log")).context("create the namespace's log")?)
            .process_group(0)
            .spawn()
            .context("run unshare")?;
        let commands = namespace.stdin.take();
        let output = namespace.stdout.take().context("the namespace has no output")?;
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut libvirtd = Self { commands, answers, namespace, directory };
        libvirtd.start_daemon()?;
        Ok(libvirtd)
    }

    /// The connection URI: `qemu+unix:///system?socket=...`.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// The daemon's socket. It exists while the daemon runs.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("run/libvirt/libvirt-sock")
    }

    /// A directory that ends with this libvirtd and that QEMU's user may enter (mode 0711).
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the daemon after [`Self::stop_daemon`], and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.command("start")?;
        wait_for("libvirtd answers", READY_DEADLINE, || self.virsh(&["version"]))
            .with_context(|| format!("libvirtd's log:\n{}", self.log()))?;
        Ok(())
    }

    /// Ends the daemon, not its guests.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn stop_daemon(&mut self, signal: Signal) -> Result<()> {
        self.command(&format!("stop {}", signal.name()))
    }

    /// Ends the daemon and starts it again. Guests go on running.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn restart_daemon(&mut self, signal: Signal) -> Result<()> {
        self.stop_daemon(signal)?;
        self.start_daemon()
    }

    /// Puts an older QEMU in the place of the host's, as [`older_qemu`] found it, and has the daemon look anew. Guests that run go on in theirs.
    ///
    /// # Errors
    /// When it cannot be put there, or the daemon does not answer in time.
    pub fn downgrade_qemu(&mut self, root: &Path) -> Result<()> {
        // What libvirt finds out about it is not to be what others read of the host's.
        self.swap_qemu(
            r#"mkdir -p "$2/older-cache"; mount --bind "$2/older-cache" /var/cache/libvirt
            for path in $3; do mount --bind "$1$path" "$path"; done"#,
            root,
        )
    }

    /// Puts the host's QEMU back, as an upgrade does.
    ///
    /// # Errors
    /// When the daemon does not answer in time.
    pub fn upgrade_qemu(&mut self) -> Result<()> {
        self.swap_qemu(r#"for path in $3 /var/cache/libvirt; do umount "$path"; done"#, Path::new(""))
    }

    fn swap_qemu(&mut self, script: &str, root: &Path) -> Result<()> {
        self.stop_daemon(Signal::Term)?;
        let mut swap = self.inside(Path::new("bash"))?;
        output(swap.args(["-euc", script, "swap"]).arg(root).arg(self.directory()).arg(QEMU.join(" ")))?;
        self.start_daemon()
    }

    /// Makes the daemon hang: connections open, no call returns.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn suspend_daemon(&mut self) -> Result<()> {
        self.command("signal STOP")
    }

    /// Ends a hang made by [`Self::suspend_daemon`].
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn resume_daemon(&mut self) -> Result<()> {
        self.command("signal CONT")
    }

    /// Runs virsh against this daemon and returns what it printed.
    ///
    /// # Errors
    /// When virsh fails; the message is what it said.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let output =
            Command::new("virsh").arg("-q").arg("-c").arg(self.uri()).args(arguments).output().context("run virsh")?;
        ensure!(output.status.success(), "virsh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A program inside: with this libvirtd's `/run`, `/etc/libvirt` and `/var/lib/libvirt` in the places of the host's, and ended with it.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn inside(&self, program: &Path) -> Result<Command> {
        let unshare = self.namespace.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let first = fs::read_to_string(&children).with_context(|| format!("read {children}"))?;
        let init = first.split_whitespace().next().context("the namespace has ended")?;
        let mut command = Command::new("nsenter");
        command.args(["--target", init, "--mount", "--pid", "--"]).arg(program);
        Ok(command)
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        ["namespace.log", "libvirtd.log"]
            .iter()
            .filter_map(|name| fs::read_to_string(self.directory.path().join(name)).ok())
            .collect()
    }

    fn command(&mut self, command: &str) -> Result<()> {
        let pipe = self.commands.as_mut().context("the namespace has no input")?;
        writeln!(pipe, "{command}").with_context(|| format!("send {command}; log:\n{}", self.log()))?;
        match self.answers.recv_timeout(READY_DEADLINE) {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(answer) => bail!("the namespace answered {answer:?} to {command}"),
            Err(RecvTimeoutError::Timeout) => bail!("no answer to {command}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the namespace ended; log:\n{}", self.log()),
        }
    }
}

impl Drop for PrivateLibvirtd {
    fn drop(&mut self) {
        drop(self.commands.take());
        let ended = wait_for("the namespace ends", Duration::from_secs(10), || {
            self.namespace.try_wait()?.context("it still runs").map(drop)
        });
        if ended.is_err() {
            // `unshare --kill-child` takes the namespace with it.
            let _already_gone = self.namespace.kill();
            let _reaped = self.namespace.wait();
        }
    }
}

/// Why no private libvirtd can run on this host; `None` if it can.
pub fn why_unsupported() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root, for a mount namespace".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = TOOLS
        .into_iter()
        .filter(|tool| !std::env::split_paths(&path).any(|directory| directory.join(tool).exists()))
        .collect();
    if missing.is_empty() { None } else { Some(format!("not installed: {}", missing.join(", "))) }
}

/// The file system of an older QEMU than the host's, which `xtask/host/older-qemu.sh` has fetched; none where none was to be had.
pub fn older_qemu() -> Option<PathBuf> {
    let root = repository().join("target/older-qemu/root");
    (root.with_file_name("version").is_file() && QEMU.iter().all(|path| Path::new(path).exists())).then_some(root)
}

/// What libvirt found out about this host's QEMU, kept from one daemon to the next: finding out takes five seconds.
pub(crate) fn capability_cache() -> PathBuf {
    std::env::temp_dir().join("ovm-libvirt-capabilities")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_libvirtd_answers_restarts_and_leaves_nothing_behind() {
        if let Some(reason) = why_unsupported() {
            crate::programs::say_skipped("a_private_libvirtd_answers_restarts_and_leaves_nothing_behind", &reason);
            return;
        }
        let mut libvirtd = PrivateLibvirtd::start().unwrap();
        assert_eq!(libvirtd.virsh(&["list", "--all", "--name"]).unwrap(), "");
        libvirtd.stop_daemon(Signal::Kill).unwrap();
        libvirtd.virsh(&["version"]).expect_err("a stopped daemon must not answer");
        libvirtd.start_daemon().unwrap();
        libvirtd.virsh(&["version"]).unwrap();
        let directory = libvirtd.directory().to_owned();
        drop(libvirtd);
        assert!(!directory.exists(), "{} is left", directory.display());
    }
}

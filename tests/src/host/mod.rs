//! Debian hosts with a real systemd, libvirtd and machined, each in a container of `systemd-nspawn` that boots in two seconds. What is tested on them comes
//! from the `.deb` files alone.
//!
//! The root that they are clones of is made once by `cargo xtask host-root`, the packages by `cargo xtask packages --profile dev`. A host has its own network
//! with nothing but a loopback, or a place in a [`Lan`].

mod administer;
mod lan;
mod packages;
mod root;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cgroups::{ENTER, HostGroups};
use crate::programs::{last_lines, output};
use crate::wait::wait_for;

pub use lan::{Lan, Place};
pub use packages::Package;
use root::RootClone;

/// Until everything is started, on a busy machine.
const BOOT_DEADLINE: Duration = Duration::from_mins(1);
/// Until an orderly shutdown is over, guests' grace periods included.
const SHUTDOWN_DEADLINE: Duration = Duration::from_mins(2);
/// What has to be installed for such a host.
const TOOLS: [&str; 3] = ["systemd-nspawn", "nsenter", "setpriv"];
/// Where the administrator's kubeconfig is.
const KUBECONFIG: &str = "/var/lib/ovm/kubeconfig";

/// A host. Dropping it ends it, guests included, and deletes it.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// Where it is in a network; alone without.
    place: Option<Place>,
    // Before the clone, which is unmounted when it is dropped.
    machine: Option<Machine>,
    clone: RootClone,
}

/// A booted host.
#[derive(Debug)]
struct Machine {
    nspawn: Child,
    /// Process id of its systemd, as the test sees it.
    init: String,
    _groups: HostGroups,
}

/// Why no such host can run here; `None` if one can.
pub fn why_unsupported() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root, for systemd-nspawn".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_missing = |tool: &&str| !std::env::split_paths(&path).any(|directory| directory.join(tool).exists());
    let missing: Vec<&str> = TOOLS.into_iter().filter(is_missing).collect();
    if !missing.is_empty() {
        return Some(format!("not installed: {}", missing.join(", ")));
    }
    root::why_missing()
}

impl Host {
    /// A host of that name, freshly installed with libvirt and QEMU, and booted. It ends with the thread that has booted it.
    ///
    /// # Errors
    /// When it cannot be made, or does not come up in time.
    pub fn boot_new(name: &str) -> Result<Self> {
        Self::boot_in(name, None)
    }

    /// As [`Self::boot_new`], with a place in a network.
    ///
    /// # Errors
    /// As for [`Self::boot_new`].
    pub fn boot_in(name: &str, place: Option<Place>) -> Result<Self> {
        let clone = RootClone::new()?;
        let etc = clone.root().join("etc");
        // A machine id of its own, and not none: an empty one is a first boot, which enables every unit that there is.
        fs::write(etc.join("machine-id"), output(Command::new("systemd-id128").arg("new"))? + "\n")
            .context("write the host's machine id")?;
        fs::write(etc.join("hostname"), format!("{name}\n")).context("write the host's name")?;
        // libvirt looks its host's name up at each start of a guest, for five seconds where there is no answer.
        fs::write(etc.join("hosts"), format!("127.0.0.1 localhost {name}\n")).context("write the host's hosts")?;
        let mut host = Self { name: name.to_owned(), place, clone, machine: None };
        host.boot()?;
        Ok(host)
    }

    /// Boots it after [`Self::power_off`] or [`Self::lose_power`], and waits until everything is started.
    ///
    /// # Errors
    /// When it does not come up in time; the message then carries its console.
    pub fn boot(&mut self) -> Result<()> {
        ensure!(self.machine.is_none(), "host {} runs already", self.name);
        let console = File::options().create(true).append(true).open(self.console()).context("open the console")?;
        let kubectl = which("kubectl")?;
        let groups = HostGroups::make(&self.clone.name()?)?;
        let mut nspawn = Command::new("sh")
            .args(["-c", ENTER, "sh"])
            .args(groups.folders())
            .args([
                "--",
                "setpriv",
                "--pdeathsig",
                "KILL",
                "systemd-nspawn",
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
            ])
            .args(self.network())
            .args(["--console=passive", "--resolv-conf=off", "--link-journal=no", "--directory"])
            .arg(self.clone.root())
            .arg(format!("--machine={}", self.name))
            .arg(format!("--bind-ro={}:/usr/local/bin/kubectl", kubectl.display()))
            .stdin(Stdio::null())
            .stdout(console.try_clone().context("share the console")?)
            .stderr(console)
            .spawn()
            .context("run systemd-nspawn")?;
        let init = wait_for("systemd-nspawn has started systemd", BOOT_DEADLINE, || {
            ensure!(nspawn.try_wait()?.is_none(), "systemd-nspawn ended:\n{}", self.console_text());
            systemd_below(nspawn.id())
        })?;
        self.machine = Some(Machine { nspawn, init, _groups: groups });
        wait_for("the host has booted", BOOT_DEADLINE, || {
            let state = self.run(&["systemctl", "is-system-running"])?;
            ensure!(state == "running", "it is {state}");
            Ok(())
        })
        .with_context(|| format!("its console:\n{}", self.console_text()))
        .with_context(|| self.run(&["systemctl", "--failed", "--no-pager"]).unwrap_or_default())
    }

    /// The flags that put it into its network.
    fn network(&self) -> Vec<String> {
        match &self.place {
            // systemd-nspawn leaves the right to it out, where it did not make the namespace.
            Some(place) => vec![
                format!("--network-namespace-path={}", place.namespace.display()),
                "--capability=CAP_NET_ADMIN".to_owned(),
            ],
            None => vec!["--private-network".to_owned()],
        }
    }

    /// Installs packages, as an administrator would who has downloaded them.
    ///
    /// # Errors
    /// When one is not built, or dpkg fails.
    pub fn install(&self, packages: &[Package]) -> Result<String> {
        self.install_files(packages.iter().map(|package| package.file()))
    }

    /// Installs packages of a higher version.
    ///
    /// # Errors
    /// As for [`Self::install`].
    pub fn upgrade(&self, packages: &[Package]) -> Result<String> {
        self.install_files(packages.iter().map(|package| package.newer_file()))
    }

    fn install_files(&self, sources: impl Iterator<Item = Result<PathBuf>>) -> Result<String> {
        let mut files = Vec::new();
        for source in sources {
            let source = source?;
            let name = source.file_name().and_then(|name| name.to_str()).context("a package's file has a name")?;
            fs::copy(&source, self.clone.root().join("root").join(name)).context("copy a package")?;
            files.push(format!("/root/{name}"));
        }
        let mut command = vec!["dpkg", "--install"];
        command.extend(files.iter().map(String::as_str));
        self.run(&command)
    }

    /// Runs a program on the host as root, and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message is what it wrote to standard error.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        output(&mut self.command(command)?)
    }

    /// A program on the host, as root.
    ///
    /// # Errors
    /// When the host is down.
    pub fn command(&self, command: &[&str]) -> Result<Command> {
        let machine = self.machine.as_ref().with_context(|| format!("host {} is down", self.name))?;
        let mut entered = Command::new("nsenter");
        entered.args(["--target", &machine.init, "--all", "--"]).args(command);
        entered.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("KUBECONFIG", KUBECONFIG);
        entered.env("DEBIAN_FRONTEND", "noninteractive");
        Ok(entered)
    }

    /// An object of the host's own API server, as kubectl prints it.
    ///
    /// # Errors
    /// When kubectl fails, such as for an object that is not there.
    pub fn object(&self, kind: &str, name: &str) -> Result<Value> {
        let text = self.run(&["kubectl", "get", kind, name, "--output=json"])?;
        serde_json::from_str(&text).with_context(|| format!("read {kind} {name}"))
    }

    /// Creates an object through kubectl.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn create(&self, object: &Value) -> Result<()> {
        fs::write(self.clone.root().join("root/object.json"), object.to_string()).context("write the object")?;
        self.run(&["kubectl", "create", "-f", "/root/object.json"]).map(drop)
    }

    /// A property of a unit, as `systemctl show` prints it.
    ///
    /// # Errors
    /// When systemctl fails.
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        self.run(&["systemctl", "show", "--value", "--property", property, unit])
    }

    /// Process ids of all guests' QEMUs, as the host sees them. libvirt runs others, without a guest, to learn what they can do.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn qemus(&self) -> Result<Vec<String>> {
        // pgrep fails where it finds none.
        let listed = self.run(&["sh", "-c", "pgrep --full '^/usr/bin/qemu-system.* -name guest=' || true"])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// `systemctl poweroff`; returns how long it took until the host was down.
    ///
    /// # Errors
    /// When it is not down in time; the message then carries its console.
    pub fn power_off(&mut self) -> Result<Duration> {
        self.run(&["systemctl", "poweroff"])?;
        let mut machine = self.machine.take().context("the host was up")?;
        let begun = Instant::now();
        let down = wait_for("the host is down", SHUTDOWN_DEADLINE, || {
            machine.nspawn.try_wait()?.context("it still runs").map(drop)
        });
        if let Err(error) = down {
            self.machine = Some(machine);
            bail!("{error:#}; its console:\n{}", self.console_text());
        }
        Ok(begun.elapsed())
    }

    /// Pulls its plug: all of it ends at once, guests included.
    ///
    /// # Errors
    /// When it is down.
    pub fn lose_power(&mut self) -> Result<()> {
        self.machine.take().map(drop).with_context(|| format!("host {} is down", self.name))
    }

    /// The host's `/`, as the test sees it.
    pub fn root(&self) -> PathBuf {
        self.clone.root()
    }

    /// The journal of a unit over all boots, as text.
    pub fn journal(&self, unit: &str) -> String {
        let lines = self.run(&["journalctl", "--no-pager", "--unit", unit]);
        lines.map_or_else(|error| format!("{error:#}"), |lines| last_lines(&lines))
    }

    fn console(&self) -> PathBuf {
        self.clone.folder().join("console")
    }

    fn console_text(&self) -> String {
        last_lines(&fs::read_to_string(self.console()).unwrap_or_default())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All else dies with its systemd, which goes on without systemd-nspawn. Asked for again: one that has ended is no child any more.
        if let Some(init) = systemd_below(self.nspawn.id()).ok().and_then(|init| init.parse().ok()) {
            let _ended = kill(Pid::from_raw(init), UnixSignal::SIGKILL);
        }
        let _already_gone = self.nspawn.kill();
        let _reaped = self.nspawn.wait();
        // Its mounts go with the last of its processes.
        let gone = || ensure_gone(&self.init);
        let _busy = wait_for("the host's processes end", Duration::from_secs(10), gone);
    }
}

/// The child of systemd-nspawn that has become the host's systemd; there is another one before it.
fn systemd_below(nspawn: u32) -> Result<String> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"))?;
    let mut children = children.split_whitespace();
    let is_systemd =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd");
    Ok(children.find(is_systemd).context("systemd does not run yet")?.to_owned())
}

fn ensure_gone(pid: &str) -> Result<()> {
    ensure!(!Path::new("/proc").join(pid).exists(), "{pid} still runs");
    Ok(())
}

/// A program's file, in `PATH`, behind all links.
fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    let found = found.with_context(|| format!("{program} is not installed"))?;
    found.canonicalize().with_context(|| format!("find {}", found.display()))
}

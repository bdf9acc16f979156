//! Does KVM work? `/dev/kvm` alone does not say: on some hosts, nested ones above all, it is there and a guest hangs at its first instructions. So this host's own
//! kernel is booted under it, up to its first line on the serial port.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A kernel under working KVM prints its first line within a second.
const DEADLINE: Duration = Duration::from_secs(10);
/// What every Linux says first.
const FIRST_LINE: &[u8] = b"Linux version";
/// Where Debian has its kernels, each named after its release.
const BOOT: &str = "/boot";
const DEVICE: &str = "/dev/kvm";
const QEMU: &str = "qemu-system-x86_64";

/// What was seen of KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kvm {
    /// A kernel booted under it.
    Works {
        /// Until its first line.
        after: Duration,
    },
    /// The device is not there, or not for this user.
    NoDevice(String),
    /// A kernel did not boot under it.
    Fails(String),
    /// There is nothing to try it with.
    Untried(String),
}

/// What KVM is tried with.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    device: PathBuf,
    boot: PathBuf,
    qemu: PathBuf,
    deadline: Duration,
}

impl Default for Probe {
    /// The host's own.
    fn default() -> Self {
        Self { device: DEVICE.into(), boot: BOOT.into(), qemu: QEMU.into(), deadline: DEADLINE }
    }
}

impl Probe {
    /// Finds out, before the deadline.
    pub(super) async fn run(&self) -> Kvm {
        if let Err(error) = File::options().read(true).write(true).open(&self.device) {
            return Kvm::NoDevice(format!("{}: {error}", self.device.display()));
        }
        let kernel = match kernel(&self.boot) {
            Ok(kernel) => kernel,
            Err(why) => return Kvm::Untried(why),
        };
        match start(&self.qemu, &kernel) {
            Ok(qemu) => watch(qemu, self.deadline).await,
            Err(error) => Kvm::Untried(format!("{} cannot be run: {error}", self.qemu.display())),
        }
    }
}

/// A QEMU that boots a kernel under KVM.
fn start(qemu: &Path, kernel: &Path) -> io::Result<Child> {
    Command::new(qemu)
        .args(["-accel", "kvm", "-machine", "q35", "-m", "512M", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-append", "console=ttyS0,115200 earlyprintk=serial panic=-1"])
        .arg("-kernel")
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// The kernel that runs, or another of this host, if it can be read.
fn kernel(boot: &Path) -> Result<PathBuf, String> {
    let running = nix::sys::utsname::uname().ok().map(|name| format!("vmlinuz-{}", name.release().display()));
    let listed = fs::read_dir(boot).map_err(|error| format!("{}: {error}", boot.display()))?;
    let is_kernel = |name: &str| name.starts_with("vmlinuz-");
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut kernels: Vec<String> = names.filter(|name| is_kernel(name)).collect();
    kernels.sort_by_key(|name| (Some(name) != running.as_ref(), std::cmp::Reverse(name.clone())));
    let Some(first) = kernels.first() else { return Err(format!("there is no kernel in {}", boot.display())) };
    let path = boot.join(first);
    File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

async fn watch(mut qemu: Child, deadline: Duration) -> Kvm {
    let begun = Instant::now();
    match timeout(deadline, first_line(&mut qemu)).await {
        Ok(true) => Kvm::Works { after: begun.elapsed() },
        Ok(false) => {
            let mut message = String::new();
            if let Some(errors) = qemu.stderr.as_mut() {
                // What could be read of the message is better than none.
                drop(errors.read_to_string(&mut message).await);
            }
            Kvm::Fails(format!("QEMU ended under KVM: {}", message.trim().lines().last().unwrap_or("no message")))
        }
        Err(_) => {
            Kvm::Fails(format!("{DEVICE} is there, but a kernel said nothing under it for {} s", deadline.as_secs()))
        }
    }
}

/// Whether the kernel spoke before QEMU ended.
async fn first_line(qemu: &mut Child) -> bool {
    let Some(output) = qemu.stdout.take() else { return false };
    // The serial port speaks bytes, not text.
    let mut lines = BufReader::new(output).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        if line.windows(FIRST_LINE.len()).any(|window| window == FIRST_LINE) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use plan::node::Emulation;

    use super::super::judge;
    use super::*;

    /// What a host with a device, a kernel, and this script in the place of QEMU is told.
    async fn told(script: &str, change: impl FnOnce(&mut Probe)) -> String {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join(name);
        let mut probe = Probe { device: path("kvm"), boot: path("boot"), qemu: path("qemu"), deadline: DEADLINE };
        fs::create_dir(&probe.boot).unwrap();
        fs::write(&probe.device, "").unwrap();
        fs::write(probe.boot.join("vmlinuz-6.1.0"), "").unwrap();
        // By another process: a file that this one has open for writing, in whichever thread's child, cannot be run.
        let mut write = std::process::Command::new("sh");
        write.args(["-c", r#"printf '#!/bin/sh\n%s' "$2" > "$1" && chmod +x "$1""#, "sh"]).arg(&probe.qemu).arg(script);
        assert!(write.status().unwrap().success());
        change(&mut probe);
        judge::kvm(&probe.run().await, Emulation::Never).line("KVM")
    }

    #[tokio::test]
    async fn a_kernel_that_speaks_is_kvm_that_works() {
        let line = told("echo SeaBIOS; echo '[    0.0] Linux version 6.1'; exec sleep 60", |_| {}).await;
        assert!(line.starts_with("ok    KVM: this host's kernel boots under it in "), "{line}");
    }

    #[tokio::test]
    async fn kvm_that_hangs_or_refuses_is_told_with_its_fix() {
        let hangs = told("exec sleep 60", |probe| probe.deadline = Duration::from_millis(100)).await;
        assert!(hangs.starts_with("FAIL  KVM: /dev/kvm is there, but a kernel said nothing under it"), "{hangs}");
        let refuses = told("echo 'failed to initialize kvm: no permission' >&2; exit 1", |_| {}).await;
        assert!(refuses.starts_with("FAIL  KVM: QEMU ended under KVM: failed to initialize kvm"), "{refuses}");
        let none = told("", |probe| fs::remove_file(&probe.device).unwrap()).await;
        assert!(none.contains("No such file or directory"), "{none}");
        for line in [hangs, refuses, none] {
            assert!(line.ends_with("or allow emulation with OVM_EMULATION=fallback"), "{line}");
        }
    }

    #[tokio::test]
    async fn kvm_that_cannot_be_tried_is_not_said_to_fail() {
        let no_kernel = told("", |probe| fs::remove_file(probe.boot.join("vmlinuz-6.1.0")).unwrap()).await;
        assert!(no_kernel.starts_with("warn  KVM: not tried: there is no kernel in "), "{no_kernel}");
        let no_qemu = told("", |probe| fs::remove_file(&probe.qemu).unwrap()).await;
        assert!(no_qemu.starts_with("warn  KVM: not tried: ") && no_qemu.contains("cannot be run"), "{no_qemu}");
    }
}

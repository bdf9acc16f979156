//! Does KVM work? `/dev/kvm` alone does not say: on some hosts, nested ones above all, it is there and a guest hangs at its first instructions. So this host's own
//! kernel is booted under it, up to its first line on the serial port.

use std::fs::{self, File};
use std::path::PathBuf;
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

/// Finds out, in ten seconds at most.
pub(super) async fn probe() -> Kvm {
    if let Err(error) = File::options().read(true).write(true).open(DEVICE) {
        return Kvm::NoDevice(format!("{DEVICE}: {error}"));
    }
    let kernel = match kernel() {
        Ok(kernel) => kernel,
        Err(why) => return Kvm::Untried(why),
    };
    let spawned = Command::new(QEMU)
        .args(["-accel", "kvm", "-machine", "q35", "-m", "512M", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-append", "console=ttyS0,115200 earlyprintk=serial panic=-1"])
        .arg("-kernel")
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    match spawned {
        Ok(qemu) => watch(qemu).await,
        Err(error) => Kvm::Untried(format!("{QEMU} cannot be run: {error}")),
    }
}

/// The kernel that runs, or another of this host, if it can be read.
fn kernel() -> Result<PathBuf, String> {
    let running = nix::sys::utsname::uname().ok().map(|name| format!("vmlinuz-{}", name.release().display()));
    let listed = fs::read_dir(BOOT).map_err(|error| format!("{BOOT}: {error}"))?;
    let is_kernel = |name: &str| name.starts_with("vmlinuz-");
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut kernels: Vec<String> = names.filter(|name| is_kernel(name)).collect();
    kernels.sort_by_key(|name| (Some(name) != running.as_ref(), std::cmp::Reverse(name.clone())));
    let Some(first) = kernels.first() else { return Err(format!("there is no kernel in {BOOT}")) };
    let path = PathBuf::from(BOOT).join(first);
    File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

async fn watch(mut qemu: Child) -> Kvm {
    let begun = Instant::now();
    match timeout(DEADLINE, first_line(&mut qemu)).await {
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
            Kvm::Fails(format!("{DEVICE} is there, but a kernel said nothing under it for {} s", DEADLINE.as_secs()))
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
    use super::*;

    async fn run(script: &str) -> Kvm {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        watch(command.spawn().unwrap()).await
    }

    #[tokio::test]
    async fn a_kernel_that_speaks_is_kvm_and_a_silent_end_is_not() {
        assert!(matches!(run("echo SeaBIOS; echo '[0.0] Linux version 6.1'").await, Kvm::Works { .. }));
        let failed = run("echo 'no permission' >&2; exit 1").await;
        assert_eq!(failed, Kvm::Fails("QEMU ended under KVM: no permission".to_owned()));
    }
}

//! Does KVM work on this host? `/dev/kvm` alone does not say: on some hosts (nested ones above all) it is there and a guest hangs at its first
//! instructions. So a real kernel is booted under it, up to its first line on the serial port.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::guest::Guest;

/// A kernel under working KVM prints its first line within a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// What every Linux says first.
const FIRST_LINE: &str = "Linux version";

/// The variable of `ovm-standalone` and `ovm-agent` that decides in place of the probe.
const OVERRIDE: &str = "OVM_EMULATION";

/// How guests are to run here, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel booted under KVM.
    Kvm {
        /// Until its first line.
        after: Duration,
    },
    /// KVM is not there or does not work.
    Emulation {
        /// What was seen.
        reason: String,
    },
    /// The user has decided.
    Told {
        /// `never`, `fallback` or `always`.
        value: String,
    },
}

impl Verdict {
    /// The value for `--emulation`.
    pub(crate) fn emulation_flag(&self) -> &str {
        match self {
            Self::Kvm { .. } => "never",
            Self::Emulation { .. } => "always",
            Self::Told { value } => value,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm { after } => write!(f, "KVM works: the kernel booted under it in {} ms", after.as_millis()),
            Self::Emulation { reason } => {
                write!(f, "guests are emulated: {reason} ({OVERRIDE}=never|fallback|always decides otherwise)")
            }
            Self::Told { value } => write!(f, "{OVERRIDE}={value} decides how guests run; KVM was not tried"),
        }
    }
}

/// Finds out, in at most ten seconds.
///
/// # Errors
/// When `OVM_EMULATION` has no valid value, or QEMU cannot be run.
pub(crate) fn probe(guest: &Guest) -> Result<Verdict> {
    if let Some(verdict) = told(std::env::var(OVERRIDE).ok().as_deref())? {
        return Ok(verdict);
    }
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Emulation { reason: "there is no /dev/kvm".to_owned() });
    }
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-machine", "q35", "-m", "64M", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0,115200 earlyprintk=serial panic=-1",
            "-kernel",
        ])
        .arg(&guest.kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run qemu-system-x86_64")?;
    let verdict = watch(&mut qemu);
    let _already_gone = qemu.kill();
    let _reaped = qemu.wait();
    verdict
}

/// What the user said in the variable; empty is nothing.
fn told(value: Option<&str>) -> Result<Option<Verdict>> {
    match value {
        None | Some("") => Ok(None),
        Some(value @ ("never" | "fallback" | "always")) => Ok(Some(Verdict::Told { value: value.to_owned() })),
        Some(other) => bail!("{OVERRIDE} is {other:?}; it must be never, fallback or always"),
    }
}

fn watch(qemu: &mut Child) -> Result<Verdict> {
    let start = Instant::now();
    let output = qemu.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        // The serial port speaks bytes, not text.
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    loop {
        match lines.recv_timeout(DEADLINE.saturating_sub(start.elapsed())) {
            Ok(line) if line.contains(FIRST_LINE) => return Ok(Verdict::Kvm { after: start.elapsed() }),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                let reason =
                    format!("/dev/kvm is there, but a kernel said nothing under it for {} s", DEADLINE.as_secs());
                return Ok(Verdict::Emulation { reason });
            }
            Err(RecvTimeoutError::Disconnected) => {
                let mut message = String::new();
                if let Some(stderr) = qemu.stderr.as_mut() {
                    stderr.read_to_string(&mut message).context("read QEMU's message")?;
                }
                let last = message.trim().lines().last().unwrap_or("no message").to_owned();
                return Ok(Verdict::Emulation { reason: format!("QEMU ended under KVM: {last}") });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_decides_and_a_wrong_one_is_refused() {
        for value in ["never", "fallback", "always"] {
            let verdict = told(Some(value)).unwrap().unwrap();
            assert_eq!(verdict.emulation_flag(), value);
        }
        assert_eq!(told(None).unwrap(), None);
        assert_eq!(told(Some("")).unwrap(), None);
        told(Some("perhaps")).unwrap_err();
    }

    #[test]
    fn a_kernel_that_speaks_is_kvm_a_silent_end_is_emulation() {
        let run = |script: &str| {
            let mut child = Command::new("sh")
                .args(["-c", script])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("sh is on every host");
            let verdict = watch(&mut child).unwrap();
            child.wait().unwrap();
            verdict
        };
        assert_eq!(run("echo SeaBIOS; echo '[0.0] Linux version 6.1'").emulation_flag(), "never");
        let failed = run("echo 'no permission' >&2; exit 1");
        assert_eq!(failed, Verdict::Emulation { reason: "QEMU ended under KVM: no permission".to_owned() });
    }
}

//! Processes that outlive this command: started apart from its terminal, known again by process id and program name, ended by process id.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Between two looks at something that takes a while.
const PAUSE: Duration = Duration::from_millis(100);

/// A process noted in a file.
#[derive(Debug)]
pub(crate) struct Noted {
    pid: Pid,
}

impl Noted {
    /// The live process that `file` notes, if it still is the program `name`: process ids are used again.
    pub(crate) fn read(file: &Path, name: &str) -> Option<Self> {
        let pid: i32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        // The path of a program that was built anew in the meantime ends in " (deleted)".
        let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let is_it = executable.file_name()?.to_string_lossy().split(' ').next() == Some(name);
        is_it.then_some(Self { pid: Pid::from_raw(pid) })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        // The state follows the name, which is in parentheses and may hold anything. A zombie has ended.
        status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// Asks it to end, waits, and kills it past the deadline.
    pub(crate) fn end(&self, deadline: Duration) -> Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if !self.is_alive() {
                return Ok(());
            }
            kill(self.pid, signal).with_context(|| format!("end process {}", self.pid))?;
            let start = Instant::now();
            while self.is_alive() && start.elapsed() < deadline {
                thread::sleep(PAUSE);
            }
        }
        if self.is_alive() {
            bail!("process {} does not end", self.pid)
        }
        Ok(())
    }
}

/// Starts a program in a session of its own, its output going to a file, and notes its process id.
pub(crate) fn start_detached(command: &Command, log: &Path, pid_file: &Path) -> Result<Noted> {
    let output = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let mut detached = Command::new("setsid");
    detached.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => detached.env(name, value),
            None => detached.env_remove(name),
        };
    }
    // setsid replaces itself by the program, so this is the program's process id.
    let child = detached
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("share the log")?)
        .stderr(output)
        .spawn()
        .context("run setsid")?;
    fs::write(pid_file, format!("{}\n", child.id())).with_context(|| format!("write {}", pid_file.display()))?;
    Ok(Noted { pid: Pid::from_raw(i32::try_from(child.id()).context("a process id is a positive i32")?) })
}

/// Looks until there is an answer or the deadline passes; `None` from `look` means not yet.
pub(crate) fn wait_for<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_process_is_known_by_its_name_and_ended() {
        let base = std::env::temp_dir().join(format!("ovm-xtask-running-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let (log, pid_file) = (base.join("log"), base.join("pid"));
        let mut command = Command::new("sleep");
        command.arg("60");
        start_detached(&command, &log, &pid_file).unwrap();
        let found = wait_for(Duration::from_secs(5), || Noted::read(&pid_file, "sleep")).expect("sleep runs");
        assert!(Noted::read(&pid_file, "ovm-standalone").is_none(), "another program is not ours");
        found.end(Duration::from_secs(5)).unwrap();
        assert!(!found.is_alive());
        fs::remove_dir_all(base).unwrap();
    }
}

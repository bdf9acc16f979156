//! What a process costs, and `ovm-standalone` while nothing happens.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::figure::{Figure, Goal};
use crate::rig::Rig;

const MEMORY_GOAL_MB: f64 = 30.0;
const IDLE_GOAL_PERCENT: f64 = 0.5;
/// What the starts before have left to do is over after this.
const QUIET: Duration = Duration::from_secs(15);
/// Two full passes of the agent, two rounds of its watches and six heartbeats fall into this.
const WINDOW: Duration = Duration::from_mins(1);
const SAMPLE: Duration = Duration::from_secs(2);

/// Memory and CPU time with all guests running: the highest of the samples, and the mean over the window.
///
/// # Errors
/// When the server is gone.
pub(crate) fn measure_idle(rig: &Rig) -> Result<[Figure; 2]> {
    let pid = rig.stack.server.standalone()?.pid().context("ovm-standalone does not run")?;
    sleep(QUIET);
    let (begun, cpu) = (Instant::now(), cpu_time(pid)?);
    let mut memory = resident_bytes(pid)?;
    while begun.elapsed() < WINDOW {
        sleep(SAMPLE);
        memory = memory.max(resident_bytes(pid)?);
    }
    let used = cpu_time(pid)?.saturating_sub(cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    let (value, goal) = (memory / 1e6, Goal::AtMost(MEMORY_GOAL_MB));
    let rss = Figure { name: "rss", value, unit: "MB", floor: None, goal };
    let goal = Goal::AtMost(IDLE_GOAL_PERCENT);
    let idle = Figure { name: "idle", value: used * 100.0, unit: "%", floor: None, goal };
    Ok([rss, idle])
}

/// The resident set, shared pages included: `VmRSS`.
///
/// # Errors
/// When the process is gone.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the process's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("there is no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("read VmRSS {line}"))?;
    Ok(kib * 1024.0)
}

/// User and system time of all threads, ended ones too: fields 14 and 15 of `/proc/PID/stat`, see `proc_pid_stat(5)`.
///
/// # Errors
/// When the process is gone.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the process's CPU time")?;
    // The second field is the program's name in parentheses, and may hold spaces.
    let (_, fields) = stat.rsplit_once(") ").context("the name does not end")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().context("ask for the clock's ticks")?;
    Ok(Duration::from_secs(1) * u32::try_from(ticks).context("count ticks")? / u32::try_from(per_second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_worked_has_memory_and_cpu_time() {
        let own = std::process::id();
        assert!(resident_bytes(own).unwrap() > 1e5);
        let before = cpu_time(own).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            std::hint::black_box(begun);
        }
        assert!(cpu_time(own).unwrap() > before);
    }
}

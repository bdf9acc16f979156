//! From exec to ready, over the data of an installation whose guests run.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Request;
use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use tests::libvirtd::Signal;
use tests::standalone::Standalone;
use tests::wait::wait_for;

use crate::figure::{Figure, Goal};
use crate::rig::{Rig, settle};
use crate::rounds::{listed, median, milliseconds};

const GOAL_MS: f64 = 150.0;
/// Between two looks whether the server is ready.
const LOOK: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_mins(1);

/// The time from exec until `/readyz` is answered over TLS. The server listens only once its agent is up.
///
/// # Errors
/// When the server does not get ready, or does not end.
pub(crate) fn measure(rig: &mut Rig, rounds: usize) -> Result<Figure> {
    rig.stack.server.stop(Signal::Term)?;
    let mut taken = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let log = File::create(rig.stack.scratch("cold-start.log")).context("create the server's log")?;
        let server = &rig.stack.server;
        let mut command =
            Standalone::command(server.data(), &server.standalone()?.address().to_string(), &rig.stack.libvirtd.uri())?;
        let begun = Instant::now();
        let running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))?;
        while !rig.is_ready() {
            ensure!(begun.elapsed() < DEADLINE, "the server is not ready after {} s", DEADLINE.as_secs());
            sleep(LOOK);
        }
        taken.push(begun.elapsed());
        settle();
        running.end()?;
    }
    eprintln!("cold-start: {}", listed(&taken));
    let value = milliseconds(median(taken).context("there are no rounds")?);
    Ok(Figure { name: "cold-start", value, unit: "ms", floor: None, goal: Goal::AtMost(GOAL_MS) })
}

impl Rig {
    fn is_ready(&self) -> bool {
        let Ok(request) = Request::get("/readyz").body(Vec::new()) else { return false };
        self.runtime.block_on(self.api.request_text(request)).is_ok()
    }
}

/// A server that is killed if its measurement fails.
struct Running(Child);

impl Running {
    fn spawn(command: &mut Command) -> Result<Self> {
        command.spawn().map(Self).context("run ovm-standalone")
    }

    fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).context("a process id is a positive i32")?;
        kill(Pid::from_raw(pid), UnixSignal::SIGTERM).context("end the server")?;
        wait_for("ovm-standalone ends", DEADLINE, || self.0.try_wait()?.context("it still runs").map(drop))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

//! Server processes that end with the test process, however it ends.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::programs::last_lines;
use crate::wait::wait_for;

/// Time for a server to end, after which it is killed.
const END_DEADLINE: Duration = Duration::from_secs(20);

type Request = (Command, Sender<io::Result<Child>>);

/// Starts servers from a thread of its own. The kernel ties a child's life to the *thread* that started it, and a test's own thread ends with the test.
#[derive(Debug)]
pub struct Servers {
    requests: Sender<Request>,
    directory: PathBuf,
}

/// One running server. Dropping it kills it, with everything in its process group.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Servers {
    /// Servers that work in `directory` and log to `directory/log`.
    ///
    /// # Errors
    /// When the folder of logs cannot be made.
    pub fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory.join("log")).context("make the folder of logs")?;
        let (requests, inbox) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Nobody waits for the answer when the test has failed meanwhile; the child then ends with this thread.
                let _unheard = answer.send(command.spawn());
            }
        });
        Ok(Self { requests, directory: directory.to_owned() })
    }

    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(&self, name: &str, command: &Command) -> Result<Server> {
        let log = self.log_of(name);
        let output = File::options().create(true).append(true).open(&log).context("open a server's log")?;
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(variable, value),
                None => guarded.env_remove(variable),
            };
        }
        guarded.current_dir(&self.directory).stdin(Stdio::null());
        guarded.stdout(output.try_clone().context("share a server's log")?).stderr(output).process_group(0);
        let (answer, answers) = channel();
        self.requests.send((guarded, answer)).context("the thread of servers has ended")?;
        let child =
            answers.recv().context("the thread of servers has ended")?.with_context(|| format!("run {name}"))?;
        Ok(Server { name: name.to_owned(), child, log })
    }

    /// The ends of the logs of these servers.
    pub(crate) fn logs(&self, names: &[&str]) -> String {
        let show = |name: &&str| {
            let log = fs::read_to_string(self.log_of(name)).unwrap_or_default();
            format!("--- {name}\n{}\n", last_lines(&log))
        };
        names.iter().map(show).collect()
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.directory.join("log").join(format!("{name}.log"))
    }
}

impl Server {
    /// An error with its log, if it has ended by itself.
    ///
    /// # Errors
    /// That.
    pub fn look_if_running(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("look at {}", self.name))? {
            Some(status) => bail!("{} ended with {status}; its log:\n{}", self.name, self.log()),
            None => Ok(()),
        }
    }

    /// Ends it by a signal and waits until it is gone.
    pub(crate) fn stop(mut self, signal: impl Into<Signal>) -> Result<()> {
        self.signal(signal.into())?;
        wait_for(&format!("{} ends", self.name), END_DEADLINE, || {
            self.child.try_wait()?.context("it still runs").map(drop)
        })
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        killpg(self.group()?, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of its log, over all starts.
    pub(crate) fn log(&self) -> String {
        last_lines(&fs::read_to_string(&self.log).unwrap_or_default())
    }

    fn group(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).map(Pid::from_raw).context("a process id is a positive i32")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _already_gone = self.signal(Signal::SIGKILL);
        let _reaped = self.child.wait();
    }
}

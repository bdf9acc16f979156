//! The user guide's example in the demo.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::say;
use super::state::DemoState;
use crate::process;
use crate::workspace::Workspace;

/// Where the example runs; the default namespace stays free for what the user tries.
pub(super) const NAMESPACE: &str = "demo";
const MANIFEST: &str = "examples/ovm.yaml";
const NAME: &str = "ovm-cirros";
/// What the guest's console shows when it is up.
const PROMPT: &str = "login:";
/// Under emulation on a busy machine a boot takes half a minute.
const BOOT_DEADLINE: Duration = Duration::from_mins(3);
/// A guest that is silent for so long has booted before: Enter makes it repeat its prompt.
const SILENCE: Duration = Duration::from_secs(5);

/// The example, applied or not.
#[derive(Debug)]
pub(super) struct Example<'a> {
    workspace: &'a Workspace,
    programs: &'a Path,
    state: &'a DemoState,
}

impl<'a> Example<'a> {
    pub(super) fn new(workspace: &'a Workspace, programs: &'a Path, state: &'a DemoState) -> Self {
        Self { workspace, programs, state }
    }

    /// Creates the namespace and the object, where they are missing.
    pub(super) fn apply_if_needed(&self) -> Result<()> {
        if process::output(self.kubectl().args(["get", "namespace", NAMESPACE])).is_err() {
            process::run(self.kubectl().args(["create", "namespace", NAMESPACE]))?;
        }
        if process::output(self.kubectl().args(["get", "ovm", NAME, "-n", NAMESPACE])).is_err() {
            say(&format!("kubectl create -f {MANIFEST} -n {NAMESPACE}"));
            process::run(self.kubectl().args(["create", "-n", NAMESPACE, "-f", MANIFEST]))?;
        }
        Ok(())
    }

    /// `virtctl start`, unless it is to run already.
    pub(super) fn start_if_needed(&self) -> Result<()> {
        let running = process::output(self.kubectl().args([
            "get",
            "ovm",
            NAME,
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={.spec.running}",
        ]))?;
        if running != "true" {
            say(&format!("virtctl start {NAME} -n {NAMESPACE}"));
            process::run(self.virtctl().args(["start", NAME, "-n", NAMESPACE]))?;
        }
        Ok(())
    }

    /// Prints the guest's console until it asks for a login.
    pub(super) fn show_boot_output(&self) -> Result<()> {
        say(&format!("virtctl console {NAME} -n {NAMESPACE}    (the guest's boot output, up to its login prompt)"));
        let mut console = self
            .virtctl()
            .args(["console", NAME, "-n", NAMESPACE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run virtctl")?;
        let shown = show_until_prompt(&mut console);
        let _already_gone = console.kill();
        let _reaped = console.wait();
        println!();
        shown.with_context(|| {
            format!("show the console of {NAME}; `kubectl describe vm {NAME} -n {NAMESPACE}` says more")
        })
    }

    fn kubectl(&self) -> Command {
        self.command(Command::new("kubectl"))
    }

    fn virtctl(&self) -> Command {
        self.command(Command::new(self.programs.join("virtctl")))
    }

    fn command(&self, mut command: Command) -> Command {
        command.env("KUBECONFIG", self.state.kubeconfig()).current_dir(&self.workspace.root);
        command
    }
}

fn show_until_prompt(console: &mut Child) -> Result<()> {
    let mut input = console.stdin.take().context("virtctl has no input")?;
    let pieces = read_pieces(console)?;
    let start = Instant::now();
    let mut seen = String::new();
    while start.elapsed() < BOOT_DEADLINE {
        match pieces.recv_timeout(SILENCE) {
            Ok(piece) => {
                let text = String::from_utf8_lossy(&piece).replace('\r', "");
                print!("{text}");
                std::io::stdout().flush().context("print the console")?;
                seen.push_str(&text);
                if seen.contains(PROMPT) {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => input.write_all(b"\n").context("press Enter on the console")?,
            Err(RecvTimeoutError::Disconnected) => bail!("the console ended before {PROMPT:?}"),
        }
    }
    bail!("no {PROMPT:?} within {} s", BOOT_DEADLINE.as_secs())
}

fn read_pieces(console: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let mut output = console.stdout.take().context("virtctl has no output")?;
    let (sender, pieces) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    Ok(pieces)
}

//! A `virtctl console` session that a test reads and types into.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::client::Client;
use crate::wait::wait_for;

/// An open console. Dropping it ends virtctl.
#[derive(Debug)]
pub struct Console {
    child: Child,
    input: ChildStdin,
    seen: Arc<Mutex<String>>,
    /// How much of `seen` earlier expectations have used up.
    read: usize,
}

impl Console {
    /// Opens the console of a virtual machine that runs or is about to.
    ///
    /// # Errors
    /// When virtctl is not built.
    pub fn open(client: &Client, namespace: &str, name: &str) -> Result<Self> {
        let mut virtctl = client.virtctl_command()?;
        virtctl.args(["console", name, "-n", namespace]);
        Self::run(virtctl)
    }

    /// Runs `virtctl console`, wherever.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(mut virtctl: Command) -> Result<Self> {
        let mut child = virtctl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run virtctl console")?;
        let input = child.stdin.take().context("virtctl has no input")?;
        let mut output = child.stdout.take().context("virtctl has no output")?;
        let seen = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                writer
                    .lock()
                    .expect("nobody panics with the lock")
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Ok(Self { child, input, seen, read: 0 })
    }

    /// Waits until the guest has printed `text`, after what earlier calls found, and returns all that came before it.
    ///
    /// # Errors
    /// When it does not, in time; the message is what the guest printed in its place.
    pub fn expect(&mut self, text: &str, deadline: Duration) -> Result<String> {
        let seen = Arc::clone(&self.seen);
        let read = self.read;
        let found = wait_for(&format!("the console shows {text:?}"), deadline, || {
            let seen = seen.lock().expect("nobody panics with the lock");
            match seen[read..].find(text) {
                Some(offset) => Ok((seen[read..read + offset].to_owned(), read + offset + text.len())),
                None => bail!("it shows {:?}", &seen[read..]),
            }
        });
        let (before, read) = found?;
        self.read = read;
        Ok(before)
    }

    /// What virtctl itself said, once it has ended of its own accord.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn told_at_the_end(mut self, deadline: Duration) -> Result<String> {
        let status = wait_for("virtctl console ends", deadline, || self.child.try_wait()?.context("it runs"))?;
        let mut told = String::new();
        self.child.stderr.take().context("virtctl says nothing")?.read_to_string(&mut told)?;
        ensure!(status.success(), "virtctl console: {status}: {told}");
        Ok(told)
    }

    /// Types into the console.
    ///
    /// # Errors
    /// When the session has ended.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush()).context("type into the console")
    }

    /// Types this until the guest echoes it. A guest that is just up, before or after the console, misses what was typed before it read its port.
    ///
    /// # Errors
    /// When it does not, in time, or the session has ended.
    pub fn wait_for_echo(&mut self, text: &str, deadline: Duration) -> Result<()> {
        wait_for("the guest echoes", deadline, || {
            self.send(text)?;
            self.expect(text, Duration::from_secs(1)).map(drop)
        })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

//! `kubectl get --watch` of one field: what a look now and then would miss.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context as _, Result, ensure};

use crate::client::Client;
use crate::stack::DEADLINE;
use crate::wait::wait_for;

/// A running watch. Dropping it ends kubectl.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    values: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    /// Watches the field that a JSON path names, of the object that the arguments name: `["get", "ovm", "a"]`, `{.status.ready}`.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub fn start(client: &Client, arguments: &[&str], path: &str) -> Result<Self> {
        let mut child = client
            .kubectl_command()
            .args(arguments)
            .args(["--watch", "--output", &format!("jsonpath={path}{{\"\\n\"}}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("run kubectl get --watch")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let values = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&values);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                writer.lock().expect("nobody panics with the lock").push(line);
            }
        });
        Ok(Self { child, values })
    }

    /// The values so far. A change of another field repeats the value.
    pub fn values(&self) -> Vec<String> {
        self.values.lock().expect("nobody panics with the lock").clone()
    }

    /// Waits until the field has had these values in this order, with others in between or not.
    ///
    /// # Errors
    /// When it has not, in time.
    pub fn expect_in_order(&self, wanted: &[&str]) -> Result<()> {
        wait_for(&format!("the watch has seen {wanted:?}"), DEADLINE, || {
            let seen = self.values();
            let mut rest = wanted;
            for value in &seen {
                if rest.first() == Some(&value.as_str()) {
                    rest = &rest[1..];
                }
            }
            ensure!(rest.is_empty(), "it has seen {seen:?}");
            Ok(())
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

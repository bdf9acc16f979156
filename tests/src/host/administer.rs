//! What an administrator does on a host with our packages.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Host;
use crate::boot_sector::{SECTOR, write_disk};
use crate::console::Console;
use crate::wait::wait_for;

/// For a guest or a service to be up or gone, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

impl Host {
    /// Adds lines to `/etc/ovm/ovm.env`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, lines: &str) -> Result<()> {
        let file = self.root().join("etc/ovm/ovm.env");
        let mut env = OpenOptions::new().append(true).open(&file).context("open the configuration")?;
        writeln!(env, "{lines}").context("write the configuration")
    }

    /// Imports a boot sector as image `name`.
    ///
    /// # Errors
    /// When that fails.
    pub fn import_sector(&self, name: &str, sector: &[u8; SECTOR]) -> Result<()> {
        write_disk(&self.root().join("root/disk.img"), sector)?;
        self.run(&["ovm-agent", "image", "import", name, "/root/disk.img"]).map(drop)
    }

    /// Waits until a VirtualMachine runs whose UID is not `not`, and returns it.
    ///
    /// # Errors
    /// When it does not, in time.
    pub fn wait_for_guest(&self, name: &str, not: Option<&Value>) -> Result<Value> {
        wait_for(&format!("guest {name} runs"), DEADLINE, || {
            let vm = self.object("vm", name)?;
            ensure!(vm["status"]["phase"] == "Running", "its status is {}", vm["status"]);
            ensure!(not.is_none_or(|not| not["metadata"]["uid"] != vm["metadata"]["uid"]), "it is the old one");
            Ok(vm)
        })
    }

    /// Waits until a service says that it is ready.
    ///
    /// # Errors
    /// When it does not, in time.
    pub fn wait_for_ready(&self, unit: &str) -> Result<()> {
        wait_for(&format!("{unit} is ready"), DEADLINE, || {
            let state = self.property(unit, "StatusText")?;
            ensure!(state == "ready", "its status is {state:?}");
            Ok(())
        })
    }

    /// Opens a guest's serial console with `virtctl console`, on this host.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn guest_console(&self, name: &str) -> Result<Console> {
        Console::run(self.command(&["virtctl", "console", name])?)
    }

    /// Takes a file of the test's onto the host, as `/root/NAME`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.root().join("root").join(name), text).with_context(|| format!("write /root/{name}"))
    }
}

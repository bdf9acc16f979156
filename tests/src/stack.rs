//! Everything that one scenario needs: a libvirtd of its own, our programs on it, an API, and a user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::boot_sector::write_disk;
use crate::client::Client;
use crate::console::Console;
use crate::libvirtd::PrivateLibvirtd;
use crate::programs::{last_lines, output, program};
use crate::scenario::Api;
use crate::server::Server;
use crate::standalone::{Standalone, volume_root};
use crate::wait::wait_for;

/// For a state to come about on a busy machine. Far more than it takes: a wait that is in vain should be rare, and sure.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// For a Linux guest to boot or to shut down under emulation, with others booting beside it.
pub const BOOT_DEADLINE: Duration = Duration::from_mins(3);

/// The namespace that scenarios use where one is as good as another.
pub const NAMESPACE: &str = "default";

/// The servers of one scenario. They end with it, guests included.
#[derive(Debug)]
pub struct Stack {
    /// `ovm-standalone`, or our programs on a real API.
    pub server: Server,
    /// kubectl and virtctl.
    pub client: Client,
    // Last, so that it is dropped last: its directory holds the server's.
    /// libvirtd and its guests.
    pub libvirtd: PrivateLibvirtd,
}

/// An assertion that fails in a scenario shows the logs too.
impl Drop for Stack {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

impl Stack {
    /// Starts libvirtd and `ovm-standalone`.
    ///
    /// # Errors
    /// When one of them does not come up in time.
    pub fn start() -> Result<Self> {
        Self::start_on(Api::Standalone)
    }

    /// Starts libvirtd and our programs, with this API.
    ///
    /// # Errors
    /// When one of them does not come up in time.
    pub fn start_on(api: Api) -> Result<Self> {
        Self::with(PrivateLibvirtd::start()?, |base, libvirt| Server::start(api, base, libvirt))
    }

    /// Starts libvirtd and `ovm-standalone`, which keeps its data in a directory of the caller's.
    ///
    /// # Errors
    /// When one of them does not come up in time.
    pub fn start_at(data: &Path) -> Result<Self> {
        Self::with(PrivateLibvirtd::start()?, |_, libvirt| Standalone::start(data, libvirt).map(Server::Standalone))
    }

    fn with(libvirtd: PrivateLibvirtd, start: impl FnOnce(&Path, &str) -> Result<Server>) -> Result<Self> {
        let home = libvirtd.directory().join("home");
        fs::create_dir(&home).context("make the user's home")?;
        let server = start(libvirtd.directory(), &libvirtd.uri())?;
        let client = Client::new(&server.kubeconfig(), &home);
        Ok(Self { server, client, libvirtd })
    }

    /// Puts a disk into the node's image store: `ovm-agent image import`.
    ///
    /// # Errors
    /// When the import fails.
    pub fn import(&self, image: &str, disk: &Path) -> Result<()> {
        output(
            Command::new(program("ovm-agent")?)
                .args(["image", "import", image])
                .arg(disk)
                .arg("--data-dir")
                .arg(self.server.data()),
        )
        .map(drop)
    }

    /// Puts a boot sector into the node's image store.
    ///
    /// # Errors
    /// When the import fails.
    pub fn import_sector(&self, image: &str, sector: &[u8]) -> Result<()> {
        let disk = self.scratch("sector.raw");
        fs::write(&disk, sector).context("write the boot sector")?;
        // A whole number of clusters, as every real disk has.
        fs::OpenOptions::new().write(true).open(&disk)?.set_len(1 << 20).context("grow the disk")?;
        self.import(image, &disk)
    }

    /// Where PersistentVolumes of the node are.
    pub fn volume_root(&self) -> PathBuf {
        volume_root(self.server.data())
    }

    /// Makes the directory of a PersistentVolume on the node, with a disk that boots `sector`; returns the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_volume(&self, name: &str, sector: &[u8; 512]) -> Result<PathBuf> {
        let directory = self.volume_root().join(name);
        fs::create_dir_all(&directory).context("make the volume's directory")?;
        let disk = directory.join("disk.img");
        write_disk(&disk, sector)?;
        Ok(disk)
    }

    /// A file name of the scenario's own.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.libvirtd.directory().join(name)
    }

    /// An OfflineVirtualMachine; `None` if there is none.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn offline_machine(&self, namespace: &str, name: &str) -> Result<Option<Value>> {
        self.client.get(&format!("/apis/kubevirt.io/v1alpha1/namespaces/{namespace}/offlinevirtualmachines/{name}"))
    }

    /// A VirtualMachine; `None` if there is none.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn machine(&self, namespace: &str, name: &str) -> Result<Option<Value>> {
        self.client.get(&format!("/apis/kubevirt.io/v1alpha1/namespaces/{namespace}/virtualmachines/{name}"))
    }

    /// Waits until a VirtualMachine is in a phase, and returns it.
    ///
    /// # Errors
    /// When it is not, in time.
    pub fn wait_for_phase(&self, namespace: &str, name: &str, phase: &str) -> Result<Value> {
        wait_for(&format!("{namespace}/{name} is {phase}"), DEADLINE, || {
            let machine = self.machine(namespace, name)?.context("there is no such VirtualMachine")?;
            ensure!(machine["status"]["phase"] == phase, "its status is {}", machine["status"]);
            Ok(machine)
        })
    }

    /// Waits until a VirtualMachine has this reason in a condition that is False, and returns the condition's message.
    ///
    /// # Errors
    /// When it has not, in time.
    pub fn wait_for_reason(&self, namespace: &str, name: &str, reason: &str) -> Result<String> {
        wait_for(&format!("{namespace}/{name} says {reason}"), DEADLINE, || {
            let machine = self.machine(namespace, name)?.context("there is no such VirtualMachine")?;
            let conditions = machine["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().find(|one| one["reason"] == reason && one["status"] == "False");
            let found = found.with_context(|| format!("its status is {}", machine["status"]))?;
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until a VirtualMachine of another UID than `old` runs, and returns it.
    ///
    /// # Errors
    /// When none does, in time.
    pub fn wait_for_successor(&self, namespace: &str, name: &str, old: &Value) -> Result<Value> {
        wait_for(&format!("a successor of {namespace}/{name} runs"), DEADLINE, || {
            let machine = self.machine(namespace, name)?.context("there is no VirtualMachine")?;
            ensure!(uid(&machine) != uid(old), "it is still the old one, with status {}", machine["status"]);
            ensure!(machine["status"]["phase"] == "Running", "its status is {}", machine["status"]);
            Ok(machine)
        })
    }

    /// Waits until there is no VirtualMachine and no domain of this name.
    ///
    /// # Errors
    /// When there still is, in time.
    pub fn wait_until_gone(&self, namespace: &str, name: &str) -> Result<()> {
        wait_for(&format!("{namespace}/{name} is gone"), DEADLINE, || {
            if let Some(machine) = self.machine(namespace, name)? {
                bail!("the VirtualMachine is there: {}", machine["metadata"]);
            }
            ensure!(self.domain_state(namespace, name)?.is_none(), "the domain is there");
            Ok(())
        })
    }

    /// Waits until an OfflineVirtualMachine's status has these values for `created` and `ready`, and returns it.
    ///
    /// # Errors
    /// When it has not, in time.
    pub fn wait_for_status(&self, namespace: &str, name: &str, created: bool, ready: bool) -> Result<Value> {
        wait_for(&format!("{namespace}/{name} has created {created} and ready {ready}"), DEADLINE, || {
            let object = self.offline_machine(namespace, name)?.context("there is no such OfflineVirtualMachine")?;
            let status = &object["status"];
            let is = |field: &str| status[field].as_bool().unwrap_or(false);
            ensure!(is("created") == created && is("ready") == ready, "its status is {status}");
            Ok(object)
        })
    }

    /// The state of a machine's domain as virsh names it; `None` if there is no such domain.
    ///
    /// # Errors
    /// When libvirtd does not answer.
    pub fn domain_state(&self, namespace: &str, name: &str) -> Result<Option<String>> {
        let domain = format!("{namespace}_{name}");
        let listed = self.libvirtd.virsh(&["list", "--all", "--name"])?;
        if listed.lines().any(|line| line.trim() == domain) {
            // Gone between the two calls is gone.
            return Ok(self.libvirtd.virsh(&["domstate", &domain]).ok());
        }
        Ok(None)
    }

    /// The firmware UUID of a machine's domain.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn firmware_uuid(&self, namespace: &str, name: &str) -> Result<String> {
        self.libvirtd.virsh(&["domuuid", &format!("{namespace}_{name}")])
    }

    /// The process id of a machine's QEMU.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn qemu(&self, namespace: &str, name: &str) -> Result<Pid> {
        let uuid = self.firmware_uuid(namespace, name)?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("list /proc")? {
            let entry = entry.context("list /proc")?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // A process may end while we look.
            let Ok(arguments) = fs::read(entry.path().join("cmdline")) else { continue };
            let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
            if arguments[0].ends_with(b"qemu-system-x86_64") && arguments.contains(&uuid.as_bytes()) {
                found.push(Pid::from_raw(pid));
            }
        }
        match found[..] {
            [pid] => Ok(pid),
            _ => bail!("there are {} QEMU processes with UUID {uuid}", found.len()),
        }
    }

    /// Kills a machine's QEMU, as the host's out-of-memory killer would.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_qemu(&self, namespace: &str, name: &str) -> Result<()> {
        kill(self.qemu(namespace, name)?, UnixSignal::SIGKILL).context("kill QEMU")
    }

    /// Opens a machine's console.
    ///
    /// # Errors
    /// When virtctl is not built.
    pub fn console(&self, namespace: &str, name: &str) -> Result<Console> {
        Console::open(&self.client, namespace, name)
    }

    /// Reasons and messages of the events about an object, oldest first.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn events(&self, namespace: &str, kind: &str, name: &str) -> Result<Vec<(String, String)>> {
        let list =
            self.client.get(&format!("/api/v1/namespaces/{namespace}/events"))?.context("there are no events")?;
        let items = list["items"].as_array().context("a list has items")?;
        let is_about =
            |event: &&Value| event["involvedObject"]["kind"] == kind && event["involvedObject"]["name"] == name;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(items.iter().filter(is_about).map(|event| (text(&event["reason"]), text(&event["message"]))).collect())
    }

    /// What a failed scenario shows: objects, events, domains and the ends of the logs.
    pub(crate) fn report(&self) -> String {
        let show = |title: &str, text: Result<String>| {
            format!("--- {title}\n{}\n", text.unwrap_or_else(|error| format!("{error:#}")))
        };
        [
            show("objects", self.client.kubectl(&["get", "ovm,vm", "-A", "-o", "yaml"])),
            show("events", self.client.kubectl(&["get", "events", "-A"])),
            show("domains", self.libvirtd.virsh(&["list", "--all"])),
            show("our programs", Ok(self.server.log())),
            show("libvirtd", Ok(last_lines(&self.libvirtd.log()))),
        ]
        .concat()
    }
}

/// An object's UID.
pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

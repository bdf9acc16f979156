//! Several nodes on one API: a controller, and for each node an `ovm-agent` with a libvirtd of its own. All on this host; a node is a name.
//!
//! [`Nodes::start`] gives each agent the administrator's kubeconfig, on a real API. [`Nodes::start_control`] gives none: agents join, as a user has them
//! join, a real Kubernetes with `manifests/base` in force, or an `ovm-standalone`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::boot_sector::write_disk;
use crate::client::Client;
use crate::kube::{ControlPlane, Server, Servers, install_with_controller, why_unavailable};
use crate::libvirtd::{PrivateLibvirtd, Signal, why_unsupported};
use crate::ports::free_address;
use crate::programs::{failure, output, program, repository, say_skipped};
use crate::scenario::Api;
use crate::stack::{BOOT_DEADLINE, DEADLINE, NAMESPACE, uid};
use crate::standalone::Standalone;
use crate::wait::wait_for;

/// The kubeconfig of a joined agent, in its host's directory.
const JOINED_KUBECONFIG: &str = "agent.kubeconfig";
/// Where PersistentVolumes are, in a host's directory.
const VOLUMES: &str = "volumes";

/// Nodes, and the controller that gives them guests. They end with it, guests included.
#[derive(Debug)]
pub struct Nodes {
    // In the order in which they are to end.
    members: BTreeMap<String, Member>,
    control: Control,
    servers: Servers,
    /// kubectl and virtctl of the administrator.
    pub client: Client,
    _home: TempDir,
}

/// API and controller.
#[derive(Debug)]
enum Control {
    Kubernetes { _controller: Server, control_plane: Box<ControlPlane> },
    Standalone { server: Standalone, _libvirtd: Box<PrivateLibvirtd> },
}

/// One node.
#[derive(Debug)]
struct Member {
    agent: Option<Server>,
    /// Of a joined agent; the administrator's for others.
    kubeconfig: PathBuf,
    libvirtd: PrivateLibvirtd,
}

/// Runs a scenario on nodes of these names, and shows the logs if it fails. A host that cannot run them skips it, loudly.
///
/// # Errors
/// When the servers do not start, or the scenario fails.
pub fn scenario(name: &str, nodes: &[&str], steps: impl FnOnce(&mut Nodes) -> Result<()>) -> Result<()> {
    if let Some(reason) = why_unsupported().or_else(why_unavailable) {
        say_skipped(name, &reason);
        return Ok(());
    }
    run(name, Nodes::start(nodes)?, steps)
}

/// Runs a scenario on hosts that are to join this API, and shows the logs if it fails. A host that cannot run them skips it, loudly.
///
/// # Errors
/// When the servers do not start, or the scenario fails.
pub fn joining_scenario(api: Api, name: &str, steps: impl FnOnce(&mut Nodes) -> Result<()>) -> Result<()> {
    let name = format!("{name} ({api:?})");
    let unavailable = why_unsupported().or_else(|| if api == Api::Kubernetes { why_unavailable() } else { None });
    if let Some(reason) = unavailable {
        say_skipped(&name, &reason);
        return Ok(());
    }
    run(&name, Nodes::start_control(api)?, steps)
}

fn run(name: &str, mut nodes: Nodes, steps: impl FnOnce(&mut Nodes) -> Result<()>) -> Result<()> {
    let result = steps(&mut nodes);
    if result.is_err() {
        eprintln!("{name} failed\n{}", nodes.report());
    }
    result
}

impl Nodes {
    /// Starts all, and waits until each node takes guests.
    ///
    /// # Errors
    /// When one of them does not come up in time.
    pub fn start(names: &[&str]) -> Result<Self> {
        let control_plane = ControlPlane::start()?;
        apply_kinds(&control_plane.admin())?;
        let controller = control_plane.start_controller(&control_plane.kubeconfig(), &[])?;
        let mut nodes = Self::on_kubernetes(control_plane, controller)?;
        for name in names {
            nodes.add_host(name)?;
            nodes.start_agent(name)?;
        }
        for name in names {
            nodes.wait_for_schedulable(name, "true")?;
        }
        Ok(nodes)
    }

    /// Starts an API and its controller, for hosts that join.
    ///
    /// # Errors
    /// When one of them does not come up in time.
    pub fn start_control(api: Api) -> Result<Self> {
        match api {
            Api::Kubernetes => {
                let control_plane = ControlPlane::start()?;
                let controller = install_with_controller(&control_plane, free_address()?)?;
                Self::on_kubernetes(control_plane, controller)
            }
            Api::Standalone => {
                let libvirtd = PrivateLibvirtd::start()?;
                let server = Standalone::start(&libvirtd.directory().join("data"), &libvirtd.uri())?;
                let home = tempfile::tempdir().context("make a folder")?;
                let client = Client::new(&server.kubeconfig(), home.path());
                let servers = Servers::new(home.path())?;
                let control = Control::Standalone { server, _libvirtd: Box::new(libvirtd) };
                Ok(Self { members: BTreeMap::new(), control, servers, client, _home: home })
            }
        }
    }

    fn on_kubernetes(control_plane: ControlPlane, controller: Server) -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        let servers = Servers::new(home.path())?;
        let client = control_plane.admin();
        let control = Control::Kubernetes { _controller: controller, control_plane: Box::new(control_plane) };
        Ok(Self { members: BTreeMap::new(), control, servers, client, _home: home })
    }

    /// Starts a host's libvirtd. It has no agent.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub fn add_host(&mut self, name: &str) -> Result<()> {
        let libvirtd = PrivateLibvirtd::start()?;
        let kubeconfig = self.client.kubeconfig().to_owned();
        self.members.insert(name.to_owned(), Member { agent: None, kubeconfig, libvirtd });
        Ok(())
    }

    /// `ovm-agent` on a host, with these arguments and the flags that say which host it is.
    ///
    /// # Errors
    /// When there is no such host, or the program is not built.
    pub fn on_host(&self, node: &str, arguments: &[&str]) -> Result<Command> {
        let member = self.members.get(node).context("there is no such node")?;
        let base = member.libvirtd.directory();
        let mut command = Command::new(program("ovm-agent")?);
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(base.join(JOINED_KUBECONFIG))
            .arg("--data-dir")
            .arg(base.join("data"));
        Ok(command)
    }

    /// Joins a host by the command that `virtctl token create` printed, under the host's name; returns what was printed.
    ///
    /// # Errors
    /// When it does not join.
    pub fn join(&mut self, node: &str, command: &str, more: &[&str]) -> Result<String> {
        let printed = output(self.join_command(node, command)?.args(more))?;
        let member = self.members.get_mut(node).context("there is no such node")?;
        member.kubeconfig = member.libvirtd.directory().join(JOINED_KUBECONFIG);
        Ok(printed)
    }

    /// Has a host join, which is to fail; returns what was said.
    ///
    /// # Errors
    /// When it joins.
    pub fn join_fails(&self, node: &str, command: &str) -> Result<String> {
        failure(&mut self.join_command(node, command)?)
    }

    fn join_command(&self, node: &str, command: &str) -> Result<Command> {
        let words: Vec<&str> = command.split_whitespace().collect();
        ensure!(words.first() == Some(&"ovm-agent"), "it is no command to join: {command}");
        let mut join = self.on_host(node, &words[1..])?;
        join.arg("--no-start");
        if !words.contains(&"--node-name") {
            join.args(["--node-name", node]);
        }
        Ok(join)
    }

    /// `ovm-agent leave` on a host.
    ///
    /// # Errors
    /// When there is no such host, or the program is not built.
    pub fn leave_command(&self, node: &str, more: &[&str]) -> Result<Command> {
        let mut leave = self.on_host(node, &["leave"])?;
        let member = self.members.get(node).context("there is no such node")?;
        leave.args(["--libvirt-uri", &member.libvirtd.uri()]).arg("--lock-dir").arg(member.libvirtd.directory());
        leave.args(more);
        Ok(leave)
    }

    /// Starts the agent of a node that has none.
    ///
    /// # Errors
    /// When it is not built.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let flags: &[&str] = if self.has_joined(node) { &[] } else { &["--node-name", node, "--register-node"] };
        self.start_agent_with(node, flags)
    }

    /// Starts the agent of a node that has none, with flags of the caller's.
    ///
    /// # Errors
    /// When it is not built.
    pub fn start_agent_with(&mut self, node: &str, flags: &[&str]) -> Result<()> {
        let member = self.members.get_mut(node).context("there is no such node")?;
        let base = member.libvirtd.directory();
        let mut command = Command::new(program("ovm-agent")?);
        command.arg("--kubeconfig").arg(&member.kubeconfig).args(["--emulation", "always"]).args(flags);
        command.args(["--libvirt-uri", &member.libvirtd.uri()]).arg("--data-dir").arg(base.join("data"));
        command.arg("--lock-dir").arg(base).arg("--volume-root").arg(base.join(VOLUMES));
        if member.kubeconfig.ends_with(JOINED_KUBECONFIG) {
            // The default port is one for a host.
            command.args(["--console-listen", "0.0.0.0:0"]);
        }
        member.agent = Some(self.servers.start(&format!("agent-{node}"), &command)?);
        Ok(())
    }

    /// Ends the agent of a node; its guests run on.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn stop_agent(&mut self, node: &str) -> Result<()> {
        let member = self.members.get_mut(node).context("there is no such node")?;
        member.agent.take().context("the agent does not run")?.stop(Signal::Term)
    }

    fn has_joined(&self, node: &str) -> bool {
        self.members.get(node).is_some_and(|member| member.kubeconfig.ends_with(JOINED_KUBECONFIG))
    }

    /// A host's own directory.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn directory(&self, node: &str) -> Result<&Path> {
        Ok(self.members.get(node).context("there is no such node")?.libvirtd.directory())
    }

    /// Makes the directory of a PersistentVolume on a host, with a disk that boots `sector`; returns the directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_volume(&self, node: &str, name: &str, sector: &[u8; 512]) -> Result<PathBuf> {
        let directory = self.directory(node)?.join(VOLUMES).join(name);
        fs::create_dir_all(&directory).context("make the volume's directory")?;
        write_disk(&directory.join("disk.img"), sector)?;
        Ok(directory)
    }

    /// virsh on a host.
    ///
    /// # Errors
    /// When it fails.
    pub fn virsh(&self, node: &str, arguments: &[&str]) -> Result<String> {
        self.members.get(node).context("there is no such node")?.libvirtd.virsh(arguments)
    }

    /// The node is off: agent and guests are killed, and nothing of it returns.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn lose_power(&mut self, node: &str) -> Result<()> {
        let mut member = self.members.remove(node).context("there is no such node")?;
        member.agent.take().context("the agent does not run")?.stop(Signal::Kill)
    }

    /// Puts a boot sector into the image store of every node.
    ///
    /// # Errors
    /// When an import fails.
    pub fn import_sector(&self, image: &str, sector: &[u8]) -> Result<()> {
        let mut stores = Vec::new();
        for member in self.members.values() {
            stores.push(member.libvirtd.directory().join("data"));
        }
        // The control host is a node as well.
        if let Control::Standalone { server, .. } = &self.control {
            stores.push(server.data().to_owned());
        }
        for data in stores {
            let disk = data.with_extension("sector.raw");
            fs::write(&disk, sector).context("write the boot sector")?;
            fs::OpenOptions::new().write(true).open(&disk)?.set_len(1 << 20).context("grow the disk")?;
            let mut import = Command::new(program("ovm-agent")?);
            output(import.args(["image", "import", image]).arg(&disk).arg("--data-dir").arg(data))?;
        }
        Ok(())
    }

    /// The nodes on which a domain of this name runs.
    ///
    /// # Errors
    /// When a libvirtd does not answer.
    pub fn run_by(&self, name: &str) -> Result<Vec<&str>> {
        let domain = format!("{NAMESPACE}_{name}");
        let mut found = Vec::new();
        for (node, member) in &self.members {
            if member.libvirtd.virsh(&["list", "--name"])?.lines().any(|line| line.trim() == domain) {
                found.push(node.as_str());
            }
        }
        Ok(found)
    }

    /// A VirtualMachine; `None` if there is none.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn machine(&self, name: &str) -> Result<Option<Value>> {
        self.client.get(&format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/virtualmachines/{name}"))
    }

    /// Waits until a VirtualMachine of another UID than `not` runs, there alone if a node is given, and returns it.
    ///
    /// # Errors
    /// When it does not, in time.
    pub fn wait_for_guest(&self, name: &str, node: Option<&str>, not: Option<&Value>) -> Result<Value> {
        wait_for(&format!("{name} runs on {}", node.unwrap_or("a node")), DEADLINE, || {
            let machine = self.machine(name)?.context("there is no such VirtualMachine")?;
            let status = &machine["status"];
            ensure!(status["phase"] == "Running", "its status is {status}");
            ensure!(not.is_none_or(|not| uid(not) != uid(&machine)), "it is still the old one");
            let on = status["nodeName"].as_str().unwrap_or_default();
            ensure!(node.is_none_or(|node| node == on), "it runs on {on}");
            ensure!(self.run_by(name)? == [on], "its domain runs on {:?}", self.run_by(name)?);
            Ok(machine)
        })
    }

    /// Waits until a VirtualMachine runs, wherever, and returns it.
    ///
    /// # Errors
    /// When it does not, in time.
    pub fn wait_for_running(&self, name: &str) -> Result<Value> {
        wait_for(&format!("{name} runs"), DEADLINE, || {
            let machine = self.machine(name)?.context("there is no such VirtualMachine")?;
            ensure!(machine["status"]["phase"] == "Running", "its status is {}", machine["status"]);
            Ok(machine)
        })
    }

    /// Waits until a VirtualMachine of another UID runs, wherever, and returns it.
    ///
    /// # Errors
    /// When it does not, in time.
    pub fn wait_for_successor(&self, name: &str, not: &Value) -> Result<Value> {
        wait_for(&format!("a successor of {name} runs"), DEADLINE, || {
            let machine = self.wait_for_running(name)?;
            ensure!(uid(&machine) != uid(not), "it is still the old one");
            Ok(machine)
        })
    }

    /// Waits until an OfflineVirtualMachine says in one word that it is so.
    ///
    /// # Errors
    /// When it does not, in time.
    pub fn wait_for_word(&self, name: &str, word: &str) -> Result<()> {
        let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/offlinevirtualmachines/{name}");
        wait_for(&format!("{name} is {word}"), BOOT_DEADLINE, || {
            let object = self.client.get(&path)?.context("there is no such OfflineVirtualMachine")?;
            ensure!(object["status"]["printableStatus"] == word, "its status is {}", object["status"]);
            Ok(())
        })
    }

    /// Waits until a node's label `schedulable` is so.
    ///
    /// # Errors
    /// When it is not, in time.
    pub fn wait_for_schedulable(&self, node: &str, wanted: &str) -> Result<()> {
        wait_for(&format!("node {node} has schedulable={wanted}"), DEADLINE, || {
            let found = self.client.get(&format!("/api/v1/nodes/{node}"))?.context("there is no Node")?;
            let label = &found["metadata"]["labels"]["kubevirt.io/schedulable"];
            ensure!(label == wanted, "it is {label}");
            Ok(())
        })
        .with_context(|| self.report())
    }

    fn report(&self) -> String {
        let logs: Vec<String> = self.members.keys().map(|node| format!("agent-{node}")).collect();
        let names: Vec<&str> = logs.iter().map(String::as_str).collect();
        let control = match &self.control {
            Control::Kubernetes { control_plane, .. } => control_plane.log(),
            Control::Standalone { server, .. } => server.log(),
        };
        let objects = self.client.kubectl(&["get", "ovm,vm,nodes", "-A", "-o", "yaml"]);
        let events = self.client.kubectl(&["get", "events", "-A"]);
        let text = |text: Result<String>| text.unwrap_or_else(|error| format!("{error:#}"));
        let requests = self.client.kubectl(&["get", "csr", "-o", "yaml"]);
        let requests = text(requests).lines().filter(|line| !line.contains("LS0tLS")).collect::<Vec<_>>().join("\n");
        format!("{}\n{}\n{requests}\n{control}\n{}", text(objects), text(events), self.servers.logs(&names))
    }
}

/// Our CustomResourceDefinitions, as they are released.
fn apply_kinds(client: &Client) -> Result<()> {
    let folder = repository().join("manifests/crd").display().to_string();
    client.kubectl(&["apply", "--server-side", "-k", &folder])?;
    let kinds = ["crd/offlinevirtualmachines.kubevirt.io", "crd/virtualmachines.kubevirt.io"];
    client.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", kinds[0], kinds[1]]).map(drop)
}

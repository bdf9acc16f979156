//! Several nodes on one real API: `ovm-controller`, and for each node an `ovm-agent` with a libvirtd of its own. All on this host; a node is a name.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::kube::{ControlPlane, Server, Servers, why_unavailable};
use crate::libvirtd::{PrivateLibvirtd, Signal, why_unsupported};
use crate::programs::{output, program, repository, say_skipped};
use crate::stack::{BOOT_DEADLINE, DEADLINE, NAMESPACE, uid};
use crate::wait::wait_for;

/// Nodes, and the controller that gives them guests. They end with it, guests included.
#[derive(Debug)]
pub struct Nodes {
    // In the order in which they are to end.
    members: BTreeMap<String, Member>,
    _controller: Server,
    servers: Servers,
    /// kubectl and virtctl of the administrator.
    pub client: Client,
    control_plane: ControlPlane,
}

/// One node.
#[derive(Debug)]
struct Member {
    agent: Option<Server>,
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
    let mut all = Nodes::start(nodes)?;
    let result = steps(&mut all);
    if result.is_err() {
        eprintln!("{name} failed\n{}", all.report());
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
        let client = control_plane.admin();
        apply_kinds(&client)?;
        let servers = Servers::new(control_plane.directory())?;
        let mut command = Command::new(program("ovm-controller")?);
        command.arg("--kubeconfig").arg(control_plane.kubeconfig());
        let controller = servers.start("ovm-controller", &command)?;
        let mut nodes = Self { members: BTreeMap::new(), _controller: controller, servers, client, control_plane };
        for name in names {
            let libvirtd = PrivateLibvirtd::start()?;
            nodes.members.insert((*name).to_owned(), Member { agent: None, libvirtd });
            nodes.start_agent(name)?;
        }
        for name in names {
            nodes.wait_for_schedulable(name, "true")?;
        }
        Ok(nodes)
    }

    /// Starts the agent of a node that has none.
    ///
    /// # Errors
    /// When it is not built.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let member = self.members.get_mut(node).context("there is no such node")?;
        let base = member.libvirtd.directory();
        let mut command = Command::new(program("ovm-agent")?);
        command.arg("--kubeconfig").arg(self.control_plane.kubeconfig());
        command.args(["--node-name", node, "--register-node", "--emulation", "always"]);
        command.args(["--libvirt-uri", &member.libvirtd.uri()]).arg("--data-dir").arg(base.join("data"));
        command.arg("--lock-dir").arg(base);
        member.agent = Some(self.servers.start(&format!("agent-{node}"), &command)?);
        Ok(())
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
        for member in self.members.values() {
            let disk = member.libvirtd.directory().join("sector.raw");
            fs::write(&disk, sector).context("write the boot sector")?;
            fs::OpenOptions::new().write(true).open(&disk)?.set_len(1 << 20).context("grow the disk")?;
            let data = member.libvirtd.directory().join("data");
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
        let mut names: Vec<&str> = vec!["ovm-controller"];
        names.extend(logs.iter().map(String::as_str));
        let objects = self.client.kubectl(&["get", "ovm,vm,nodes", "-A", "-o", "yaml"]);
        let events = self.client.kubectl(&["get", "events", "-A"]);
        let text = |text: Result<String>| text.unwrap_or_else(|error| format!("{error:#}"));
        format!("{}\n{}\n{}", text(objects), text(events), self.servers.logs(&names))
    }
}

/// Our CustomResourceDefinitions, as they are released.
fn apply_kinds(client: &Client) -> Result<()> {
    let folder = repository().join("manifests/crd").display().to_string();
    client.kubectl(&["apply", "--server-side", "-k", &folder])?;
    let kinds = ["crd/offlinevirtualmachines.kubevirt.io", "crd/virtualmachines.kubevirt.io"];
    client.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", kinds[0], kinds[1]]).map(drop)
}

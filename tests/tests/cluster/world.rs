//! The cluster with our installation on it, and what scenarios ask of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{IDLE, OBEYS_POWER_BUTTON};
use tests::client::Client;
use tests::kube::{Cluster, Node};
use tests::programs::{demo_guest_disk, repository};
use tests::wait::wait_for;

/// For a state to come about while a whole cluster runs on this machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(3);

/// The nodes.
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];

/// Where ours are.
pub(crate) const SYSTEM: &str = "kubevirt-system";

/// The image of the guide, which is the demo guest here.
pub(crate) const GUIDE_IMAGE: &str = "kubevirt/cirros-registry-disk-demo:latest";

/// Names and files of the images that each node has.
const IMAGES: [(&str, &str); 3] = [(GUIDE_IMAGE, "cirros.img"), ("idle", "idle.img"), ("obeys", "obeys.img")];

/// The kubelets' silence after which a node counts as lost. The default is 50 s.
const KUBELET_SILENCE: &str = "--node-monitor-grace-period=16s";

/// A cluster with our installation.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) admin: Client,
}

/// Why there are no images to install; `None` if there are.
pub(crate) fn why_no_images() -> Option<String> {
    let missing = images().into_iter().find(|image| !image.is_file())?;
    Some(format!("{} is not built; run `make images`", missing.display()))
}

fn images() -> Vec<PathBuf> {
    ["ovm-controller.tar", "ovm-agent.tar"].map(|name| repository().join("target/images").join(name)).into()
}

impl World {
    /// Starts the cluster, installs, and gives each node its images.
    pub(crate) fn start() -> Result<Self> {
        let cluster = Cluster::start_with(&NODES, &images(), vec![KUBELET_SILENCE.to_owned()])?;
        let world = Self { admin: cluster.admin(), cluster };
        world.install().with_context(|| world.report())?;
        Ok(world)
    }

    fn install(&self) -> Result<()> {
        let overlay = repository().join("manifests/overlays/dev").display().to_string();
        // The second time finds the kinds that the first has made.
        self.admin.kubectl(&["apply", "-k", &overlay])?;
        for workload in ["deployment/ovm-controller", "daemonset/ovm-agent"] {
            self.wait_for_rollout(workload)?;
        }
        for name in NODES {
            let node = self.cluster.node(name)?;
            for (sector, file) in [(IDLE, "idle.img"), (OBEYS_POWER_BUTTON, "obeys.img")] {
                let mut disk = sector.to_vec();
                disk.resize(1 << 20, 0);
                fs::write(node.state().join(file), disk).context("write a boot sector")?;
            }
            fs::copy(demo_guest_disk()?, node.state().join("cirros.img")).context("copy the demo guest")?;
            let pod = self.agent_pod(name)?;
            for (image, file) in IMAGES {
                let file = format!("/var/lib/ovm/{file}");
                let command = ["exec", "-n", SYSTEM, &pod, "--", "ovm-agent", "image", "import", image, &file];
                self.admin.kubectl(&command)?;
            }
        }
        wait_for("the aggregated API is there", DEADLINE, || {
            self.admin.get("/apis/subresources.kubevirt.io/v1alpha1")?.context("it is not").map(drop)
        })
    }

    /// Waits until all pods of a workload are of its newest template, and ready.
    pub(crate) fn wait_for_rollout(&self, workload: &str) -> Result<()> {
        self.admin.kubectl(&["rollout", "status", workload, "-n", SYSTEM, "--timeout=180s"]).map(drop)
    }

    /// The pod of a node's agent.
    pub(crate) fn agent_pod(&self, node: &str) -> Result<String> {
        let on_node = format!("spec.nodeName={node}");
        let of_agents =
            ["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=ovm-agent", "--field-selector", &on_node];
        let pod = self.admin.kubectl(&[&of_agents[..], &["-o", "jsonpath={.items[*].metadata.name}"]].concat())?;
        ensure!(!pod.is_empty() && !pod.contains(' '), "node {node} has the agents {pod:?}");
        Ok(pod)
    }

    /// A VirtualMachine in namespace default.
    pub(crate) fn machine(&self, name: &str) -> Result<Value> {
        self.admin
            .get(&format!("/apis/kubevirt.io/v1alpha1/namespaces/default/virtualmachines/{name}"))?
            .with_context(|| format!("there is no VirtualMachine {name}"))
    }

    /// Waits until a VirtualMachine runs, and returns it.
    pub(crate) fn wait_until_running(&self, name: &str) -> Result<Value> {
        wait_for(&format!("{name} runs"), DEADLINE, || {
            let machine = self.machine(name)?;
            ensure!(machine["status"]["phase"] == "Running", "its status is {}", machine["status"]);
            Ok(machine)
        })
    }

    /// Waits until there is no VirtualMachine of this name, and no domain.
    pub(crate) fn wait_until_gone(&self, namespace: &str, name: &str) -> Result<()> {
        wait_for(&format!("{name} is gone"), DEADLINE, || {
            let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/{namespace}/virtualmachines/{name}");
            ensure!(self.admin.get(&path)?.is_none(), "the VirtualMachine is there");
            let hosts = self.hosts_of(namespace, name)?;
            ensure!(hosts.is_empty(), "it has a domain on {hosts:?}");
            Ok(())
        })
    }

    /// The nodes that have a domain of this machine.
    pub(crate) fn hosts_of(&self, namespace: &str, name: &str) -> Result<Vec<&'static str>> {
        let domain = format!("{namespace}_{name}");
        let mut hosts = Vec::new();
        for node in NODES {
            let listed = self.cluster.node(node)?.virsh(&["list", "--all", "--name"])?;
            if listed.lines().any(|line| line.trim() == domain) {
                hosts.push(node);
            }
        }
        Ok(hosts)
    }

    /// The process id of a machine's QEMU on a node, as that node counts.
    pub(crate) fn qemu(&self, node: &str, name: &str) -> Result<String> {
        let node: &Node = self.cluster.node(node)?;
        let pid = node.run(&["cat", &format!("/run/libvirt/qemu/default_{name}.pid")])?;
        node.run(&["kill", "-0", &pid]).with_context(|| format!("{name} has no process"))?;
        Ok(pid)
    }

    /// Removes all machines.
    pub(crate) fn clear(&self) -> Result<()> {
        self.admin.kubectl(&["delete", "ovm,vm", "--all", "-n", "default", "--timeout=180s"]).map(drop)
    }

    /// What a failed scenario shows.
    pub(crate) fn report(&self) -> String {
        let show = |title: &str, arguments: &[&str]| {
            let text = self.admin.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"));
            format!("--- {title}\n{text}\n")
        };
        let of_ours = ["logs", "-n", SYSTEM, "--prefix", "--tail=60", "-l", "app.kubernetes.io/part-of=ovm"];
        [
            show("nodes", &["get", "nodes", "-o", "wide"]),
            show("pods", &["get", "pods", "-A", "-o", "wide"]),
            show("machines", &["get", "ovm,vm", "-A", "-o", "yaml"]),
            show("events", &["get", "events", "-A"]),
            show("our pods", &of_ours),
        ]
        .concat()
    }
}

/// An OfflineVirtualMachine that runs a boot sector, which may be killed at once.
pub(crate) fn small(name: &str, image: &str, more: &Value) -> Value {
    let mut object = tests::machines::offline_machine("default", name, image, true);
    if let (Some(spec), Some(more)) = (object["spec"]["template"]["spec"].as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    object
}

/// A node selector by name.
pub(crate) fn on(node: &str) -> Value {
    json!({"nodeSelector": {"kubernetes.io/hostname": node}})
}

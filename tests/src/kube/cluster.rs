//! A whole cluster on one box: a control plane in a network of its own, and nodes with pods and guests.
//!
//! Two may run side by side, and one that is killed takes everything with it but its directory and its control groups, which the next one removes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cgroups;
use crate::client::Client;
use crate::kube::control_plane::{ControlPlane, Settings};
use crate::kube::node::{Node, Place};
use crate::kube::why_unavailable;
use crate::wait::wait_for;

/// Seconds on an idle machine, images aside.
const READY_DEADLINE: Duration = Duration::from_mins(3);

/// What has to be installed.
const TOOLS: [&str; 8] = ["containerd", "ctr", "runc", "nft", "ip", "tini", "libvirtd", "virtlogd"];

/// A running cluster. Dropping it ends it, guests included.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they are to end.
    nodes: Vec<Node>,
    control_plane: ControlPlane,
}

/// Why no cluster can run on this host; `None` if it can.
pub fn why_no_cluster() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect();
    let missing: Vec<&str> =
        TOOLS.into_iter().filter(|tool| !folders.iter().any(|folder| folder.join(tool).exists())).collect();
    let root = || (!nix::unistd::geteuid().is_root()).then(|| "it needs root, for namespaces".to_owned());
    let tools = || (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")));
    let plugins = || {
        let bridge = Path::new("/usr/lib/cni/bridge");
        (!bridge.exists()).then(|| format!("{} is not there: install containernetworking-plugins", bridge.display()))
    };
    why_unavailable().or_else(root).or_else(tools).or_else(plugins).or_else(cgroups::why_unsupported)
}

impl Cluster {
    /// Starts a cluster with nodes of these names, each with these image archives, and waits until all are Ready.
    ///
    /// # Errors
    /// When something is not ready in time; the message then carries logs.
    pub fn start(nodes: &[&str], images: &[PathBuf]) -> Result<Self> {
        Self::start_with(nodes, images, Vec::new())
    }

    /// The same, with more flags of kube-controller-manager.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(nodes: &[&str], images: &[PathBuf], controller_flags: Vec<String>) -> Result<Self> {
        let settings = Settings { scheduler: true, network_of_its_own: true, controller_flags, ..Settings::default() };
        let mut cluster = Self { nodes: Vec::new(), control_plane: ControlPlane::start_with(&settings)? };
        let admin = cluster.admin();
        admin.kubectl(&[
            "create",
            "clusterrolebinding",
            "kube-proxy",
            "--clusterrole=system:node-proxier",
            "--user=system:kube-proxy",
        ])?;
        for (name, place) in nodes.iter().zip(1..) {
            let node =
                Node::start(&cluster.control_plane, cluster.control_plane.network()?, (name, Place(place)), images)?;
            cluster.nodes.push(node);
        }
        for name in nodes {
            wait_for(&format!("node {name} is Ready"), READY_DEADLINE, || {
                admin.kubectl(&["wait", "--for=condition=Ready", "--timeout=5s", &format!("node/{name}")])
            })
            .with_context(|| cluster.log())?;
        }
        Ok(cluster)
    }

    /// kubectl and virtctl of the administrator.
    pub fn admin(&self) -> Client {
        self.control_plane.admin()
    }

    /// Its control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// A node by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("there is no node {name}"))
    }

    /// Cuts a node off the network.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn cut_off(&self, name: &str) -> Result<()> {
        self.node(name)?.cut_off(self.control_plane.network()?.1)
    }

    /// Puts a node back on the network.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn reconnect(&self, name: &str) -> Result<()> {
        self.node(name)?.reconnect(self.control_plane.network()?.1)
    }

    /// The ends of all logs.
    pub fn log(&self) -> String {
        self.nodes.iter().map(Node::log).chain([self.control_plane.log()]).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        let name = self.control_plane.directory().file_name().map(|name| name.to_string_lossy().into_owned());
        if let Some(Err(error)) = name.map(|name| cgroups::remove(&name)) {
            eprintln!("control groups are left: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_runs_pods_and_libvirtds_and_is_gone_afterwards() {
        if let Some(reason) = why_no_cluster() {
            crate::programs::say_skipped("a_cluster_runs_pods_and_libvirtds_and_is_gone_afterwards", &reason);
            return;
        }
        let cluster = Cluster::start(&["node-1", "node-2"], &[]).unwrap();
        let admin = cluster.admin();
        for name in ["node-1", "node-2"] {
            let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
                "nodeName": name, "containers": [{"name": "pause", "image": "localhost/pause:1", "imagePullPolicy": "Never"}],
            }});
            admin.create(&pod).unwrap();
            admin.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", &format!("pod/{name}")]).unwrap();
            let node = cluster.node(name).unwrap();
            node.virsh(&["version"]).unwrap();
            node.restart_libvirtd().unwrap();
        }
        let directory = cluster.control_plane.directory().to_owned();
        drop(cluster);
        assert!(!directory.exists(), "{} is left", directory.display());
        let group = Path::new("/sys/fs/cgroup/memory").join(directory.file_name().unwrap());
        assert!(!group.exists(), "{} is left", group.display());
    }
}

//! A node of a test's cluster: containerd, kubelet, kube-proxy and a libvirtd in namespaces of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cgroups;
use crate::kube::asset;
use crate::kube::control_plane::ControlPlane;
use crate::kube::room::{ADDRESS, Room};
use crate::kube::servers::{Server, Servers};
use crate::libvirtd::capability_cache;
use crate::programs::{last_lines, output};
use crate::wait::wait_for;

/// For the node's namespaces to be there.
const DEADLINE: Duration = Duration::from_secs(20);

const SCRIPT: &str = include_str!("node.sh");

/// A node. Dropping it ends it, pods and guests included.
#[derive(Debug)]
pub struct Node {
    name: String,
    directory: PathBuf,
    cable: String,
    machine: Server,
}

/// Its place among the cluster's nodes, from 1 on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place(pub(crate) u8);

impl Place {
    /// Address of the node.
    fn address(self) -> String {
        format!("10.77.0.{}", 10 + self.0)
    }

    /// Addresses of its pods.
    fn pods(self) -> String {
        format!("10.88.{}.0/24", self.0)
    }
}

impl Node {
    /// Starts the node; it joins the cluster when it is ready to.
    pub(crate) fn start(
        control_plane: &ControlPlane,
        (servers, room): (&Servers, &Room),
        (name, place): (&str, Place),
        images: &[PathBuf],
    ) -> Result<Self> {
        let cluster = control_plane.directory();
        let directory = cluster.join("nodes").join(name);
        write_files(control_plane, &directory, name, place)?;
        let cluster_name = cluster.file_name().context("the cluster's directory has a name")?.to_string_lossy();
        cgroups::make(&cluster_name, name)?;
        let mut command = room.command(Path::new("unshare"));
        command.args(["--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "tini", "-s", "--"]);
        command.args(["bash", "-c", SCRIPT, "node.sh"]).arg(&directory).args([name, &place.address()]);
        let assets = asset("kubelet")?;
        command.arg(assets.parent().context("a program is in a folder")?).arg(capability_cache()).args(images);
        let machine = servers.start(name, &command)?;
        let node = Self { name: name.to_owned(), directory, cable: format!("to-{name}"), machine };
        node.plug_in(room, place)?;
        Ok(node)
    }

    /// Lays the cable between the node and the cluster's network.
    fn plug_in(&self, room: &Room, place: Place) -> Result<()> {
        let (cable, holder, address) = (&self.cable, self.machine.pid(), place.address());
        wait_for("the node has a network of its own", DEADLINE, || {
            fs::metadata(self.directory.join("has-network")).map(drop).context("it has not said so")
        })
        .with_context(|| self.machine.log())?;
        room.ip(&format!("link add {cable} type veth peer name eth0 netns {holder}"))?;
        room.ip(&format!("link set {cable} master bridge0 up"))?;
        room.ip(&format!("route add {} via {address} onlink dev bridge0", place.pods()))?;
        for words in [
            format!("addr add {address}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            // Pods of other nodes too: the room knows the way.
            format!("route add default via {ADDRESS}"),
        ] {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{holder}/ns/net")).arg("ip").args(words.split_whitespace());
            output(&mut command)?;
        }
        fs::write(self.directory.join("is-plugged-in"), "").context("tell the node that it is plugged in")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a program on the node, and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message is what it said.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let unshare = self.machine.pid();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let first = fs::read_to_string(&children).with_context(|| format!("read {children}"))?;
        let init = first.split_whitespace().next().with_context(|| format!("node {} has ended", self.name))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", init, "--mount", "--uts", "--net", "--pid", "--"]).args(words);
        output(&mut command)
    }

    /// Runs virsh against the node's libvirtd.
    ///
    /// # Errors
    /// When it fails; the message is what it said.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        self.run(&[&["virsh", "-q", "-c", "qemu:///system"], arguments].concat())
    }

    /// The node's `/var/lib/ovm`, as the test sees it.
    pub fn state(&self) -> PathBuf {
        self.directory.join("lib/ovm")
    }

    /// Stops the kubelet in its tracks: to the cluster it is silent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_kubelet(&self) -> Result<()> {
        self.signal_kubelet("-STOP")
    }

    /// Lets the kubelet go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn continue_kubelet(&self) -> Result<()> {
        self.signal_kubelet("-CONT")
    }

    /// Ends the kubelet, and starts it as it was: it asks for new tokens for its pods.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_kubelet(&self) -> Result<()> {
        let file = self.directory.join("kubelet.pid");
        let log = self.directory.join("log/kubelet.log");
        let restart = r#"pid=$(cat "$1"); mapfile -d '' words < "/proc/$pid/cmdline"; kill "$pid"
            while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
            setsid "${words[@]}" >> "$2" 2>&1 < /dev/null & echo $! > "$1""#;
        let (file, log) = (file.display().to_string(), log.display().to_string());
        self.run(&["bash", "-c", restart, "restart", &file, &log]).map(drop)
    }

    /// Sends a signal (`-KILL`) to the program of this name in a pod of the node.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn signal(&self, pod: &str, program: &str, signal: &str) -> Result<()> {
        let send = r#"found=()
            for comm in $(grep -lx "$2" /proc/[0-9]*/comm 2>/dev/null); do
              if grep -qzx "HOSTNAME=$1" "${comm%comm}environ"; then found+=("$(echo "$comm" | cut -d/ -f3)"); fi
            done
            [ ${#found[@]} = 1 ] || { echo "${#found[@]} processes of $1 are named $2" >&2; exit 1; }
            kill "$3" "${found[0]}""#;
        self.run(&["bash", "-c", send, "signal", pod, program, signal]).map(drop)
    }

    /// Ends libvirtd, not its guests, and starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_libvirtd(&self) -> Result<()> {
        // It does not always remove its file of the process id, and is not always quick to end.
        let restart = "pid=$(cat /run/libvirtd.pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done; exec libvirtd -d";
        self.run(&["bash", "-c", restart]).map(drop)
    }

    /// Pulls its cable.
    pub(crate) fn cut_off(&self, room: &Room) -> Result<()> {
        room.ip(&format!("link set {} down", self.cable))
    }

    /// Plugs its cable in again.
    pub(crate) fn reconnect(&self, room: &Room) -> Result<()> {
        room.ip(&format!("link set {} up", self.cable))
    }

    /// The ends of its logs.
    pub(crate) fn log(&self) -> String {
        let show = |name: &str| {
            let log = fs::read_to_string(self.directory.join("log").join(name)).unwrap_or_default();
            format!("--- {} of {}\n{}\n", name, self.name, last_lines(&log))
        };
        [self.machine.log(), ["kubelet.log", "containerd.log", "libvirtd.log"].map(show).concat()].concat()
    }

    fn signal_kubelet(&self, signal: &str) -> Result<()> {
        let pid = fs::read_to_string(self.directory.join("kubelet.pid")).context("read the kubelet's process id")?;
        self.run(&["kill", signal, pid.trim()]).map(drop)
    }
}

/// Certificates and configurations.
fn write_files(control_plane: &ControlPlane, directory: &Path, name: &str, place: Place) -> Result<()> {
    let cni = directory.join("cni");
    fs::create_dir_all(&cni).with_context(|| format!("make {}", cni.display()))?;
    // QEMU runs as another user, and its files are below.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).context("open the directory to QEMU's user")?;
    let authority = control_plane.authority();
    let user = format!("system:node:{name}");
    let certificate = authority.issue(name, &user, &["system:nodes"], &[name, &place.address()])?;
    authority.write_kubeconfig(&directory.join("kubeconfig"), &control_plane.url(), &certificate)?;
    let proxy = authority.issue("kube-proxy", "system:kube-proxy", &[], &[])?;
    let proxy_kubeconfig = directory.join("proxy.kubeconfig");
    authority.write_kubeconfig(&proxy_kubeconfig, &control_plane.url(), &proxy)?;
    let cluster_name = control_plane.directory().file_name().context("the cluster's directory has a name")?;
    let write = |file: &Path, value: serde_json::Value| {
        fs::write(file, value.to_string()).with_context(|| format!("write {}", file.display()))
    };
    write(
        &cni.join("10-bridge.conflist"),
        json!({"cniVersion": "0.4.0", "name": "bridge", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "ipam": {"type": "host-local", "dataDir": directory.join("ipam"), "subnet": place.pods(), "routes": [{"dst": "0.0.0.0/0"}]},
        }]}),
    )?;
    write(
        &directory.join("proxy.yaml"),
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
            "hostnameOverride": name, "clientConnection": {"kubeconfig": proxy_kubeconfig},
            // The host's limits are not a namespace's to set.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }),
    )?;
    write(
        &directory.join("kubelet.yaml"),
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "failCgroupV1": false, "cgroupDriver": "cgroupfs",
            "cgroupRoot": Path::new("/").join(cluster_name).join(name),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "failSwapOn": false,
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": authority.certificate()}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate.certificate, "tlsPrivateKeyFile": certificate.key,
            "podLogsDir": "/var/log/pods",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "nodeStatusUpdateFrequency": "5s",
            // No image of a test comes back.
            "imageGCHighThresholdPercent": 100,
        }),
    )
}

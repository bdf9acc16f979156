//! etcd, kube-apiserver, kube-controller-manager and, if asked for, kube-scheduler, on the loopback.
//!
//! etcd listens on sockets in the control plane's own directory, so that one port is all that several control planes side by side could quarrel about.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::client::Client;
use crate::kube::assets::asset;
use crate::kube::authority::{Authority, Certificate};
use crate::kube::directory::OwnDirectory;
use crate::kube::room::{ADDRESS, Room, enter};
use crate::kube::servers::{Server, Servers};
use crate::libvirtd::Signal;
use crate::ports::free_address;
use crate::programs::{output, program};
use crate::wait::wait_for;

/// Three seconds on an idle machine.
const READY_DEADLINE: Duration = Duration::from_mins(2);

/// How often a start is tried: somebody else may take the free port first.
const ATTEMPTS: usize = 3;

/// The address of service `kubernetes`, the first of the services' range.
const SERVICE_ADDRESS: &str = "10.96.0.1";
const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The name by which the API server calls extension servers as a proxy.
const FRONT_PROXY: &str = "front-proxy-client";

/// A running control plane. Dropping it ends it, and removes all that it stored.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they are to end.
    controllers: Option<Server>,
    scheduler: Option<Server>,
    api: Option<Server>,
    etcd: Server,
    room: Option<Arc<Room>>,
    servers: Servers,
    settings: Settings,
    authority: Authority,
    address: SocketAddr,
    directory: OwnDirectory,
}

/// What a control plane is started with, beside what each has.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Whether pods are scheduled.
    pub scheduler: bool,
    /// Whether it runs in a network of its own, which nodes can join, and not on the loopback. Its clients are put there too.
    pub network_of_its_own: bool,
    /// More flags of kube-apiserver.
    pub api_flags: Vec<String>,
    /// More flags of kube-controller-manager.
    pub controller_flags: Vec<String>,
}

impl ControlPlane {
    /// Starts one, and waits until its API is ready and namespace `default` can take objects.
    ///
    /// # Errors
    /// When it is not built, or not ready in time; the message then carries a log.
    pub fn start() -> Result<Self> {
        Self::start_with(&Settings::default())
    }

    /// Starts one with settings of the test's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(settings: &Settings) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_start(settings.clone()) {
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn try_start(settings: Settings) -> Result<Self> {
        let directory = OwnDirectory::create()?;
        let pki = directory.path().join("pki");
        fs::create_dir(&pki).context("make the folder of certificates")?;
        let authority = Authority::create(&pki)?;
        let servers = Servers::new(directory.path())?;
        let (room, address) = if settings.network_of_its_own {
            (
                Some(Arc::new(Room::open(&servers)?)),
                format!("{ADDRESS}:6443").parse().context("read the room's address")?,
            )
        } else {
            (None, free_address()?)
        };
        let names = ["127.0.0.1", ADDRESS, SERVICE_ADDRESS, "localhost", "kubernetes.default.svc"];
        authority.issue("server", "kube-apiserver", &[], &names)?;
        authority.issue("front-proxy", FRONT_PROXY, &[], &[])?;
        // For logs and exec.
        authority.issue("kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"], &[])?;
        authority.make_token_key()?;
        let admin = authority.issue("admin", "admin", &["system:masters"], &[])?;
        authority.write_kubeconfig(&directory.path().join("kubeconfig"), &format!("https://{address}"), &admin)?;
        let etcd = servers.start("etcd", &etcd_command()?)?;
        let mut control_plane = Self {
            controllers: None,
            scheduler: None,
            api: None,
            etcd,
            room,
            servers,
            settings,
            authority,
            address,
            directory,
        };
        control_plane.start_api()?;
        control_plane.start_controllers()?;
        if control_plane.settings.scheduler {
            let mut command = control_plane.command("kube-scheduler")?;
            command.args(["--kubeconfig=kubeconfig", "--leader-elect=false", "--secure-port=0"]);
            control_plane.scheduler = Some(control_plane.servers.start("kube-scheduler", &command)?);
        }
        wait_for("namespace default has its service account", READY_DEADLINE, || {
            if let Some(controllers) = &mut control_plane.controllers {
                controllers.look_if_running()?;
            }
            control_plane.admin().kubectl(&["get", "serviceaccount", "default", "-n", "default"])
        })?;
        Ok(control_plane)
    }

    /// The administrator's kubeconfig. Everything is in it; it may be copied.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// kubectl and virtctl of the administrator.
    pub fn admin(&self) -> Client {
        Client::new(&self.kubeconfig(), self.directory.path()).behind(self.entrance())
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A directory that ends with the control plane.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The authority that the API server trusts for its clients.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A kubeconfig of a user with a certificate.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn user(&self, name: &str, groups: &[&str]) -> Result<PathBuf> {
        let file = name.replace([':', '/'], "-");
        let certificate: Certificate = self.authority.issue(&file, name, groups, &[])?;
        let kubeconfig = self.directory.path().join(format!("{file}.kubeconfig"));
        self.authority.write_kubeconfig(&kubeconfig, &self.url(), &certificate)?;
        Ok(kubeconfig)
    }

    /// A kubeconfig of a service account that is there. With `node`, its token carries that Node's name as the token of a pod on it does.
    ///
    /// # Errors
    /// When the API gives no token.
    pub fn service_account(&self, namespace: &str, name: &str, node: Option<&str>) -> Result<PathBuf> {
        let mut arguments = vec!["create", "token", name, "-n", namespace, "--duration", "1h"];
        if let Some(node) = node {
            arguments.extend(["--bound-object-kind", "Node", "--bound-object-name", node]);
        }
        let token = output(self.own_kubectl()?.args(&arguments))?;
        let file = format!("{namespace}-{name}-{}.kubeconfig", node.unwrap_or("everywhere"));
        let kubeconfig = self.directory.path().join(file);
        self.authority.write_token_kubeconfig(&kubeconfig, &self.url(), &token)?;
        Ok(kubeconfig)
    }

    /// A kubeconfig of a service account, with a token as a pod of it on `node` has: it names the node, and ends with the pod. The pod is made; there is no
    /// kubelet that would run it. The token is in a file, which a second call writes anew.
    ///
    /// # Errors
    /// When the API takes no pod, or gives no token.
    pub fn pod_account(&self, namespace: &str, name: &str, node: &str) -> Result<PathBuf> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": {
            "serviceAccountName": name, "nodeName": node, "containers": [{"name": "none", "image": "localhost/none"}],
        }});
        self.admin().create(&pod)?;
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", name, "--duration", "1h"];
        let token = output(self.own_kubectl()?.args(["create", "token", name, "-n", namespace]).args(bound))?;
        let file = self.directory.path().join(format!("{namespace}-{name}.token"));
        fs::write(&file, token).with_context(|| format!("write {}", file.display()))?;
        let kubeconfig = file.with_extension("kubeconfig");
        self.authority.write_token_file_kubeconfig(&kubeconfig, &self.url(), &file)?;
        Ok(kubeconfig)
    }

    /// `kubectl` of the control plane's own version, as administrator.
    ///
    /// # Errors
    /// When it is not built.
    pub fn own_kubectl(&self) -> Result<Command> {
        let mut command = self.command("kubectl")?;
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.directory.path());
        Ok(command)
    }

    /// Ends the API server. What it stored stays.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_api(&mut self, signal: Signal) -> Result<()> {
        self.api.take().context("the API server does not run")?.stop(signal)
    }

    /// Starts the API server on its former address, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time; the message then carries its log.
    pub fn start_api(&mut self) -> Result<()> {
        let mut api = self.servers.start("kube-apiserver", &self.api_command()?)?;
        wait_for("kube-apiserver is ready", READY_DEADLINE, || match api.look_if_running() {
            // No use in waiting on.
            Err(ended) => Ok(Err(ended)),
            Ok(()) => output(self.own_kubectl()?.args(["get", "--raw", "/readyz"])).map(Ok),
        })??;
        self.api = Some(api);
        Ok(())
    }

    /// Stops the datastore in its tracks: the API server takes requests, and answers none that needs it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn suspend_datastore(&self) -> Result<()> {
        self.etcd.signal(nix::sys::signal::Signal::SIGSTOP)
    }

    /// Lets the datastore go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume_datastore(&self) -> Result<()> {
        self.etcd.signal(nix::sys::signal::Signal::SIGCONT)
    }

    /// Starts `ovm-controller` beside the API server, as whom this kubeconfig says.
    ///
    /// # Errors
    /// When it is not built.
    pub(crate) fn start_controller(&self, kubeconfig: &Path, flags: &[String]) -> Result<Server> {
        let mut command = enter(&self.entrance(), &program("ovm-controller")?);
        command.arg("--kubeconfig").arg(kubeconfig).args(flags);
        self.servers.start("ovm-controller", &command)
    }

    /// The ends of the logs.
    pub fn log(&self) -> String {
        self.servers.logs(&["kube-apiserver", "kube-controller-manager", "ovm-controller"])
    }

    /// The network that nodes join, and what starts their servers.
    pub(crate) fn network(&self) -> Result<(&Servers, &Room)> {
        let room = self.room.as_deref().context("a control plane on the loopback has no nodes")?;
        Ok((&self.servers, room))
    }

    /// The same network, for hosts that others start.
    pub(crate) fn room(&self) -> Result<Arc<Room>> {
        self.room.clone().context("a control plane on the loopback is in no network")
    }

    fn entrance(&self) -> Vec<OsString> {
        self.room.as_ref().map_or_else(Vec::new, |room| room.entrance())
    }

    /// A part of Kubernetes, in the control plane's network.
    fn command(&self, name: &str) -> Result<Command> {
        Ok(enter(&self.entrance(), &asset(name)?))
    }

    fn start_controllers(&mut self) -> Result<()> {
        let mut command = self.command("kube-controller-manager")?;
        command.args([
            "--kubeconfig=kubeconfig",
            "--service-account-private-key-file=pki/tokens.key",
            "--root-ca-file=pki/ca.crt",
            "--cluster-signing-cert-file=pki/ca.crt",
            "--cluster-signing-key-file=pki/ca.key",
            // Each controller as itself, as in a real installation.
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
        ]);
        command.args(&self.settings.controller_flags);
        self.controllers = Some(self.servers.start("kube-controller-manager", &command)?);
        Ok(())
    }

    fn api_command(&self) -> Result<Command> {
        if !self.address.is_ipv4() {
            bail!("the control plane is made for IPv4, not {}", self.address);
        }
        let mut command = self.command("kube-apiserver")?;
        command.args([
            format!("--secure-port={}", self.address.port()),
            format!("--bind-address={}", self.address.ip()),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            format!("--requestheader-allowed-names={FRONT_PROXY}"),
        ]);
        command.args([
            "--etcd-servers=unix://localhost:1",
            "--tls-cert-file=pki/server.crt",
            "--tls-private-key-file=pki/server.key",
            "--client-ca-file=pki/ca.crt",
            "--service-account-key-file=pki/tokens.pub",
            "--service-account-signing-key-file=pki/tokens.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--requestheader-client-ca-file=pki/ca.crt",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--proxy-client-cert-file=pki/front-proxy.crt",
            "--proxy-client-key-file=pki/front-proxy.key",
            "--kubelet-client-certificate=pki/kubelet-client.crt",
            "--kubelet-client-key=pki/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-bootstrap-token-auth=true",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            // A stopped API server is to be gone, as a killed one is.
            "--shutdown-watch-termination-grace-period=0s",
        ]);
        // Nobody on the control plane's own host answers at a service's address.
        command.arg(format!("--enable-aggregator-routing={}", self.room.is_some()));
        command.args(&self.settings.api_flags);
        Ok(command)
    }
}

fn etcd_command() -> Result<Command> {
    let mut command = Command::new(asset("etcd")?);
    command.args([
        "--data-dir=etcd",
        // Nothing of it is to survive the machine.
        "--unsafe-no-fsync",
        // A path has no room in these flags: sockets of these names in the directory that it runs in.
        "--listen-client-urls=unix://localhost:1",
        "--listen-peer-urls=unix://localhost:2",
        "--advertise-client-urls=http://localhost:1",
        "--initial-advertise-peer-urls=http://localhost:2",
        "--initial-cluster=default=http://localhost:2",
    ]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::why_unavailable;

    #[test]
    fn two_control_planes_live_side_by_side_and_leave_nothing_behind() {
        if let Some(reason) = why_unavailable() {
            crate::programs::say_skipped("two_control_planes_live_side_by_side_and_leave_nothing_behind", &reason);
            return;
        }
        let mut first = ControlPlane::start().unwrap();
        let second = ControlPlane::start().unwrap();
        first.admin().kubectl(&["create", "configmap", "kept"]).unwrap();
        second.admin().kubectl_fails(&["get", "configmap", "kept"]).unwrap();

        // A token that is bound to a Node carries its name, which per-node rules rely on.
        first
            .admin()
            .create(&serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}}))
            .unwrap();
        let kubeconfig = first.service_account("default", "default", Some("one")).unwrap();
        let node = Client::new(&kubeconfig, first.directory());
        let who = node.kubectl(&["auth", "whoami", "-o", "json"]).unwrap();
        assert!(who.contains("system:serviceaccount:default:default"), "{who}");
        assert!(who.contains("authentication.kubernetes.io/node-name"), "{who}");

        first.stop_api(Signal::Kill).unwrap();
        first.admin().kubectl_fails(&["get", "configmap", "kept"]).unwrap();
        first.start_api().unwrap();
        first.admin().kubectl(&["get", "configmap", "kept"]).unwrap();

        let directories = [first.directory().to_owned(), second.directory().to_owned()];
        drop((first, second));
        for directory in directories {
            assert!(!directory.exists(), "{} is left", directory.display());
        }
    }
}

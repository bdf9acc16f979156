//! A control plane with our manifests, and controller and agent as processes beside it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::client::Client;
use tests::kube::{Authority, Certificate, ControlPlane, why_unavailable};
use tests::libvirtd::PrivateLibvirtd;
use tests::ports::free_address;
use tests::programs::{output, program, repository};
use tests::stack::DEADLINE;
use tests::wait::wait_for;

/// Our namespace.
pub(crate) const SYSTEM: &str = "kubevirt-system";
/// The node that the agent of [`World::start_agent`] is.
pub(crate) const NODE: &str = "node-a";
/// Where our APIService is.
const API_SERVICE: &str = "v1alpha1.subresources.kubevirt.io";

/// A control plane with our manifests.
pub(crate) struct World {
    // In the order in which they are to end.
    programs: Vec<Program>,
    pub(crate) control_plane: ControlPlane,
}

/// A program of ours that runs. Dropping it kills it.
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Runs a scenario in a world of its own, and shows logs if it fails. A host that cannot run it skips it, loudly.
pub(crate) fn scenario(name: &str, steps: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    if let Some(reason) = why_unavailable() {
        tests::programs::say_skipped(name, &reason);
        return Ok(());
    }
    let mut world = World { programs: Vec::new(), control_plane: ControlPlane::start()? };
    let result = world.apply_manifests().and_then(|()| steps(&mut world));
    if result.is_err() {
        for program in &world.programs {
            eprintln!("--- {}\n{}", program.name, program.log());
        }
    }
    result
}

impl World {
    /// kubectl and virtctl of the administrator.
    pub(crate) fn admin(&self) -> Client {
        self.control_plane.admin()
    }

    fn apply_manifests(&self) -> Result<()> {
        let base = repository().join("manifests/base");
        let mut kubectl = self.control_plane.own_kubectl()?;
        output(kubectl.args(["apply", "--server-side", "-k"]).arg(base)).context("apply the manifests")?;
        // A Service of a cluster without pods leads nowhere: this one leads to the controller's process.
        self.admin().kubectl(&["delete", "service", "ovm-controller", "-n", SYSTEM])?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "ovm-controller", "namespace": SYSTEM},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        });
        self.admin().create(&service)?;
        for crd in ["offlinevirtualmachines.kubevirt.io", "virtualmachines.kubevirt.io"] {
            self.admin().kubectl(&["wait", "--for=condition=Established", &format!("crd/{crd}"), "--timeout=60s"])?;
        }
        Ok(())
    }

    /// Starts a controller with its service account's own token, and leads the API server to it. Returns where it serves.
    pub(crate) fn start_controller(&mut self) -> Result<SocketAddr> {
        let address = self.start_replica("controller")?;
        self.lead_to(address)?;
        Ok(address)
    }

    /// Starts a controller that nobody is led to.
    pub(crate) fn start_replica(&mut self, name: &str) -> Result<SocketAddr> {
        let address = free_address()?;
        let kubeconfig = self.control_plane.service_account(SYSTEM, "ovm-controller", None)?;
        let mut command = Command::new(program("ovm-controller")?);
        command.arg("--kubeconfig").arg(kubeconfig).args(["--listen", &address.to_string()]);
        command.env("OVM_LOG", "debug,hyper=info,rustls=info,tower=info,h2=info");
        self.run(name, &command)?;
        Ok(address)
    }

    /// Makes the API server find webhook and aggregated API at `address`.
    pub(crate) fn lead_to(&self, address: SocketAddr) -> Result<()> {
        let url = json!({"url": format!("https://{address}/validate")});
        let patch: Vec<_> = (0..2)
            .map(|hook| json!({"op": "replace", "path": format!("/webhooks/{hook}/clientConfig"), "value": url}))
            .collect();
        let patch = Value::from(patch).to_string();
        let admin = self.admin();
        admin.kubectl(&["patch", "validatingwebhookconfiguration", "ovm-controller", "--type=json", "-p", &patch])?;
        let patch = json!({"spec": {"service": {"port": address.port()}}}).to_string();
        admin.kubectl(&["patch", "apiservice", API_SERVICE, "--type=merge", "-p", &patch])?;
        self.wait_until_served()
    }

    /// Waits until the API server reaches the controller.
    pub(crate) fn wait_until_served(&self) -> Result<()> {
        wait_for("the aggregated API is available", DEADLINE, || {
            let service = self.admin().kubectl(&["get", "apiservice", API_SERVICE, "-o", "json"])?;
            let service: Value = serde_json::from_str(&service)?;
            let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let available = conditions.iter().find(|condition| condition["type"] == "Available");
            ensure!(available.is_some_and(|condition| condition["status"] == "True"), "it is {conditions:?}");
            Ok(())
        })
    }

    /// Starts an agent on a libvirtd, with the token that a pod on [`NODE`] has.
    pub(crate) fn start_agent(&mut self, libvirtd: &PrivateLibvirtd) -> Result<()> {
        self.agent_kubeconfig(NODE)?;
        self.start_agent_again(libvirtd)
    }

    /// Starts an agent where there was one.
    pub(crate) fn start_agent_again(&mut self, libvirtd: &PrivateLibvirtd) -> Result<()> {
        let kubeconfig = self.control_plane.service_account(SYSTEM, "ovm-agent", Some(NODE))?;
        let mut command = Command::new(program("ovm-agent")?);
        command.arg("--kubeconfig").arg(kubeconfig).args(["--node-name", NODE, "--libvirt-uri", &libvirtd.uri()]);
        command.arg("--data-dir").arg(libvirtd.directory().join("data"));
        command.arg("--lock-dir").arg(libvirtd.directory());
        command.args(["--emulation", "always", "--console-listen", "127.0.0.1:0"]);
        command.env("OVM_LOG", "debug,hyper=info,rustls=info,tower=info,h2=info");
        self.run("agent", &command)
    }

    /// A Node, and the token of an agent on it.
    pub(crate) fn agent_kubeconfig(&self, node: &str) -> Result<PathBuf> {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        self.admin().create(&object)?;
        // What a kubelet says of its host.
        let status = json!({"status": {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "10"}, "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "",
                "lastHeartbeatTime": "2026-11-22T12:00:00Z", "lastTransitionTime": "2026-11-22T12:00:00Z"}],
        }});
        let patch = status.to_string();
        self.admin().kubectl(&["patch", "node", node, "--subresource=status", "--type=merge", "-p", &patch])?;
        self.control_plane.service_account(SYSTEM, "ovm-agent", Some(node))
    }

    /// Ends a program of ours.
    pub(crate) fn kill(&mut self, name: &str) {
        self.programs.retain(|program| program.name != name);
    }

    /// All logs of our programs, living ones.
    pub(crate) fn logs(&self) -> String {
        self.programs.iter().map(Program::log).collect()
    }

    fn run(&mut self, name: &str, command: &Command) -> Result<()> {
        let log = self.control_plane.directory().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).context("open a log")?;
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        guarded.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).process_group(0);
        guarded.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = guarded.spawn().with_context(|| format!("run {name}"))?;
        self.programs.push(Program { name: name.to_owned(), child, log });
        Ok(())
    }

    /// What the Secret with our certificates holds under a key.
    pub(crate) fn stored(&self, key: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/ovm-controller-tls");
        let secret = self.admin().get(&path)?.context("there is no secret yet")?;
        decode(&secret["data"][key])
    }

    /// What the API server trusts, for the webhooks and for the aggregated API, and what agents trust.
    pub(crate) fn published(&self) -> Result<[String; 4]> {
        let admin = self.admin();
        let webhook =
            admin.get("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/ovm-controller")?;
        let webhook = webhook.context("there is no webhook configuration")?;
        let service = admin.get(&format!("/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}"))?;
        let service = service.context("there is no APIService")?;
        let map = admin.get(&format!("/api/v1/namespaces/{SYSTEM}/configmaps/ovm-controller-ca"))?;
        let map = map.context("there is no configmap of authorities")?;
        Ok([
            decode(&webhook["webhooks"][0]["clientConfig"]["caBundle"])?,
            decode(&webhook["webhooks"][1]["clientConfig"]["caBundle"])?,
            decode(&service["spec"]["caBundle"])?,
            map["data"]["ca.crt"].as_str().unwrap_or_default().to_owned(),
        ])
    }
}

impl Program {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn decode(data: &Value) -> Result<String> {
    let bytes = STANDARD.decode(data.as_str().context("it is not there yet")?).context("decode it")?;
    String::from_utf8(bytes).context("it is no text")
}

/// A call to a server that skips the API server, with whatever certificate and headers: the HTTP status and the body. No status: no TLS.
pub(crate) fn call(url: &str, certificate: Option<&Certificate>, headers: &[&str]) -> Result<(u16, String)> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--max-time", "20", "--write-out", "\n%{http_code}"]);
    if let Some(Certificate { certificate, key }) = certificate {
        curl.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    for header in headers {
        curl.args(["--header", header]);
    }
    let answer = curl.arg(url).output().context("run curl")?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let (body, code) = answer.rsplit_once('\n').context("curl prints the status last")?;
    Ok((code.parse().with_context(|| format!("read the status {code}"))?, body.to_owned()))
}

/// An authority that nobody trusts, with a certificate of this name.
pub(crate) fn stranger(directory: &Path, name: &str) -> Result<Certificate> {
    let folder = directory.join("stranger");
    fs::create_dir_all(&folder).context("make a folder")?;
    Authority::create(&folder)?.issue("stranger", name, &["system:masters"], &[])
}

/// kubectl of a user with these groups.
pub(crate) fn user(world: &World, name: &str) -> Result<Client> {
    Ok(Client::new(&world.control_plane.user(name, &[])?, world.control_plane.directory()))
}

/// `kubectl ... -f -` that is to fail; returns what it said.
pub(crate) fn refused(result: Result<String>) -> Result<String> {
    match result {
        Ok(printed) => bail!("it succeeded: {printed}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

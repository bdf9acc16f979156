//! `ovm-agent` without a subcommand: the agent of one node, in the foreground.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use plan::node::Emulation;
use telemetry::systemd::{is_listening, keep_told, tell_stopping};
use telemetry::{ApiCalls, ListenError};
use tokio_util::sync::CancellationToken;

use crate::credentials::{ClientSwitch, IdentityFileError, JoinedIdentity, Renewer};
use crate::image_flags::ImageFlags;
use crate::images::DEFAULT_DATA_DIR;
use crate::join::DEFAULT_KUBECONFIG;
use crate::metrics::Telemetry;
use crate::node::default_node_name;
use crate::stream::{Advertise, StreamAddress, StreamListen};
use crate::{Agent, AgentOptions, StartError};

/// Who we are to the API server.
const USER_AGENT: &str = concat!("ovm-agent/", env!("CARGO_PKG_VERSION"));
/// Where a joined agent serves consoles if it is not told otherwise: one port for all hosts, for firewalls to name.
const JOINED_CONSOLE_PORT: u16 = 10263;

/// Run the agent of this node.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Kubeconfig of the cluster; without it the one that `join` wrote, of the pod, or of the environment.
    #[arg(long, env = "OVM_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node's Node object; if not given the one that it had, at first the host's name. A joined agent's is in its certificate.
    #[arg(long, env = "OVM_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// The libvirt to manage.
    #[arg(long, env = "OVM_LIBVIRT_URI", default_value = AgentOptions::DEFAULT_LIBVIRT_URI, value_name = "URI")]
    pub libvirt_uri: String,
    /// Directory of the agent's state: journal, images, disks.
    #[arg(long, env = "OVM_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Whether guests may be emulated where there is no KVM: never, fallback or always.
    #[arg(long, env = "OVM_EMULATION", default_value_t = Emulation::Never, value_name = "WHEN")]
    pub emulation: Emulation,
    /// Make the Node object of this host, and keep it Ready: for hosts without kubelet. A joined agent does so always.
    #[arg(long, env = "OVM_REGISTER_NODE")]
    pub register_node: bool,
    /// Where the host's processes are shown; in a pod, a mount of the host's /proc.
    #[arg(long, env = "OVM_PROC_DIR", default_value = AgentOptions::DEFAULT_PROC_DIR, value_name = "DIR")]
    pub proc_dir: PathBuf,
    /// Directory of the host's locks; in a pod, a mount of the host's.
    #[arg(long, env = "OVM_LOCK_DIR", default_value = AgentOptions::DEFAULT_LOCK_DIR, value_name = "DIR")]
    pub lock_dir: PathBuf,
    /// Directory below which PersistentVolumes may hold guests' disks, or a block device that is one. May be given several times.
    #[arg(long = "volume-root", env = "OVM_VOLUME_ROOTS", value_name = "DIR", value_delimiter = ':')]
    pub volume_roots: Vec<PathBuf>,
    /// Folder through which `ovm-agent stop-guests` tells of the host's shutdown.
    #[arg(long, env = "OVM_RUN_DIR", default_value = AgentOptions::DEFAULT_RUN_DIR, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// How images are pulled and kept.
    #[command(flatten)]
    pub images: ImageFlags,
    /// Where to serve /metrics, /healthz and /readyz by plain HTTP; nowhere if not given.
    #[arg(long, env = "OVM_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Serve consoles to the controller over mutual TLS here. Without it: a joined agent on port 10263 of all addresses, others not at all.
    #[arg(long, env = "OVM_CONSOLE_LISTEN", value_name = "ADDR:PORT")]
    pub console_listen: Option<SocketAddr>,
    /// Address at which the controller reaches --console-listen. Without it: the one that is listened on, or else this host's on the way to the API server.
    #[arg(long, env = "OVM_ADVERTISE_ADDRESS", value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// How long before its end a joined agent renews its certificate, such as 24h; after 70 to 90 percent of its life if not given.
    #[arg(long, env = "OVM_RENEW_BEFORE", value_name = "TIME", value_parser = crate::join::time)]
    pub renew_before: Option<Duration>,
}

/// The agent's client, the server that it is for, and what renews its certificate where it joined.
struct Connected {
    client: Client,
    server: http::Uri,
    joined: Option<Renewer>,
}

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {}", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: KubeconfigError,
    },
    /// There is none to be found.
    #[error("no cluster to work for: give --kubeconfig FILE")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// A joined agent's certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// A joined agent is of one node, and no other.
    #[error(
        "this host joined as node {joined}, and --node-name is {given}: leave --node-name out, or leave and join as {given}"
    )]
    OtherNode {
        /// The node in its certificate.
        joined: String,
        /// The name that was given.
        given: String,
    },
    /// The client cannot be made.
    #[error("connect to the cluster")]
    Client(#[source] kube::Error),
    /// The host has no name.
    #[error("the host's name is not known: give --node-name NAME")]
    NoName(#[source] std::io::Error),
    /// Metrics were asked for at an address that cannot be had.
    #[error(transparent)]
    Metrics(#[from] ListenError),
    /// The agent did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl RunArgs {
    /// Runs until `cancel`.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), RunError> {
        let (api_calls, telemetry) = (ApiCalls::default(), Telemetry::default());
        telemetry.look_after_readiness();
        tokio::spawn(cancel.clone().run_until_cancelled_owned(keep_told(telemetry.health().clone())));
        if let Some(listen) = self.metrics_listen {
            telemetry.listen(listen, &api_calls, cancel.clone()).await?;
        }
        let Connected { client, server, joined } = self.connect(&api_calls).await?;
        let streams = self.streams(server, joined.is_some());
        let node_name = self.node_name(joined.as_ref())?;
        let options = AgentOptions {
            node_name,
            libvirt_uri: self.libvirt_uri,
            data_dir: self.data_dir,
            emulation: self.emulation,
            register_node: self.register_node || joined.is_some(),
            waits: is_listening(),
            proc_dir: self.proc_dir,
            lock_dir: self.lock_dir,
            run_dir: self.run_dir,
            streams,
            volume_roots: self.volume_roots,
            images: self.images.into(),
            telemetry,
        };
        // Before the start, which may wait for longer than the certificate lasts.
        if let Some(renewer) = joined {
            tokio::spawn(cancel.clone().run_until_cancelled_owned(renewer.run()));
        }
        let agent = Agent::start(options, client, cancel.clone()).await?;
        cancel.cancelled().await;
        tell_stopping();
        agent.ended().await;
        Ok(())
    }

    fn node_name(&self, joined: Option<&Renewer>) -> Result<String, RunError> {
        let host = || default_node_name(&self.data_dir).map_err(RunError::NoName);
        match (joined.map(|renewer| &renewer.identity.certificate.node), &self.node_name) {
            (Some(joined), Some(given)) if joined != given => {
                Err(RunError::OtherNode { joined: joined.clone(), given: given.clone() })
            }
            (Some(name), _) | (None, Some(name)) => Ok(name.clone()),
            (None, None) => host(),
        }
    }

    fn streams(&self, server: http::Uri, has_joined: bool) -> Option<StreamAddress> {
        let listen = match self.console_listen {
            Some(address) => StreamListen::At(address),
            None if has_joined => StreamListen::EveryAddress(JOINED_CONSOLE_PORT),
            None => return None,
        };
        let own = self.console_listen.map(|address| address.ip()).filter(|address| !address.is_unspecified());
        let advertise = self.advertise_address.or(own).map_or(Advertise::Towards(server), Advertise::At);
        Some(StreamAddress { listen, advertise })
    }

    async fn connect(&self, api_calls: &ApiCalls) -> Result<Connected, RunError> {
        let by_join = Some(PathBuf::from(DEFAULT_KUBECONFIG)).filter(|file| file.exists());
        let Some(file) = self.kubeconfig.clone().or(by_join) else {
            let config = kube::Config::infer().await.map_err(RunError::NoCluster)?;
            let server = config.cluster_url.clone();
            let client = api_calls.client(config, USER_AGENT).map_err(RunError::Client)?;
            return Ok(Connected { client, server, joined: None });
        };
        let failed = |source| RunError::Kubeconfig { file: file.clone(), source };
        let kubeconfig = Kubeconfig::read_from(&file).map_err(failed)?;
        let identity = JoinedIdentity::of(&kubeconfig)?;
        let used = match &identity {
            Some(identity) => JoinedIdentity::with(&kubeconfig, &identity.certificate),
            None => kubeconfig.clone(),
        };
        let config = kube::Config::from_custom_kubeconfig(used, &KubeConfigOptions::default()).await.map_err(failed)?;
        let server = config.cluster_url.clone();
        let client = api_calls.client(config, USER_AGENT).map_err(RunError::Client)?;
        let Some(identity) = identity else { return Ok(Connected { client, server, joined: None }) };
        let switch = ClientSwitch::new(client);
        let renewer = Renewer {
            kubeconfig,
            identity,
            data_dir: self.data_dir.clone(),
            renew_before: self.renew_before,
            switch: switch.clone(),
            api_calls: api_calls.clone(),
            user_agent: USER_AGENT,
        };
        Ok(Connected { client: switch.client(), server, joined: Some(renewer) })
    }
}

//! `ovm-controller`: the controller for a cluster.

use api::chain;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use controller::serve::Server;
use controller::{ControllerOptions, ElectionTerms, MetricsOptions, NicModel, UuidCompat, run_and_serve};
use domain_xml::Network;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use telemetry::ApiCalls;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// kube logs an error that it also returns, and that we print or log with what it was about.
const DEFAULT_LOG: &str = "info,kube_client::client::builder=off";
/// Who we are to the API server.
const USER_AGENT: &str = concat!("ovm-controller/", env!("CARGO_PKG_VERSION"));

/// Turns OfflineVirtualMachines into VirtualMachines, and finds nodes for them.
#[derive(Debug, Parser)]
#[command(name = "ovm-controller", version)]
struct Flags {
    /// File that says how to reach the API server. Without it: $KUBECONFIG, ~/.kube/config, or the pod's own service account.
    #[arg(long, env = "OVM_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// What the guests' network card is attached to: user, none, libvirt:NAME or bridge:NAME.
    #[arg(long, env = "OVM_NETWORK", default_value = "user")]
    network: Network,
    /// Model of the guests' network card, such as e1000 or virtio.
    #[arg(long, env = "OVM_NIC_MODEL", value_name = "MODEL", default_value_t)]
    nic_model: NicModel,
    /// Serve the webhook and the aggregated API (consoles, displays, user data) over TLS here. Without it: not at all.
    #[arg(long, env = "OVM_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Whether to act only while holding the Lease ovm-controller, so that several controllers can run side by side.
    #[arg(
        long,
        env = "OVM_LEADER_ELECT",
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    leader_elect: bool,
    /// Where to serve /metrics, /healthz and /readyz by plain HTTP; nowhere if not given.
    #[arg(long, env = "OVM_METRICS_LISTEN", value_name = "ADDR:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Make firmware UUIDs of new guests as another software does: kubevirt-v0 (of the name alone). For guests that come from there.
    #[arg(long, env = "OVM_UUID_COMPAT", value_name = "RULE")]
    uuid_compat: Option<UuidCompat>,
    /// Bind PersistentVolumeClaims to PersistentVolumes. Only where no kube-controller-manager does that.
    #[arg(long, env = "OVM_BIND_CLAIMS")]
    bind_claims: bool,
    /// What to log: error, warn, info, debug, or a filter such as controller=debug,info.
    #[arg(long, env = "OVM_LOG", default_value = DEFAULT_LOG)]
    log: String,
}

fn main() {
    let flags = Flags::parse();
    if let Err(error) = serve(flags) {
        eprintln!("ovm-controller: {}", chain(error.as_ref()));
        std::process::exit(1);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(flags: Flags) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&flags.log).with_context(|| format!("read --log {}", flags.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let config = load_config(flags.kubeconfig).await?;
    tracing::info!(server = %config.cluster_url, version = env!("CARGO_PKG_VERSION"), "ovm-controller");
    let api_calls = ApiCalls::default();
    let client = api_calls.client(config, USER_AGENT).context("make a client from the kubeconfig")?;
    let cancel = CancellationToken::new();
    tokio::spawn(cancel_on_signal(cancel.clone())?);
    let server = match flags.listen {
        Some(address) => Some(Server::bind(address).await?),
        None => None,
    };
    let options = ControllerOptions {
        network: flags.network,
        nic_model: flags.nic_model,
        uuid_compat: flags.uuid_compat,
        bind_claims: flags.bind_claims,
        election: flags.leader_elect.then_some(ElectionTerms::KUBERNETES),
        metrics: flags.metrics_listen.map(|listen| MetricsOptions { listen, api_calls }),
        ..ControllerOptions::default()
    };
    Ok(run_and_serve(options, server, client, cancel).await?)
}

async fn load_config(path: Option<PathBuf>) -> anyhow::Result<Config> {
    let Some(path) = path else {
        return Config::infer().await.context("no API server: give --kubeconfig FILE, or set OVM_KUBECONFIG");
    };
    let says = || format!("kubeconfig {}", path.display());
    let kubeconfig = Kubeconfig::read_from(&path).with_context(says)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(says)
}

/// Cancels on SIGTERM and SIGINT.
fn cancel_on_signal(cancel: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    })
}

//! `ovm-controller`: the controller for a cluster.

use api::chain;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use controller::serve::Server;
use controller::{ControllerOptions, NicModel, run};
use domain_xml::Network;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// kube logs an error that it also returns, and that we print or log with what it was about.
const DEFAULT_LOG: &str = "info,kube_client::client::builder=off";

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

#[tokio::main]
async fn serve(flags: Flags) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&flags.log).with_context(|| format!("read --log {}", flags.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = load_config(flags.kubeconfig).await?;
    let server = config.cluster_url.clone();
    let client = Client::try_from(config).context("make a client from the kubeconfig")?;
    let cancel = CancellationToken::new();
    tokio::spawn(cancel_on_signal(cancel.clone())?);
    if let Some(address) = flags.listen {
        let server = Server::bind(address).await?;
        tokio::spawn(server.run(client.clone(), cancel.clone()));
    }
    let options = ControllerOptions { network: flags.network, nic_model: flags.nic_model };
    run(options, client, cancel).await.with_context(|| format!("cannot work with the API server at {server}"))
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

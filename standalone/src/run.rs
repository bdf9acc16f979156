//! Wires the three parts together, and runs them until the process is told to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::metrics::Telemetry;
use agent::{Agent, AgentOptions, default_node_name};
use anyhow::{Context, Result};
use apiserver::{ApiServer, Mount, User};
use controller::ControllerOptions;
use controller::serve::JoinedConsoles;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use k8s_openapi::api::core::v1::Namespace;
use telemetry::Health;
use telemetry::systemd::{is_listening, keep_told, tell_stopping};

use crate::access;
use crate::admission::VirtualMachineRules;
use crate::console::{AGENT_USER, HostConsoles, name_caller};
use crate::options::Options;

/// What readiness says of the socket.
const LISTENS: &str = "API server's socket";
/// How often our own server is asked whether it answers.
const SERVER_INTERVAL: Duration = Duration::from_secs(10);
/// A read that takes longer never ends.
const SERVER_STUCK: Duration = Duration::from_mins(1);

/// Runs API server, agent and controller until SIGTERM or SIGINT.
///
/// # Errors
/// One of them cannot start, or the controller ends by itself.
pub(crate) async fn run(options: Options) -> Result<()> {
    let begun = Instant::now();
    let cancel = CancellationToken::new();
    let telemetry = Telemetry::default();
    let health = telemetry.health().clone();
    telemetry.look_after_readiness();
    health.set(LISTENS, Err("not open yet".to_owned()));
    tokio::spawn(cancel.clone().run_until_cancelled_owned(keep_told(health.clone())));
    let server = open_server(&options).await?;
    let agent_options = AgentOptions {
        libvirt_uri: options.libvirt_uri.clone(),
        emulation: options.emulation,
        register_node: true,
        waits: is_listening(),
        telemetry,
        volume_roots: options.volume_roots.clone(),
        images: options.images.clone().into(),
        ..AgentOptions::new(node_name(&options)?, &options.data_dir)
    };
    // Before the agent, which asks there for its guests' user data.
    let console = mount_console(&server, agent_options.node_name.clone());
    let agent = Agent::start(agent_options, client(&server, AGENT_USER), cancel.clone()).await?;
    console.set(agent.consoles());
    let endpoint = server.listen().await?;
    health.set(LISTENS, Ok(()));
    let probe = keep_asking(client(&server, "system:ovm-controller"), health.clone());
    tokio::spawn(cancel.clone().run_until_cancelled_owned(probe));
    let controller_options = ControllerOptions {
        health,
        network: options.network,
        nic_model: options.nic_model,
        uuid_compat: options.uuid_compat,
        bind_claims: true,
        ..ControllerOptions::default()
    };
    let mut controller =
        tokio::spawn(controller::run(controller_options, client(&server, "system:ovm-controller"), cancel.clone()));
    warn_if_exposed(endpoint.local_addr);
    tracing::info!(
        address = %endpoint.local_addr,
        kubeconfig = %endpoint.kubeconfig.display(),
        after_ms = begun.elapsed().as_millis(),
        "ready"
    );
    let ended = tokio::select! {
        result = &mut controller => Some(result),
        () = asked_to_end() => None,
    };
    cancel.cancel();
    tell_stopping();
    tracing::info!("ending; guests keep running");
    let result = match ended {
        Some(result) => result,
        None => controller.await,
    };
    agent.ended().await;
    server.shutdown().await;
    result.context("the controller panicked")?.context("the controller ended")
}

fn node_name(options: &Options) -> Result<String> {
    match &options.node_name {
        Some(name) => Ok(name.clone()),
        None => default_node_name(&options.data_dir).context("read this host's name; give --node-name"),
    }
}

async fn open_server(options: &Options) -> Result<ApiServer> {
    let mut server = apiserver::Options::new(&options.data_dir, options.listen);
    server.custom_resources = api::crd::all();
    server.admission = Arc::new(VirtualMachineRules);
    server.access = access::rules()?;
    server.names.clone_from(&options.advertise);
    server.kubeconfig_group = options.kubeconfig_group.as_deref().map(group_id).transpose()?;
    Ok(ApiServer::open(server).await?)
}

/// The id of a group of this host.
fn group_id(name: &str) -> Result<u32> {
    let found = nix::unistd::Group::from_name(name).with_context(|| format!("look up group {name}"))?;
    let group =
        found.with_context(|| format!("there is no group {name} for --kubeconfig-group; make it, or name another"))?;
    Ok(group.gid.as_raw())
}

/// What the network gets to see.
fn warn_if_exposed(address: SocketAddr) {
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "the API is open to the network: whoever reaches this port can read the certificate authority and the addresses in \
             kube-public/cluster-info, and try credentials; with an administrator's certificate, everything, consoles and root on this host included. \
             Keep it to the network of the hosts that join"
        );
    }
}

/// A client of our own server, without sockets in between.
fn client(server: &ApiServer, user: &str) -> Client {
    Client::new(server.local_service(User::system(user)), "default")
}

fn mount_console(server: &ApiServer, node: String) -> Arc<HostConsoles> {
    let joined = JoinedConsoles::start(client(server, "system:ovm-controller"));
    let console = Arc::new(HostConsoles::new(node.clone(), joined));
    let router = controller::console::router(client(server, "system:ovm-controller"), console.clone());
    server.mount(Mount {
        group: api::names::SUBRESOURCE_GROUP.to_owned(),
        version: api::names::VERSION.to_owned(),
        resources: controller::console::resources(),
        router: router.layer(axum::middleware::from_fn_with_state(node, name_caller)),
    });
    console
}

/// Asks our own server again and again, so that one that hangs shows as a loop that hangs.
async fn keep_asking(client: Client, health: Health) {
    let namespaces: Api<Namespace> = Api::all(client);
    let alive = health.watch_loop("API server", SERVER_STUCK);
    loop {
        alive.busy();
        // A refusal is an answer too: what is asked here is whether one comes.
        drop(namespaces.get_metadata_opt("kube-system").await);
        alive.idle();
        tokio::time::sleep(SERVER_INTERVAL).await;
    }
}

async fn asked_to_end() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

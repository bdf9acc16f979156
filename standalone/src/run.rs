//! Wires the three parts together, and runs them until the process is told to end.

use std::sync::Arc;
use std::time::Instant;

use agent::{Agent, AgentOptions};
use anyhow::{Context, Result};
use apiserver::{ApiServer, Mount, User};
use controller::ControllerOptions;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admission::VirtualMachineRules;
use crate::console::{AGENT_USER, LocalConsole, name_caller};
use crate::options::Options;

/// Runs API server, agent and controller until SIGTERM or SIGINT.
///
/// # Errors
/// One of them cannot start, or the controller ends by itself.
pub(crate) async fn run(options: Options) -> Result<()> {
    let begun = Instant::now();
    let cancel = CancellationToken::new();
    let server = open_server(&options).await?;
    let agent_options = AgentOptions {
        libvirt_uri: options.libvirt_uri.clone(),
        emulation: options.emulation,
        register_node: true,
        ..AgentOptions::new(node_name(&options)?, &options.data_dir)
    };
    // Before the agent, which asks there for its guests' user data.
    let console = mount_console(&server, agent_options.node_name.clone());
    let agent = Agent::start(agent_options, client(&server, AGENT_USER), cancel.clone()).await?;
    console.set(agent.consoles());
    let endpoint = server.listen().await?;
    let controller_options = ControllerOptions {
        network: options.network,
        nic_model: options.nic_model,
        uuid_compat: options.uuid_compat,
        ..ControllerOptions::default()
    };
    let mut controller =
        tokio::spawn(controller::run(controller_options, client(&server, "system:ovm-controller"), cancel.clone()));
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
    if let Some(name) = &options.node_name {
        return Ok(name.clone());
    }
    let name = nix::unistd::gethostname().context("read this host's name; give --node-name")?;
    name.into_string()
        .map_err(|name| anyhow::anyhow!("this host's name {} is no text; give --node-name", name.display()))
}

async fn open_server(options: &Options) -> Result<ApiServer> {
    let mut server = apiserver::Options::new(&options.data_dir, options.listen);
    server.custom_resources = api::crd::all();
    server.admission = Arc::new(VirtualMachineRules);
    Ok(ApiServer::open(server).await?)
}

/// A client of our own server, without sockets in between.
fn client(server: &ApiServer, user: &str) -> Client {
    Client::new(server.local_service(User::system(user)), "default")
}

fn mount_console(server: &ApiServer, node: String) -> Arc<LocalConsole> {
    let console = Arc::new(LocalConsole::default());
    let router = controller::console::router(client(server, "system:ovm-controller"), console.clone());
    server.mount(Mount {
        group: api::names::SUBRESOURCE_GROUP.to_owned(),
        version: api::names::VERSION.to_owned(),
        resources: controller::console::resources(),
        router: router.layer(axum::middleware::from_fn_with_state(node, name_caller)),
    });
    console
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

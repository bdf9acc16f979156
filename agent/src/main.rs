//! The agent of one node. `image` works on the node's image store; `join` makes a host without Kubernetes a node, `leave` takes it out again.

use std::process::ExitCode;

use agent::doctor::DoctorArgs;
use agent::image_command::ImageArgs;
use agent::join::JoinArgs;
use agent::leave::LeaveArgs;
use agent::privileges::become_owner_of;
use agent::run_command::RunArgs;
use agent::stop_guests::StopGuestsArgs;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// What is logged without OVM_LOG. The client logs errors that it also returns.
const LOG_FILTER: &str = "info,kube_client=off";

/// Runs this node's virtual machines as libvirt domains.
#[derive(Parser)]
#[command(name = "ovm-agent", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    Image(ImageArgs),
    Join(JoinArgs),
    StopGuests(StopGuestsArgs),
    Doctor(DoctorArgs),
    Leave(LeaveArgs),
}

fn main() -> ExitCode {
    if let Some(code) = agent::images::inspector::run_if_called() {
        return code;
    }
    agent::libvirt::share_one_heap();
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Image(arguments)) => become_owner_of(&arguments.data_dir)
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(arguments.run(&mut std::io::stdout().lock())?)),
        Some(Command::Join(arguments)) => join(arguments),
        Some(Command::StopGuests(arguments)) => stop_guests(arguments),
        Some(Command::Doctor(arguments)) => match doctor(arguments) {
            Ok(true) => Ok(()),
            // What is wrong was said.
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Some(Command::Leave(arguments)) => leave(arguments),
        None => run(cli.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ovm-agent: {}", api::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn run(arguments: RunArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("OVM_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    telemetry::logs::start(filter, true);
    let cancel = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ended = cancel.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        ended.cancel();
    });
    Ok(arguments.run(cancel).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn stop_guests(arguments: StopGuestsArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("OVM_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    telemetry::logs::start(filter, false);
    Ok(arguments.run().await?)
}

#[tokio::main(flavor = "current_thread")]
async fn doctor(arguments: DoctorArgs) -> anyhow::Result<bool> {
    Ok(arguments.run(&mut std::io::stdout().lock()).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn join(arguments: JoinArgs) -> anyhow::Result<()> {
    Ok(arguments.run(&mut std::io::stdout().lock()).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn leave(arguments: LeaveArgs) -> anyhow::Result<()> {
    Ok(arguments.run(&mut std::io::stdout().lock()).await?)
}

//! `ovm-standalone`: API server, controller and agent in one process on one host.
//!
//! Parses, wires and runs; everything else is in the libraries. Ending it, in whatever way, leaves the guests running: the next start finds them.

mod access;
mod admission;
mod console;
mod options;
mod run;

use std::process::ExitCode;

use clap::Parser;
use options::Options;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if let Some(code) = agent::images::inspector::run_if_called() {
        return code;
    }
    agent::libvirt::share_one_heap();
    let options = Options::parse();
    let filter = EnvFilter::try_from_env("OVM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    telemetry::logs::start(filter, false);
    // Two threads: the work is waiting, for disks and for libvirt, and each thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run::run(options)),
        Err(error) => Err(anyhow::Error::new(error).context("start the runtime")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ovm-standalone: {}", api::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

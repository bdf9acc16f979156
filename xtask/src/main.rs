//! Developer commands: `cargo xtask COMMAND`. The Makefile's targets end here where they need more than a line of shell.

mod chart;
mod ci;
mod demo;
mod generate;
mod guest;
mod host_root;
mod images;
mod kube_assets;
mod kvm;
mod packages;
mod process;
mod sim;
mod tools;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that continuous integration checks
    Ci {
        /// Only the checks that compile and run no test
        #[arg(long)]
        only: Option<ci::Part>,
    },
    /// Writes the generated files, or with --check tells which are stale
    Generate {
        #[arg(long)]
        check: bool,
    },
    /// Builds the demo guest's disk
    Guest,
    /// Builds the parts of a Kubernetes cluster that tests run, into target/kube-assets
    KubeAssets,
    /// Builds the container images of controller and agent, target/images/*.tar
    Images {
        /// How the programs are compiled
        #[arg(long, default_value = "release")]
        profile: images::Profile,
    },
    /// Builds the Debian packages, target/packages/*.deb
    Packages {
        /// How the programs are compiled
        #[arg(long, default_value = "release")]
        profile: packages::Profile,
        /// Revision of the packages: the same source packaged once more
        #[arg(long, default_value_t = 1)]
        revision: u32,
    },
    /// Makes the root of a Debian host with systemd and libvirt that tests boot, in target/host-root
    HostRoot,
    /// Boots the demo guest's kernel under KVM, and says whether KVM works on this host
    KvmProbe,
    /// Shows the user guide's example on this host
    Demo {
        #[command(flatten)]
        place: demo::Place,
        /// Takes the programs from there, as they are; without it they are built for release
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// Ends what `demo` started
    Stop {
        #[command(flatten)]
        place: demo::Place,
    },
    /// Runs both planners against a simulated world, one run a seed; prints the first failing seed with everything that led to it
    Sim(sim::Options),
    /// Builds for release and runs the benchmarks
    Bench {
        /// Passed on to the benchmarks
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let workspace = Workspace::find()?;
    match command {
        Command::Ci { only } => ci::run(&workspace, only),
        Command::Generate { check: false } => generate::write(&workspace),
        Command::Generate { check: true } => generate::check(&workspace),
        Command::Guest => guest::build(&workspace).map(drop),
        Command::KubeAssets => kube_assets::build(&workspace),
        Command::Images { profile } => images::build(&workspace, profile),
        Command::Packages { profile, revision } => packages::build(&workspace, profile, revision),
        Command::HostRoot => host_root::build(&workspace),
        Command::KvmProbe => {
            let guest = guest::build(&workspace)?;
            println!("{}", kvm::probe(&guest)?);
            Ok(())
        }
        Command::Demo { place, programs } => demo::run(&workspace, &place, programs),
        Command::Stop { place } => demo::stop(&workspace, &place),
        Command::Sim(options) => sim::run(&options),
        Command::Bench { arguments } => {
            kube_assets::build(&workspace)?;
            workspace.build_release(&["bench"])?;
            let mut bench = std::process::Command::new(workspace.release_binary("bench"));
            bench.args(arguments).current_dir(&workspace.root).env("OVM_PROGRAMS", workspace.target.join("release"));
            process::run(&mut bench)
        }
    }
}

//! The agent of one node. `image` works on the node's image store.

use std::process::ExitCode;

use agent::image_command::ImageArgs;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Image(ImageArgs),
}

fn main() -> ExitCode {
    let Command::Image(arguments) = Cli::parse().command;
    match arguments.run(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = anyhow::Error::from(error);
            eprintln!("ovm-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

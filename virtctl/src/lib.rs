//! The command line for virtual machines, one file per verb. Also the kubectl plugin `kubectl virt`.
//!
//! Silent on success, as its ancestor was; an error is one line on standard error and exit status 1; a console that a signal ends has
//! 128 and its number.

mod cli;
mod connection;
mod error;
mod stream;
mod target;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Cli, Verb};
use crate::connection::Connection;
use crate::error::Error;

/// Parses the command line of `program` (`virtctl`, or `kubectl virt`), does what it says, and gives the exit status.
pub fn main(program: &'static str) -> ExitCode {
    let matches = Cli::command().name(program).bin_name(program).get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::Runtime(error)),
    };
    let result = runtime.block_on(run(program, cli));
    // A read of standard input may still be pending on a blocking thread: it must not hold the exit up.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("{}", api::chain(error));
    match error {
        // As a shell says it of a program that a signal has ended.
        Error::Signalled(number) => ExitCode::from(128 + number),
        _ => ExitCode::FAILURE,
    }
}

async fn run(program: &'static str, cli: Cli) -> Result<(), Error> {
    match cli.verb {
        Verb::Start(target) => verbs::start::run(&Connection::open(&cli.connection).await?, &target).await,
        Verb::Stop(target) => verbs::stop::run(&Connection::open(&cli.connection).await?, &target).await,
        Verb::Restart(target) => verbs::restart::run(&Connection::open(&cli.connection).await?, &target).await,
        Verb::Abi(verb) => verbs::abi::run(&Connection::open(&cli.connection).await?, &verb).await,
        Verb::Console(options) => verbs::console::run(&Connection::open(&cli.connection).await?, &options).await,
        Verb::Vnc(options) => verbs::vnc::run(&Connection::open(&cli.connection).await?, &options).await,
        Verb::Drain(options) => verbs::drain::run(&Connection::open(&cli.connection).await?, &options).await,
        Verb::Token(verb) => verbs::token::run(&Connection::open(&cli.connection).await?, &verb).await,
        Verb::Version(options) => verbs::version::run(&cli.connection, &options).await,
        Verb::Completion { shell } => {
            verbs::completion::run(program, shell);
            Ok(())
        }
    }
}

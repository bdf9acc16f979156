//! `virtctl completion`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// Prints the script that completes `program` in `shell`.
pub(crate) fn run(program: &str, shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), program.replace(' ', "-"), &mut std::io::stdout());
}

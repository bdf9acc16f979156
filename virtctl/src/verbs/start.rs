//! `virtctl start`: the virtual machine should run.

use super::running::set_running;
use crate::cli::TargetArgs;
use crate::connection::Connection;
use crate::error::Error;
use crate::target;

/// Sets `spec.running`.
///
/// # Errors
/// No such OfflineVirtualMachine, one that is meant to run already, or an API error.
pub(crate) async fn run(connection: &Connection, args: &TargetArgs) -> Result<(), Error> {
    set_running(connection, &target::offline_virtual_machine("start", &args.words)?, true).await
}

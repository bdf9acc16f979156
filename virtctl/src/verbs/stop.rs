//! `virtctl stop`: the virtual machine should not run.

use super::running::set_running;
use crate::cli::TargetArgs;
use crate::connection::Connection;
use crate::error::Error;
use crate::target;

/// Clears `spec.running`.
///
/// # Errors
/// No such OfflineVirtualMachine, one that is meant to be stopped already, or an API error.
pub(crate) async fn run(connection: &Connection, args: &TargetArgs) -> Result<(), Error> {
    set_running(connection, &target::offline_virtual_machine("stop", &args.words)?, false).await
}

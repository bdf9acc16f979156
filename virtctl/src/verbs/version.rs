//! `virtctl version`.

use crate::cli::{ConnectionFlags, VersionArgs};
use crate::connection::Connection;
use crate::error::Error;

/// Prints this program's version, and the API server's.
///
/// # Errors
/// The server cannot be asked.
pub(crate) async fn run(flags: &ConnectionFlags, args: &VersionArgs) -> Result<(), Error> {
    println!("Client Version: v{}", env!("CARGO_PKG_VERSION"));
    if args.client {
        return Ok(());
    }
    let connection = Connection::open(flags).await?;
    let server =
        connection.client.apiserver_version().await.map_err(|error| Error::Version(connection.explain(&error)))?;
    println!("Server Version: {}", server.git_version);
    Ok(())
}

//! Effects in the cluster: OfflineVirtualMachines to VirtualMachines, and VirtualMachines to nodes.
//!
//! ```text
//! watches -> index -> queue of keys -> reconcile: observe -> plan::cluster::plan -> apply -> (again, until the plan rests)
//! Leases  -> expiry -> keys that live on the node
//! ```
//! One task at a time works on one namespace and name; what to do is decided in `plan::cluster` alone. [`run`] is the entry for the
//! `ovm-controller` binary and for `ovm-standalone`; [`console`] is the subresource API, which `ovm-standalone` mounts and [`serve`] offers to a
//! cluster's API server.

pub mod console;

mod apply;
mod context;
mod error;
mod index;
mod installation;
mod leases;
mod observe;
mod options;
mod queue;
mod reconcile;
mod refusal;
pub mod serve;
mod watch;

use kube::Client;
use tokio_util::sync::CancellationToken;

pub use error::ControllerError;
pub use options::{ControllerOptions, NicModel, NicModelError};

use context::Context;

/// Runs the controller until `cancel`. Guests do not notice that it ends.
///
/// # Errors
/// When the API server cannot be reached at the start, or refuses the first reads. Later failures are retried for ever.
pub async fn run(options: ControllerOptions, client: Client, cancel: CancellationToken) -> Result<(), ControllerError> {
    let installation = installation::identify(&client, &options).await?;
    let pods_are_served = installation::serves_pods(&client).await?;
    tracing::info!(cluster = %installation.cluster_uid, network = installation.network, "controller starts");
    let context = Context::new(client, installation, cancel.clone());
    let watches = watch::spawn_all(&context, pods_are_served);
    let expiry = tokio::spawn(leases::watch_expiry(context.clone()));
    // Bound to a name, because the watches end with it.
    if let Some(_watches) = cancel.run_until_cancelled(watches.listed()).await {
        cancel.run_until_cancelled(reconcile::work(context)).await;
    }
    expiry.abort();
    Ok(())
}

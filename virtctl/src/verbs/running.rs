//! What start and stop share: one field of the OfflineVirtualMachine.

use api::v1alpha1::OfflineVirtualMachine;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::connection::Connection;
use crate::error::Error;

/// Sets `spec.running` of the OfflineVirtualMachine `name`.
///
/// # Errors
/// No such object, one that says so already, or an API error.
pub(super) async fn set_running(connection: &Connection, name: &str, running: bool) -> Result<(), Error> {
    let ovms: Api<OfflineVirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let ovm = ovms.get(name).await.map_err(|error| Error::FetchOvm(connection.explain(&error)))?;
    if ovm.spec.running == running {
        let state = if running { "running" } else { "stopped" };
        return Err(Error::Already { name: name.to_owned(), state });
    }
    let patch = Patch::Merge(json!({"spec": {"running": running}}));
    ovms.patch(name, &PatchParams::default(), &patch)
        .await
        .map_err(|error| Error::UpdateOvm(connection.explain(&error)))?;
    Ok(())
}

//! `virtctl restart`: a new run, with the changes made to the template since the last.

use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use crate::cli::TargetArgs;
use crate::connection::Connection;
use crate::error::Error;
use crate::target;

/// Deletes the VirtualMachine that runs now, and no later one: the controller makes the next.
///
/// # Errors
/// No such OfflineVirtualMachine, one that is stopped, or an API error.
pub(crate) async fn run(connection: &Connection, args: &TargetArgs) -> Result<(), Error> {
    let name = target::offline_virtual_machine("restart", &args.words)?;
    let ovms: Api<OfflineVirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let vms: Api<VirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let ovm = ovms.get(&name).await.map_err(|error| Error::FetchOvm(connection.explain(&error)))?;
    if !ovm.spec.running {
        return Err(Error::Stopped(name));
    }
    let vm = vms.get_opt(&name).await.map_err(|error| Error::FetchVm(connection.explain(&error)))?;
    let Some(vm) = vm.filter(|vm| vm.metadata.deletion_timestamp.is_none()) else {
        return Ok(()); // gone or going: the next run is on its way
    };
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: vm.metadata.uid, resource_version: None }),
        ..DeleteParams::default()
    };
    match vms.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::DeleteVm(connection.explain(&error))),
    }
}

//! Which installation this is, and what it needs in the API.

use std::sync::Arc;

use api::names::SYSTEM_NAMESPACE;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use plan::cluster::Installation;
use uuid::Uuid;

use crate::{ControllerError, ControllerOptions};

/// The namespace whose UID names the cluster.
const IDENTITY_NAMESPACE: &str = "kube-system";

/// Reads the cluster's UID, and makes our namespace.
pub(crate) async fn identify(
    client: &Client,
    options: &ControllerOptions,
) -> Result<Arc<Installation>, ControllerError> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let system = namespaces
        .get(IDENTITY_NAMESPACE)
        .await
        .map_err(|source| ControllerError::Read { what: "namespace kube-system", source: Box::new(source) })?;
    let uid = system.metadata.uid.unwrap_or_default();
    let cluster_uid = Uuid::parse_str(&uid).map_err(|_| ControllerError::ClusterUid { uid })?;
    ensure_namespace(&namespaces).await?;
    let (network, nic_model) = (options.network.to_string(), options.nic_model.to_string());
    Ok(Arc::new(Installation { cluster_uid, network, nic_model }))
}

/// On a cluster the manifests bring it, and the controller may make none.
async fn ensure_namespace(namespaces: &Api<Namespace>) -> Result<(), ControllerError> {
    let found = namespaces.get_opt(SYSTEM_NAMESPACE).await;
    let failed = |source| ControllerError::Read { what: "namespace kubevirt-system", source: Box::new(source) };
    if found.map_err(failed)?.is_some() {
        return Ok(());
    }
    let metadata = ObjectMeta { name: Some(SYSTEM_NAMESPACE.to_owned()), ..ObjectMeta::default() };
    match namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => Err(ControllerError::EnsureNamespace { name: SYSTEM_NAMESPACE, source: Box::new(source) }),
    }
}

/// Whether the API server has pods; our own has none.
pub(crate) async fn serves_pods(client: &Client) -> Result<bool, ControllerError> {
    let resources = client
        .list_core_api_resources("v1")
        .await
        .map_err(|source| ControllerError::Read { what: "the resources of v1", source: Box::new(source) })?;
    Ok(resources.resources.iter().any(|resource| resource.name == "pods"))
}

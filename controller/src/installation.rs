//! Which installation this is, and what it needs in the API.

use std::sync::Arc;
use std::time::Duration;

use api::chain;
use api::names::SYSTEM_NAMESPACE;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use plan::cluster::{Installation, UuidRule};
use telemetry::Health;
use uuid::Uuid;

use crate::{ControllerOptions, UuidCompat};

/// The namespace whose UID names the cluster.
const IDENTITY_NAMESPACE: &str = "kube-system";
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// What the health says this is.
const CONDITION: &str = "installation";

/// What the controller learns of the API server before it begins.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) installation: Arc<Installation>,
    /// Whether the API server has pods; our own has none.
    pub(crate) pods_are_served: bool,
}

/// Why it could not be learned.
#[derive(Debug, thiserror::Error)]
enum LearnError {
    /// The API server did not give an object that the controller needs.
    #[error("read {what} from the API server")]
    Read {
        what: &'static str,
        #[source]
        source: kube::Error,
    },
    /// Our namespace could not be made.
    #[error("create namespace {SYSTEM_NAMESPACE}")]
    EnsureNamespace(#[source] kube::Error),
    /// The namespace `kube-system` has a UID that is none.
    #[error("namespace kube-system has uid {uid:?}, which is no UUID: cannot tell which cluster this is")]
    ClusterUid { uid: String },
}

/// Learns it, trying for ever: an API server that is away or still refuses is no reason to end.
pub(crate) async fn learn(client: &Client, options: &ControllerOptions, health: &Health) -> Surroundings {
    let mut last = None;
    loop {
        match try_learn(client, options).await {
            Ok(surroundings) => {
                health.set(CONDITION, Ok(()));
                return surroundings;
            }
            Err(error) => {
                let error = chain(&error);
                health.set(CONDITION, Err(error.clone()));
                if last.as_ref() != Some(&error) {
                    tracing::warn!(error, "cannot begin; trying again");
                    last = Some(error);
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn try_learn(client: &Client, options: &ControllerOptions) -> Result<Surroundings, LearnError> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let system = namespaces
        .get(IDENTITY_NAMESPACE)
        .await
        .map_err(|source| LearnError::Read { what: "namespace kube-system", source })?;
    let uid = system.metadata.uid.unwrap_or_default();
    let cluster_uid = Uuid::parse_str(&uid).map_err(|_| LearnError::ClusterUid { uid })?;
    ensure_namespace(&namespaces).await?;
    let (network, nic_model) = (options.network.to_string(), options.nic_model.to_string());
    let uuid_rule = options.uuid_compat.map_or(UuidRule::Cluster, |UuidCompat::KubevirtV0| UuidRule::KubevirtV0);
    let installation = Arc::new(Installation { cluster_uid, network, nic_model, uuid_rule });
    Ok(Surroundings { installation, pods_are_served: serves_pods(client).await? })
}

/// Makes our namespace where nobody has. A cluster's manifests have, and give no right to.
async fn ensure_namespace(namespaces: &Api<Namespace>) -> Result<(), LearnError> {
    let found = namespaces.get_metadata_opt(SYSTEM_NAMESPACE).await;
    if found.map_err(|source| LearnError::Read { what: "namespace kubevirt-system", source })?.is_some() {
        return Ok(());
    }
    let metadata = ObjectMeta { name: Some(SYSTEM_NAMESPACE.to_owned()), ..ObjectMeta::default() };
    match namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => Err(LearnError::EnsureNamespace(source)),
    }
}

async fn serves_pods(client: &Client) -> Result<bool, LearnError> {
    let resources = client
        .list_core_api_resources("v1")
        .await
        .map_err(|source| LearnError::Read { what: "the resources of v1", source })?;
    Ok(resources.resources.iter().any(|resource| resource.name == "pods"))
}

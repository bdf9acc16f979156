//! Keeps the Secret, and what is published from it, as they should be: observe, plan, one write, again.

use std::sync::Arc;
use std::time::Duration;

use api::chain;
use api::names::{CA_CONFIG_MAP, CA_KEY, CONTROLLER_NAME, SUBRESOURCE_GROUP, SYSTEM_NAMESPACE, TLS_SECRET, VERSION};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;

use super::material::Material;
use super::plan::plan_certificates;
use crate::error::api_message;

/// Seconds after which a watch is made anew, so that a dead connection is noticed.
const WATCH_SECONDS: u32 = 25;
/// Pause after the API server refused something or was away.
const RETRY: Duration = Duration::from_secs(5);
/// Passes in a row that may each lose a race or take a step; more means that replicas undo each other's work.
const MOST_PASSES: usize = 16;

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{operation}: {message}")]
    Api { operation: &'static str, message: String, code: u16 },
    #[error("make keys and certificates")]
    Make(#[source] rcgen::Error),
}

/// Who is told whom to trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Agents, which open guests' consoles to us.
    Agents,
    /// And an API server that hands webhook calls and the aggregated API on to us.
    AgentsAndApiServer,
}

/// Keeps certificates for ever, and shows the newest to `shown`.
pub(crate) async fn keep(client: Client, shown: watch::Sender<Option<Arc<Material>>>, audience: Audience) {
    let keeper = Keeper { client, shown, audience };
    let mut changes = keeper.changes();
    loop {
        let pause = keeper.settle().await;
        // A pause cut short by a change costs one more look.
        let _ = tokio::time::timeout(pause, changes.next()).await;
    }
}

struct Keeper {
    client: Client,
    shown: watch::Sender<Option<Arc<Material>>>,
    audience: Audience,
}

/// What is published, as it was before the Secret was read. Read in this order, and written with these versions, an older Secret can never
/// overwrite what another replica published from a newer one.
struct Published {
    config_map: Option<ConfigMap>,
    webhook: Option<ValidatingWebhookConfiguration>,
    api_service: Option<APIService>,
}

impl Keeper {
    /// Passes until nothing is left to do; returns how long that holds.
    async fn settle(&self) -> Duration {
        for _ in 0..MOST_PASSES {
            match self.pass().await {
                Ok(Some(pause)) => return pause,
                // After a conflict another replica was faster: look at what it wrote.
                Ok(None) | Err(KeepError::Api { code: 409, .. }) => {}
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot keep the certificates");
                    return RETRY;
                }
            }
        }
        tracing::warn!(secret = TLS_SECRET, "the certificates do not settle; pausing");
        RETRY
    }

    /// One pass. Returns how long nothing is to be done, or `None` after a step.
    async fn pass(&self) -> Result<Option<Duration>, KeepError> {
        let published = self.observe_published().await?;
        let secrets = Api::<Secret>::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let secret = secrets.get_opt(TLS_SECRET).await.map_err(failed("read the secret with the certificates"))?;
        let material = secret.as_ref().and_then(|secret| Material::from_secret(secret.data.as_ref()?));
        let facts = material.as_ref().and_then(Material::facts);
        let now = Timestamp::now();
        let plan = plan_certificates(now, facts.as_ref());
        if let Some(step) = plan.step {
            tracing::info!(?step, secret = TLS_SECRET, "certificates");
            let material = material.filter(|_| facts.is_some());
            let next = Material::after(&step, material, now).map_err(KeepError::Make)?;
            self.write_secret(&secrets, secret, &next).await?;
            return Ok(None);
        }
        if let Some(material) = material {
            self.publish(published, &material.bundle()).await?;
            self.show(material);
        }
        Ok(Some(plan.look_again.unsigned_abs()))
    }

    fn show(&self, material: Material) {
        self.shown.send_if_modified(|shown| {
            let is_new = shown.as_deref() != Some(&material);
            if is_new {
                *shown = Some(Arc::new(material));
            }
            is_new
        });
    }

    async fn observe_published(&self) -> Result<Published, KeepError> {
        let config_maps = Api::<ConfigMap>::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let config_map = config_maps.get_opt(CA_CONFIG_MAP).await;
        let config_map = config_map.map_err(failed("read the configmap of authorities"))?;
        if self.audience == Audience::Agents {
            return Ok(Published { config_map, webhook: None, api_service: None });
        }
        let webhooks = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let api_services = Api::<APIService>::all(self.client.clone());
        Ok(Published {
            config_map,
            webhook: webhooks.get_opt(CONTROLLER_NAME).await.map_err(failed("read the webhook configuration"))?,
            api_service: api_services.get_opt(&api_service_name()).await.map_err(failed("read the APIService"))?,
        })
    }

    async fn write_secret(
        &self,
        secrets: &Api<Secret>,
        old: Option<Secret>,
        material: &Material,
    ) -> Result<(), KeepError> {
        let write = failed("write the secret with the certificates");
        let mut secret = old.unwrap_or_else(|| Secret { metadata: named(TLS_SECRET), ..Secret::default() });
        secret.data = Some(material.to_secret());
        if secret.metadata.resource_version.is_some() {
            secrets.replace(TLS_SECRET, &PostParams::default(), &secret).await.map(drop).map_err(write)
        } else {
            secrets.create(&PostParams::default(), &secret).await.map(drop).map_err(write)
        }
    }

    /// Tells agents and the API server whom to trust, where they have been told something else.
    async fn publish(&self, published: Published, bundle: &str) -> Result<(), KeepError> {
        self.publish_to_agents(published.config_map, bundle).await?;
        let encoded = STANDARD.encode(bundle);
        if let Some(webhook) = published.webhook {
            let stale =
                webhook.webhooks.iter().flatten().filter(|hook| {
                    hook.client_config.ca_bundle.as_ref().is_none_or(|told| told.0 != bundle.as_bytes())
                });
            let hooks: Vec<_> =
                stale.map(|hook| json!({"name": hook.name, "clientConfig": {"caBundle": encoded}})).collect();
            if !hooks.is_empty() {
                // Strategic: hooks are merged by name.
                let patch = json!({"metadata": version_of(&webhook), "webhooks": hooks});
                self.tell(&webhook, &Patch::Strategic(patch)).await?;
            }
        }
        if let Some(service) = published.api_service.filter(is_served_by_us) {
            let told = service.spec.as_ref().and_then(|spec| spec.ca_bundle.as_ref());
            if told.is_none_or(|told| told.0 != bundle.as_bytes()) {
                let patch = json!({"metadata": version_of(&service), "spec": {"caBundle": encoded}});
                self.tell(&service, &Patch::Merge(patch)).await?;
            }
        }
        Ok(())
    }

    async fn publish_to_agents(&self, config_map: Option<ConfigMap>, bundle: &str) -> Result<(), KeepError> {
        let is_told =
            |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get(CA_KEY)).map(String::as_str) == Some(bundle);
        if config_map.as_ref().is_some_and(is_told) {
            return Ok(());
        }
        let write = failed("write the configmap of authorities");
        let config_maps = Api::<ConfigMap>::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let mut map =
            config_map.unwrap_or_else(|| ConfigMap { metadata: named(CA_CONFIG_MAP), ..ConfigMap::default() });
        map.data.get_or_insert_default().insert(CA_KEY.to_owned(), bundle.to_owned());
        if map.metadata.resource_version.is_some() {
            config_maps.replace(CA_CONFIG_MAP, &PostParams::default(), &map).await.map(drop).map_err(write)
        } else {
            config_maps.create(&PostParams::default(), &map).await.map(drop).map_err(write)
        }
    }

    async fn tell<K>(&self, object: &K, patch: &Patch<serde_json::Value>) -> Result<(), KeepError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let (kind, name) = (K::kind(&()), object.name_any());
        let objects = Api::<K>::all(self.client.clone());
        match objects.patch_metadata(&name, &PatchParams::default(), patch).await {
            Ok(_) => {
                tracing::info!(%kind, name, "told the API server whom to trust");
                Ok(())
            }
            // Deleted in between: nobody is left to be told.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(failed("write caBundle")(error)),
        }
    }

    /// Something happens whenever an object that matters has changed.
    fn changes(&self) -> BoxStream<'static, ()> {
        let client = || self.client.clone();
        let mut changes = vec![
            changes_of::<Secret>(Api::namespaced(client(), SYSTEM_NAMESPACE), TLS_SECRET).boxed(),
            changes_of::<ConfigMap>(Api::namespaced(client(), SYSTEM_NAMESPACE), CA_CONFIG_MAP).boxed(),
        ];
        if self.audience == Audience::AgentsAndApiServer {
            changes.push(changes_of::<ValidatingWebhookConfiguration>(Api::all(client()), CONTROLLER_NAME).boxed());
            changes.push(changes_of::<APIService>(Api::all(client()), &api_service_name()).boxed());
        }
        stream::select_all(changes).boxed()
    }
}

/// The metadata of one object, watched: its content is read when it is wanted.
fn changes_of<K>(api: Api<PartialObjectMeta<K>>, name: &str) -> impl Stream<Item = ()> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = Config::default().timeout(WATCH_SECONDS).fields(&format!("metadata.name={name}"));
    watcher(api, config).default_backoff().touched_objects().filter_map(|event| async {
        event
            .inspect_err(
                |error| tracing::debug!(kind = %K::kind(&()), error = chain(error), "watch broke, will be made anew"),
            )
            .ok()
            .map(drop)
    })
}

/// Whether the API server asks us for that version. On a cluster that has a KubeVirt of old it asks KubeVirt's own service, whose trust is not ours to write.
fn is_served_by_us(service: &APIService) -> bool {
    let asked = service.spec.as_ref().and_then(|spec| spec.service.as_ref());
    asked.is_some_and(|asked| {
        asked.namespace.as_deref() == Some(SYSTEM_NAMESPACE) && asked.name.as_deref() == Some(CONTROLLER_NAME)
    })
}

fn api_service_name() -> String {
    format!("{VERSION}.{SUBRESOURCE_GROUP}")
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// The precondition of a patch.
fn version_of(object: &impl kube::ResourceExt) -> serde_json::Value {
    json!({"uid": object.uid(), "resourceVersion": object.resource_version()})
}

fn failed(operation: &'static str) -> impl Fn(kube::Error) -> KeepError {
    move |error| {
        let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
        KeepError::Api { operation, message: api_message(&error), code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_asks_us_is_told_whom_to_trust() {
        let asking = |namespace: &str, name: &str| -> APIService {
            let service = json!({"namespace": namespace, "name": name});
            let spec = json!({"groupPriorityMinimum": 1, "versionPriority": 1, "service": service});
            serde_json::from_value(json!({"metadata": {"name": api_service_name()}, "spec": spec})).unwrap()
        };
        assert!(is_served_by_us(&asking("kubevirt-system", "ovm-controller")));
        assert!(!is_served_by_us(&asking("kubevirt", "virt-api")));
        assert!(!is_served_by_us(&asking("kubevirt", "ovm-controller")));
        assert!(!is_served_by_us(&APIService::default()), "served by the API server itself");
    }
}

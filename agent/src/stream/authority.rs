//! Whom the agent takes for the controller: whoever the authorities in ConfigMap `ovm-controller-ca` vouch for, from the moment it changes.

use std::sync::Arc;

use api::chain;
use api::names::{CA_CONFIG_MAP, CA_KEY, SYSTEM_NAMESPACE};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use rustls::ServerConfig;
use tokio::sync::watch;
use tracing::{info, warn};

use super::certificate::OwnCertificate;

/// Seconds after which the watch is made anew, so that a dead connection is noticed.
const WATCH_SECONDS: u32 = 25;

/// Follows the ConfigMap for ever. While there is none, nobody is let in.
pub(super) async fn follow(
    client: Client,
    certificate: &OwnCertificate,
    trusted: watch::Sender<Option<Arc<ServerConfig>>>,
) {
    let config_maps = Api::<ConfigMap>::namespaced(client, SYSTEM_NAMESPACE);
    let config = Config::default().timeout(WATCH_SECONDS).fields(&format!("metadata.name={CA_CONFIG_MAP}"));
    let mut stream = watcher(config_maps, config).default_backoff().boxed();
    let mut known = None;
    while let Some(event) = stream.next().await {
        let bundle = match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => map.data.and_then(|mut data| data.remove(CA_KEY)),
            Ok(Event::Delete(_)) => None,
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                warn!(error = chain(&error), "cannot watch configmap {SYSTEM_NAMESPACE}/{CA_CONFIG_MAP}");
                continue;
            }
        };
        if bundle != known {
            known = bundle;
            trusted.send_replace(read(certificate, known.as_deref()));
        }
    }
}

fn read(certificate: &OwnCertificate, bundle: Option<&str>) -> Option<Arc<ServerConfig>> {
    match certificate.server_config(bundle?) {
        Ok(config) => {
            info!("consoles are open to the controller");
            Some(Arc::new(config))
        }
        Err(error) => {
            warn!(error = chain(&error), "the authorities in configmap {SYSTEM_NAMESPACE}/{CA_CONFIG_MAP} are no use");
            None
        }
    }
}

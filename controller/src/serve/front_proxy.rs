//! Who asks, as the cluster's API server says it: it authenticates users, and names them in headers. Only its own client certificate makes
//! those headers worth anything.
//!
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/#kubernetes-apiserver-client-authentication>. What that
//! certificate looks like is said in ConfigMap `kube-system/extension-apiserver-authentication`, which is watched.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::chain;
use futures::StreamExt as _;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::tls::provider;
use crate::console::Caller;

/// Where the API server says how it proves itself.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
/// Seconds after which the watch is made anew, so that a dead connection is noticed.
const WATCH_SECONDS: u32 = 25;

/// How the API server proves itself, and where it names the user.
#[derive(Debug)]
pub(crate) struct FrontProxy {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Common names that are believed; any, if there are none.
    allowed_names: Vec<String>,
    user_headers: Vec<String>,
    uid_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

/// Why a request is not believed to come from the API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stranger {
    /// There is no client certificate.
    #[error("no client certificate")]
    NoCertificate,
    /// The certificate is not the API server's.
    #[error("the client certificate is not the API server's: {0}")]
    NotTheApiServer(String),
    /// It is the API server, but it names no user.
    #[error("the API server names no user")]
    NoUser,
}

/// Why the ConfigMap cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontProxyError {
    /// A key is missing: the API server runs without aggregation.
    #[error("configmap {NAMESPACE}/{CONFIG_MAP} has no {0}: the API server is not set up for aggregated APIs")]
    Missing(&'static str),
    /// A key is not what it should be.
    #[error("{key} of configmap {NAMESPACE}/{CONFIG_MAP} cannot be used: {reason}")]
    Unusable { key: &'static str, reason: String },
}

impl FrontProxy {
    /// Reads the ConfigMap's data.
    ///
    /// # Errors
    /// When something is missing or cannot be used.
    pub(crate) fn from_config_map(data: &BTreeMap<String, String>) -> Result<Self, FrontProxyError> {
        const AUTHORITY: &str = "requestheader-client-ca-file";
        let unusable = |reason: String| FrontProxyError::Unusable { key: AUTHORITY, reason };
        let pem = data.get(AUTHORITY).ok_or(FrontProxyError::Missing(AUTHORITY))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let user_headers = list(data, "requestheader-username-headers")?;
        if user_headers.is_empty() {
            return Err(FrontProxyError::Missing("requestheader-username-headers"));
        }
        Ok(Self {
            verifier,
            allowed_names: list(data, "requestheader-allowed-names")?,
            user_headers,
            uid_headers: list(data, "requestheader-uid-headers")?,
            group_headers: list(data, "requestheader-group-headers")?,
            extra_prefixes: list(data, "requestheader-extra-headers-prefix")?,
        })
    }

    /// The user for whom the API server asks.
    ///
    /// # Errors
    /// When it is not the API server that asks, or it names nobody.
    pub(crate) fn authenticate(
        &self,
        certificates: &[CertificateDer<'_>],
        headers: &HeaderMap,
        now: UnixTime,
    ) -> Result<Caller, Stranger> {
        let (own, intermediates) = certificates.split_first().ok_or(Stranger::NoCertificate)?;
        let not_it = |reason: String| Stranger::NotTheApiServer(reason);
        self.verifier.verify_client_cert(own, intermediates, now).map_err(|error| not_it(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|error| not_it(error.to_string()))?;
        let names: Vec<_> = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
        let is_allowed = self.allowed_names.is_empty()
            || names.iter().any(|name| self.allowed_names.iter().any(|allowed| allowed == name));
        if !is_allowed {
            return Err(not_it(format!("common name {names:?} is not among {:?}", self.allowed_names)));
        }
        let user = self.first(headers, &self.user_headers).ok_or(Stranger::NoUser)?;
        Ok(Caller {
            user,
            uid: self.first(headers, &self.uid_headers),
            groups: self.group_headers.iter().flat_map(|name| all(headers, name)).collect(),
            extra: self.extra(headers),
        })
    }

    #[expect(clippy::unused_self, reason = "reads as what it is: how this front proxy names things")]
    fn first(&self, headers: &HeaderMap, names: &[String]) -> Option<String> {
        names.iter().flat_map(|name| all(headers, name)).find(|value| !value.is_empty())
    }

    /// Extra attributes: a header each, its name escaped behind a prefix.
    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra = BTreeMap::<String, Vec<String>>::new();
        for name in headers.keys() {
            let key =
                self.extra_prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(&prefix.to_ascii_lowercase()));
            let Some(key) = key else { continue };
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().extend(all(headers, name.as_str()));
        }
        extra
    }
}

fn all<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = String> + use<'h> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

/// A list in the ConfigMap: a JSON array as text. A missing one is empty.
fn list(data: &BTreeMap<String, String>, key: &'static str) -> Result<Vec<String>, FrontProxyError> {
    let Some(text) = data.get(key) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| FrontProxyError::Unusable { key, reason: error.to_string() })
}

/// Follows the ConfigMap for ever. While it cannot be used, nobody is believed.
pub(crate) async fn follow(client: Client, believed: watch::Sender<Option<Arc<FrontProxy>>>) {
    let config_maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let config = Config::default().timeout(WATCH_SECONDS).fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut stream = watcher(config_maps, config).default_backoff().boxed();
    let mut read = None;
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => {
                // Written every minute by some API servers, seldom with something new in it.
                if read.as_ref() != map.data.as_ref() {
                    read = map.data;
                    believed.send_replace(usable(read.as_ref()));
                }
            }
            Ok(Event::Delete(_)) => {
                read = None;
                believed.send_replace(None);
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(error = chain(&error), "cannot watch configmap {NAMESPACE}/{CONFIG_MAP}"),
        }
    }
}

fn usable(data: Option<&BTreeMap<String, String>>) -> Option<Arc<FrontProxy>> {
    let read = FrontProxy::from_config_map(data.unwrap_or(&BTreeMap::new()));
    read.inspect_err(|error| tracing::warn!(error = chain(error), "console, vnc and user data are refused"))
        .ok()
        .map(Arc::new)
}

#[cfg(test)]
mod tests;

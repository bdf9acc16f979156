//! Which authority to trust: ConfigMap `cluster-info` in `kube-public`, which the API server shows to everybody, taken for true if the hash of its
//! authority's key is the one that the administrator gave. Before that nothing secret is sent, the token least of all.
//!
//! kubeadm also checks a signature over the ConfigMap, made with the token. It proves the address of the server, which is given here, and the authority,
//! which the hash proves: see decision 0141.

use api::join::{CaHash, PemError, ca_hashes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::Kubeconfig;
use kube::{Api, Client, Config};

use super::JoinError;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KEY: &str = "kubeconfig";

/// What is wrong with the ConfigMap.
#[derive(Debug, thiserror::Error)]
pub enum ClusterInfoError {
    /// It lacks its key.
    #[error("it has no key {KEY}")]
    NoKey,
    /// The kubeconfig in it cannot be read.
    #[error("its kubeconfig cannot be read")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// There is no authority in it.
    #[error("its kubeconfig has no certificate-authority-data")]
    NoAuthority,
    /// The authority cannot be read.
    #[error("its certificate authority cannot be used")]
    Authority(#[source] PemError),
}

/// Reads the server's address.
pub(super) fn parse_server(text: &str) -> Result<http::Uri, JoinError> {
    let wrong = || JoinError::Server(text.to_owned());
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let has_more = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
    if uri.scheme_str() != Some("https") || uri.host().is_none_or(str::is_empty) || has_more {
        return Err(wrong());
    }
    Ok(uri)
}

/// The cluster's authority (PEM), once its hash is right.
pub(super) async fn fetch_authority(server: &http::Uri, hashes: &[CaHash]) -> Result<String, JoinError> {
    let mut unchecked = config(server);
    unchecked.accept_invalid_certs = true;
    let unreachable = |source| JoinError::Unreachable { server: server.to_string(), source };
    let client = Client::try_from(unchecked).map_err(unreachable)?;
    let info = match Api::<ConfigMap>::namespaced(client, NAMESPACE).get(NAME).await {
        Ok(info) => info,
        Err(kube::Error::Api(status)) => {
            return Err(JoinError::NoClusterInfo { server: server.to_string(), message: status.message.clone() });
        }
        Err(source) => return Err(unreachable(source)),
    };
    let authority = authority_of(&info).map_err(|source| JoinError::ClusterInfo { source })?;
    let found =
        ca_hashes(&authority).map_err(|error| JoinError::ClusterInfo { source: ClusterInfoError::Authority(error) })?;
    if !found.iter().any(|found| hashes.contains(found)) {
        let list = |hashes: &[CaHash]| hashes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(JoinError::WrongHash { server: server.to_string(), found: list(&found), wanted: list(hashes) });
    }
    Ok(authority)
}

/// A client's configuration for a server that is not known yet.
pub(super) fn config(server: &http::Uri) -> Config {
    super::plain_config(server)
}

/// The certificates of a bundle, in DER.
pub(super) fn certificates(authority: &str) -> Result<Vec<Vec<u8>>, ClusterInfoError> {
    ca_hashes(authority).map_err(ClusterInfoError::Authority)?;
    let blocks = x509_parser::pem::Pem::iter_from_buffer(authority.as_bytes());
    Ok(blocks.filter_map(Result::ok).map(|block| block.contents).collect())
}

fn authority_of(info: &ConfigMap) -> Result<String, ClusterInfoError> {
    let text = info.data.as_ref().and_then(|data| data.get(KEY)).ok_or(ClusterInfoError::NoKey)?;
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(ClusterInfoError::Kubeconfig)?;
    let mut clusters = kubeconfig.clusters.into_iter();
    let data = clusters.find_map(|named| named.cluster?.certificate_authority_data);
    let bytes = data.and_then(|data| STANDARD.decode(data).ok()).ok_or(ClusterInfoError::NoAuthority)?;
    String::from_utf8(bytes).map_err(|_| ClusterInfoError::NoAuthority)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_is_an_https_address_and_nothing_more() {
        for good in ["https://10.0.0.1:6443", "https://api.example.com/", "https://[2001:db8::1]:6443"] {
            assert!(parse_server(good).is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.1:6443", "http://10.0.0.1:6443", "https://", "https://h/path", "https://h/?q=1"] {
            assert!(matches!(parse_server(bad), Err(JoinError::Server(_))), "{bad}");
        }
    }

    #[test]
    fn the_authority_is_in_the_kubeconfig_in_the_config_map() {
        let info = |kubeconfig: &str| -> ConfigMap {
            serde_json::from_value(json!({"data": {"kubeconfig": kubeconfig}})).unwrap()
        };
        let with = format!(
            "clusters:\n- name: ''\n  cluster:\n    server: https://h\n    certificate-authority-data: {}\n",
            STANDARD.encode("PEM")
        );
        assert_eq!(authority_of(&info(&with)).unwrap(), "PEM");
        assert!(matches!(authority_of(&info("clusters: []")), Err(ClusterInfoError::NoAuthority)));
        assert!(matches!(authority_of(&info("clusters: 7")), Err(ClusterInfoError::Kubeconfig(_))));
        assert!(matches!(authority_of(&ConfigMap::default()), Err(ClusterInfoError::NoKey)));
    }
}

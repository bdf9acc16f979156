//! ConfigMap `cluster-info` in `kube-public`, by which hosts that join know the cluster. kubeadm makes it; where it is missing it is made here, from the
//! kubeconfig that the API server was reached with.

use api::join::{CaHash, ca_hashes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PostParams;
use kube::config::Kubeconfig;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::failed;
use crate::connection::Connection;
use crate::error::Error;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KEY: &str = "kubeconfig";
/// Lets everybody read it, as kubeadm does.
const ROLE: &str = "ovm:cluster-info";
const READING: &str = "Error reading ConfigMap kube-public/cluster-info";
const MAKING: &str =
    "Error making ConfigMap kube-public/cluster-info, by which hosts that join know the cluster; ask whoever may";

/// Where the API server is, and how it is known.
pub(super) struct ClusterInfo {
    pub(super) server: String,
    pub(super) hashes: Vec<CaHash>,
}

impl ClusterInfo {
    /// Whether the address is good on this host only.
    pub(super) fn is_loopback(&self) -> bool {
        let uri = self.server.parse::<http::Uri>().ok();
        let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    fn of(info: &ConfigMap) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::ClusterInfo(reason.to_owned());
        let text =
            info.data.as_ref().and_then(|data| data.get(KEY)).ok_or_else(|| wrong("it has no key kubeconfig"))?;
        let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| wrong(&api::chain(&error)))?;
        let mut clusters = kubeconfig.clusters.into_iter().filter_map(|named| named.cluster);
        let cluster = clusters.next().ok_or_else(|| wrong("its kubeconfig names no cluster"))?;
        let data = cluster.certificate_authority_data.and_then(|data| STANDARD.decode(data).ok());
        let pem = data.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| wrong("there is none"))?;
        let hashes = ca_hashes(&pem).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { server: cluster.server.unwrap_or_default(), hashes })
    }
}

/// Reads it; makes it where there is none.
pub(super) async fn find_or_make(connection: &Connection) -> Result<ClusterInfo, Error> {
    let maps = Api::<ConfigMap>::namespaced(connection.client.clone(), NAMESPACE);
    let found = maps.get_opt(NAME).await.map_err(|error| failed(connection, READING, &error))?;
    if let Some(found) = found {
        return ClusterInfo::of(&found);
    }
    let authorities = connection.authorities.as_deref().ok_or(Error::NoAuthority)?;
    let server = connection.server.to_string();
    let made: ConfigMap = create(connection, &config_map(server.trim_end_matches('/'), authorities)).await?;
    let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "system:anonymous"});
    let reference = json!({"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": ROLE});
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NAME], "verbs": ["get"]});
    create::<Role>(connection, &json!({"metadata": {"name": ROLE}, "rules": [rule]})).await?;
    create::<RoleBinding>(
        connection,
        &json!({"metadata": {"name": ROLE}, "roleRef": reference, "subjects": [subject]}),
    )
    .await?;
    eprintln!(
        "note: made ConfigMap {NAMESPACE}/{NAME} with the cluster's address and certificate authority, and Role {ROLE} by which everybody may read it"
    );
    ClusterInfo::of(&made)
}

async fn create<K>(connection: &Connection, object: &Value) -> Result<K, Error>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let wrong = |error: serde_json::Error| Error::Token { operation: MAKING, reason: error.to_string() };
    let object: K = serde_json::from_value(object.clone()).map_err(wrong)?;
    let api = Api::<K>::namespaced(connection.client.clone(), NAMESPACE);
    match api.create(&PostParams::default(), &object).await {
        // Left by an attempt that was cut short.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(object),
        other => other.map_err(|error| failed(connection, MAKING, &error)),
    }
}

fn config_map(server: &str, authorities: &[Vec<u8>]) -> Value {
    let pem: String = authorities.iter().map(|der| certificate_pem(der)).collect();
    let cluster = json!({"server": server, "certificate-authority-data": STANDARD.encode(pem)});
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}]});
    json!({"metadata": {"name": NAME}, "data": {KEY: kubeconfig.to_string()}})
}

fn certificate_pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..encoded.len()).step_by(64).filter_map(|at| encoded.get(at..(at + 64).min(encoded.len()))).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = include_str!("../../../../api/src/join/test-ca.crt");

    #[test]
    fn what_is_made_is_read_as_what_it_was_made_from() {
        let body: String = CERTIFICATE.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        assert_eq!(certificate_pem(&der), CERTIFICATE);
        let map = serde_json::from_value(config_map("https://10.0.0.1:6443", &[der])).unwrap();
        let info = ClusterInfo::of(&map).unwrap();
        assert_eq!((info.server.as_str(), info.hashes), ("https://10.0.0.1:6443", ca_hashes(CERTIFICATE).unwrap()));
    }

    #[test]
    fn an_address_of_this_host_alone_is_known() {
        let is_loopback = |server: &str| ClusterInfo { server: server.to_owned(), hashes: Vec::new() }.is_loopback();
        for server in ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"] {
            assert!(is_loopback(server), "{server}");
        }
        assert!(!is_loopback("https://10.0.0.1:6443") && !is_loopback("https://[2001:db8::1]:6443"));
    }
}

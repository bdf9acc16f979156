//! Guests' consoles from the agents of their nodes, over mutual TLS.
//!
//! An agent says on its Lease where it listens and which certificate it shows there; exactly that one is trusted, for that node. The request is
//! HTTP with an upgrade, so that a refusal is an ordinary answer; after it the connection is the guest's bytes and nothing else.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::names::{AGENT_ADDRESS_ANNOTATION, AGENT_CERTIFICATE_ANNOTATION, AGENT_TLS_NAME, SYSTEM_NAMESPACE};
use api::subresources::AGENT_STREAM_PROTOCOL;
use axum::body::Body;
use futures::future::BoxFuture;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt as _};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::certificates::Material;
use super::tls::agent_client_config;
use crate::console::{Channel, ConsoleError, GuestConsole, GuestRef, GuestStream};
use crate::error::api_message;

/// Time to reach an agent and to be answered. libvirt may take a while to open a console.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest text of a refusal that is passed on.
const MOST_TEXT: usize = 4096;

type Cause = Box<dyn Error + Send + Sync>;

/// Opens consoles at agents.
pub(super) struct Agents {
    client: Client,
    material: watch::Receiver<Option<Arc<Material>>>,
}

/// Where an agent listens, and how it is known.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: SocketAddr,
    certificate: String,
}

impl Agents {
    pub(super) fn new(client: Client, material: watch::Receiver<Option<Arc<Material>>>) -> Self {
        Self { client, material }
    }

    async fn connect(&self, guest: &GuestRef, channel: Channel) -> Result<Box<dyn GuestStream>, ConsoleError> {
        let unreachable = |source: Cause| ConsoleError::Unreachable { node: guest.node.clone(), source };
        let opened = tokio::time::timeout(PATIENCE, async {
            let stream = self.reach(&guest.node).await.map_err(unreachable)?;
            request(stream, guest, channel).await
        });
        opened.await.unwrap_or_else(|_| Err(unreachable(format!("no answer within {} s", PATIENCE.as_secs()).into())))
    }

    /// A TLS connection to the agent of a node.
    async fn reach(&self, node: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Cause> {
        let material = self.material.borrow().clone().ok_or("there are no certificates yet")?;
        let leases = Api::<Lease>::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let lease = leases.get_opt(node).await.map_err(|error| api_message(&error))?;
        let endpoint = Endpoint::of(lease.as_ref(), node)?;
        let config = agent_client_config(&material.client, &endpoint.certificate)?;
        let socket = TcpStream::connect(endpoint.address)
            .await
            .map_err(|error| format!("connect to {}: {error}", endpoint.address))?;
        socket.set_nodelay(true)?;
        Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(AGENT_TLS_NAME)?, socket).await?)
    }
}

impl GuestConsole for Agents {
    fn open(&self, guest: GuestRef, channel: Channel) -> BoxFuture<'_, Result<Box<dyn GuestStream>, ConsoleError>> {
        Box::pin(async move { self.connect(&guest, channel).await })
    }
}

impl Endpoint {
    fn of(lease: Option<&Lease>, node: &str) -> Result<Self, Cause> {
        let lease = lease.ok_or_else(|| format!("there is no Lease {SYSTEM_NAMESPACE}/{node}"))?;
        let says = |annotation: &str| {
            let missing = || {
                format!(
                    "Lease {SYSTEM_NAMESPACE}/{node} has no annotation {annotation}; does the agent run with --console-listen?"
                )
            };
            lease.annotations().get(annotation).ok_or_else(missing)
        };
        let address = says(AGENT_ADDRESS_ANNOTATION)?;
        let address = address.parse().map_err(|_| {
            format!("annotation {AGENT_ADDRESS_ANNOTATION} of Lease {SYSTEM_NAMESPACE}/{node} is {address:?}, which is no IP:PORT")
        })?;
        Ok(Self { address, certificate: says(AGENT_CERTIFICATE_ANNOTATION)?.clone() })
    }
}

/// Asks the agent for the guest's channel.
async fn request(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    guest: &GuestRef,
    channel: Channel,
) -> Result<Box<dyn GuestStream>, ConsoleError> {
    let broken = |error: Cause| ConsoleError::Unreachable { node: guest.node.clone(), source: error };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
    tokio::spawn(connection.with_upgrades());
    let channel = match channel {
        Channel::Serial => "console",
        Channel::Vnc => "vnc",
    };
    let request = Request::get(api::subresources::agent_path(&guest.namespace, &guest.name, &guest.uid, channel))
        .header(HOST, AGENT_TLS_NAME)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, AGENT_STREAM_PROTOCOL)
        .body(Body::empty())
        .map_err(|error| broken(error.into()))?;
    let answer = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            let upgraded = hyper::upgrade::on(answer).await.map_err(|error| broken(error.into()))?;
            Ok(Box::new(TokioIo::new(upgraded)))
        }
        StatusCode::NOT_FOUND => Err(ConsoleError::NotRunning),
        status => {
            let text = axum::body::to_bytes(Body::new(answer.into_body()), MOST_TEXT).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            Err(ConsoleError::Open(if text.is_empty() { status.to_string() } else { text }.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(annotations: &serde_json::Value) -> Lease {
        serde_json::from_value(json!({"metadata": {"name": "a", "annotations": annotations}})).unwrap()
    }

    #[test]
    fn an_agent_is_where_its_lease_says() {
        let said = json!({"kubevirt.io/agent-address": "[2001:db8::7]:8443", "kubevirt.io/agent-certificate": "PEM"});
        let endpoint = Endpoint::of(Some(&lease(&said)), "a").unwrap();
        assert_eq!(
            endpoint,
            Endpoint { address: "[2001:db8::7]:8443".parse().unwrap(), certificate: "PEM".to_owned() }
        );
    }

    #[test]
    fn a_lease_that_does_not_say_is_named() {
        let said = |annotations| Endpoint::of(Some(&lease(&annotations)), "a").unwrap_err().to_string();
        assert!(Endpoint::of(None, "a").unwrap_err().to_string().contains("no Lease kubevirt-system/a"));
        assert!(said(json!({})).contains("does the agent run with --console-listen?"));
        assert!(said(json!({"kubevirt.io/agent-address": "host:1"})).contains("no IP:PORT"));
        assert!(said(json!({"kubevirt.io/agent-address": "192.0.2.1:1"})).contains("kubevirt.io/agent-certificate"));
    }
}

//! What the controller serves to the cluster over TLS, in every replica, leader or not: the validating webhook, and the aggregated API
//! `subresources.kubevirt.io/v1alpha1` with consoles, displays and user data.
//!
//! ```text
//! API server ─► /validate ───────────────────────────► api::admission
//! API server ─► /apis/... ─► front_proxy: is it really the API server? ─► authorize: may that user? ─► console ─► agents ─► the node's agent
//!                                                                                                  └► user data (Secrets)
//! ```
//! Nothing that the controller reconciles depends on this: with it gone, guests run and end as they should.

mod agents;
mod authorize;
mod certificates;
mod connection;
mod discovery;
mod front_proxy;
mod router;
mod talk;
mod tls;
mod webhook;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::console::{Channel, ConsoleError, GuestConsole, GuestRef, GuestStream};
use crate::{Kinds, while_ours};
use agents::Agents;

/// How long new connections are still taken after the end was asked for: the API server learns of it a moment later, and a refused webhook call is
/// a failed create.
const LINGER: Duration = Duration::from_secs(2);
/// How long requests in flight may take after that.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// A bound server, which does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

/// Consoles of guests whose agents joined an API server that serves the subresource API itself. Agents know us by certificates that are kept as in a
/// cluster, for as long as this lives.
pub struct JoinedConsoles {
    agents: Agents,
    _keeper: AbortOnDropHandle<()>,
}

impl JoinedConsoles {
    /// Makes the certificates, and keeps them.
    pub fn start(client: Client) -> Self {
        let (shown, material) = watch::channel(None);
        let kept = certificates::keep(client.clone(), shown, certificates::Audience::Agents);
        Self { agents: Agents::new(client, material), _keeper: AbortOnDropHandle::new(tokio::spawn(kept)) }
    }
}

impl GuestConsole for JoinedConsoles {
    fn open(&self, guest: GuestRef, channel: Channel) -> BoxFuture<'_, Result<Box<dyn GuestStream>, ConsoleError>> {
        self.agents.open(guest, channel)
    }
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await.map_err(|source| ListenError { address, source })?;
        Ok(Self { listener })
    }

    /// Serves whenever the kinds are ours, until `cancel`, and then for as long as others may not have heard of it. Connections are taken once there is a
    /// certificate, which a cluster that is away delays. On another program's kinds nothing is served and nothing is written.
    pub(crate) async fn run(self, client: Client, mut kinds: Kinds, cancel: CancellationToken) {
        let connections = TaskTracker::new();
        let end = CancellationToken::new();
        let ends = end.clone();
        tokio::spawn(async move {
            cancel.cancelled().await;
            tokio::time::sleep(LINGER).await;
            ends.cancel();
        });
        while let Some(ours) = while_ours(&mut kinds, &end).await {
            ours.run_until_cancelled(Box::pin(self.serve(&client, &connections, &ours))).await;
        }
        connections.close();
        // Consoles are none of these: they end with the process.
        let _ = tokio::time::timeout(LAST_ANSWERS, connections.wait()).await;
    }

    /// Serves until it is dropped; connections that are open then end with `ours`.
    async fn serve(&self, client: &Client, connections: &TaskTracker, ours: &CancellationToken) {
        let (shown, material) = watch::channel(None);
        let (believed, front_proxy) = watch::channel(None);
        let agents = Arc::new(Agents::new(client.clone(), material.clone()));
        let router = router::make(client.clone(), agents, front_proxy);
        tokio::join!(
            certificates::keep(client.clone(), shown, certificates::Audience::AgentsAndApiServer),
            front_proxy::follow(client.clone(), believed),
            connection::serve(&self.listener, router, material, connections.clone(), ours.clone()),
        );
    }
}

//! Consoles of this node's guests for the controller, over mutual TLS.
//!
//! ```text
//! our Lease:  address, certificate of this agent ─► the controller trusts exactly that certificate for this node
//! ConfigMap ovm-controller-ca: authorities        ─► a client certificate by one of them, or no handshake
//! GET /guests/NAMESPACE/NAME/UID/console          ─► 101, and from there on the guest's bytes; or a refusal in plain text
//! ```
//! Nothing of a request is looked at before the handshake has proved that the controller sends it. Whether a user may is the controller's to
//! decide; here it is only checked that this very VM runs on this node.

mod advertise;
mod authority;
mod certificate;
mod connection;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use api::names::{AGENT_ADDRESS_ANNOTATION, AGENT_CERTIFICATE_ANNOTATION};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::consoles::Consoles;
pub use advertise::Advertise;
use certificate::OwnCertificate;

/// Where the agent serves consoles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamAddress {
    /// What it listens on.
    pub listen: StreamListen,
    /// The address at which the controller reaches it. The port is the one that it listens on.
    pub advertise: Advertise,
}

/// What the agent listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamListen {
    /// This; port 0 takes a free one.
    At(SocketAddr),
    /// This port of all addresses, IPv6 ones where the host has them.
    EveryAddress(u16),
}

/// Why no consoles can be served.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The address cannot be listened on.
    #[error("listen on {address} for consoles; --console-listen names another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No certificate can be made.
    #[error("make a certificate")]
    Certificate(#[source] rcgen::Error),
}

/// A bound server, which does not serve yet.
pub(crate) struct StreamServer {
    listener: TcpListener,
    port: u16,
    advertise: Advertise,
    certificate: OwnCertificate,
    annotations: watch::Sender<BTreeMap<String, String>>,
}

impl StreamServer {
    /// Binds the address and makes a certificate, which lives as long as the process.
    ///
    /// # Errors
    /// When either fails.
    pub(crate) async fn bind(at: &StreamAddress) -> Result<Self, StreamError> {
        let listener = at.listen.bind().await?;
        let port = listener.local_addr().map_err(|source| at.listen.failed(source))?.port();
        let certificate = OwnCertificate::make().map_err(StreamError::Certificate)?;
        let annotations = watch::channel(BTreeMap::new()).0;
        let server = Self { listener, port, advertise: at.advertise.clone(), certificate, annotations };
        server.tell(server.advertise.look().await.ok());
        Ok(server)
    }

    /// What our Lease is to say of it.
    pub(crate) fn annotations(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.annotations.subscribe()
    }

    /// Says where it is; nothing of that while it is not known.
    fn tell(&self, address: Option<std::net::IpAddr>) {
        let mut said = BTreeMap::from([(AGENT_CERTIFICATE_ANNOTATION.to_owned(), self.certificate.pem().to_owned())]);
        said.extend(
            address.map(|ip| (AGENT_ADDRESS_ANNOTATION.to_owned(), SocketAddr::new(ip, self.port).to_string())),
        );
        self.annotations.send_replace(said);
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self, client: Client, consoles: Consoles) {
        let (known, trusted) = watch::channel(None);
        tokio::join!(
            authority::follow(client, &self.certificate, known),
            self.advertise.follow(|address| self.tell(Some(address))),
            connection::serve(&self.listener, trusted, consoles)
        );
    }
}

impl StreamListen {
    async fn bind(self) -> Result<TcpListener, StreamError> {
        let bound = match self {
            Self::At(address) => TcpListener::bind(address).await,
            Self::EveryAddress(port) => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
                }
                bound => bound,
            },
        };
        bound.map_err(|source| self.failed(source))
    }

    fn failed(self, source: io::Error) -> StreamError {
        let address = match self {
            Self::At(address) => address,
            Self::EveryAddress(port) => (Ipv6Addr::UNSPECIFIED, port).into(),
        };
        StreamError::Listen { address, source }
    }
}

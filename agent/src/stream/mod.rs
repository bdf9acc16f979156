//! Consoles of this node's guests for the controller, over mutual TLS.
//!
//! ```text
//! our Lease:  address, certificate of this agent ─► the controller trusts exactly that certificate for this node
//! ConfigMap ovm-controller-ca: authorities        ─► a client certificate by one of them, or no handshake
//! GET /guests/NAMESPACE/NAME/UID/console          ─► 101, and from there on the guest's bytes; or a refusal in plain text
//! ```
//! Nothing of a request is looked at before the handshake has proved that the controller sends it. Whether a user may is the controller's to
//! decide; here it is only checked that this very VM runs on this node.

mod authority;
mod certificate;
mod connection;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use api::names::{AGENT_ADDRESS_ANNOTATION, AGENT_CERTIFICATE_ANNOTATION};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::consoles::Consoles;
use certificate::OwnCertificate;

/// Where the agent serves consoles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAddress {
    /// What it listens on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address at which the controller reaches it. The port is the one that it listens on.
    pub advertise: IpAddr,
}

/// Why no consoles can be served.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The address cannot be listened on.
    #[error("listen on {address}")]
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
    address: SocketAddr,
    certificate: OwnCertificate,
}

impl StreamServer {
    /// Binds the address and makes a certificate, which lives as long as the process.
    ///
    /// # Errors
    /// When either fails.
    pub(crate) async fn bind(at: StreamAddress) -> Result<Self, StreamError> {
        let failed = |source| StreamError::Listen { address: at.listen, source };
        let listener = TcpListener::bind(at.listen).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let certificate = OwnCertificate::make().map_err(StreamError::Certificate)?;
        Ok(Self { listener, address: SocketAddr::new(at.advertise, port), certificate })
    }

    /// What our Lease says of it.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        [
            (AGENT_ADDRESS_ANNOTATION, self.address.to_string()),
            (AGENT_CERTIFICATE_ANNOTATION, self.certificate.pem().to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self, client: Client, consoles: Consoles) {
        let (known, trusted) = watch::channel(None);
        tokio::join!(
            authority::follow(client, &self.certificate, known),
            connection::serve(&self.listener, trusted, consoles)
        );
    }
}

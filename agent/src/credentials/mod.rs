//! The client certificate of a joined agent: asked for, kept in one file, renewed before it ends, and changed under a running client.
//!
//! ```text
//! join ─► request ─► signed ─► pki/agent-current.pem (certificate and key, 0600, replaced as a whole)
//!                                   │
//! run ─► JoinedIdentity ◄───────────┘   renew: request ─► signed ─► file ─► ClientSwitch: new connections, the same client
//! ```

mod certificate;
mod identity;
mod renew;
mod request;
mod store;
mod switch;

pub use certificate::{CertificateError, ClientCertificate};
pub use identity::{IdentityFileError, JoinedIdentity};
pub(crate) use renew::Renewer;
pub use request::{RequestError, SigningRequest};
pub use store::CredentialStore;
pub(crate) use switch::ClientSwitch;

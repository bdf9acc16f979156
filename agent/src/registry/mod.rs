//! Reads image registries: <https://github.com/opencontainers/distribution-spec>.
//!
//! ```text
//! name ─► hosts.toml ─► endpoints (mirrors, then the registry) ─► resolve: digest ─► manifest of this architecture ─► blobs, resumed where they broke off
//! ```
//!
//! A registry, and whoever it redirects to, may be hostile: every answer has a limit, every blob a digest, and credentials go to the host that they were
//! given for and to nobody else. Nothing here knows disks, or writes files.

mod auth;
mod blob;
mod client;
mod credentials;
mod error;
mod hosts;
mod http;
mod manifest;

pub use blob::BlobStream;
pub use client::{Registry, Resolved};
pub use credentials::{Credentials, CredentialsError, PullSecrets};
pub use error::RegistryError;
pub use hosts::{DEFAULT_REGISTRIES_DIR, HostsError};
pub use manifest::{Descriptor, ImageManifest, ManifestError};

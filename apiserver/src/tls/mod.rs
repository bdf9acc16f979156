//! Certificates: an authority of our own, a server certificate and the administrator's client certificate.
//!
//! Made at first start below the data directory (keys 0600), renewed when they end soon, at a start and once a day, or at a start when the server
//! certificate does not fit the listen address. All keys are ECDSA P-256: made in under a millisecond. Keys and
//! certificates never appear in a log.

mod authority;
mod files;
mod kubeconfig;
mod leaf;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;

use crate::server::StartError;
use crate::signing::Signer;
use authority::Authority;
use leaf::{Leaf, Purpose};

/// Directory of keys and certificates in the data directory.
const DIRECTORY: &str = "pki";

/// Name of the administrator's kubeconfig in the data directory.
const KUBECONFIG: &str = "kubeconfig";

/// Name of the kubeconfig for a group.
const GROUP_KUBECONFIG: &str = "group.kubeconfig";

/// Keys and certificates of a server.
pub(crate) struct Identity {
    authority: Authority,
    server: Leaf,
    admin: Leaf,
    /// When they were looked at.
    at: OffsetDateTime,
}

/// The URL at which clients reach the server: by a name of its own, if it has one.
pub(crate) fn url(address: SocketAddr, name: Option<&str>) -> String {
    match name {
        Some(name) if name.contains(':') => format!("https://[{name}]:{}", address.port()),
        Some(name) => format!("https://{name}:{}", address.port()),
        None => format!("https://{}", kubeconfig::reachable(address)),
    }
}

/// A failed step with a key or certificate file.
fn failed(operation: &'static str, path: &Path) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Certificate { operation, path, source }
}

impl Identity {
    /// Reads keys and certificates; makes those that are missing, end soon or do not fit.
    /// `names`: names and addresses of the server, beside the loopback and the listen address.
    pub(crate) fn load_or_make(data_dir: &Path, listen: IpAddr, names: &[String]) -> Result<Self, StartError> {
        let directory = data_dir.join(DIRECTORY);
        files::make_directory(&directory)?;
        let authority = Authority::load_or_make(&directory)?;
        Self::of(authority, &directory, listen, names, OffsetDateTime::now_utc())
    }

    /// The same authority's certificates: made anew where they end soon after `at`.
    pub(crate) fn renewed(
        &self,
        data_dir: &Path,
        listen: IpAddr,
        names: &[String],
        at: OffsetDateTime,
    ) -> Result<Self, StartError> {
        Self::of(self.authority.clone(), &data_dir.join(DIRECTORY), listen, names, at)
    }

    fn of(
        authority: Authority,
        directory: &Path,
        listen: IpAddr,
        names: &[String],
        at: OffsetDateTime,
    ) -> Result<Self, StartError> {
        let purpose = Purpose::Server { listen, names: names.to_vec() };
        let server = Leaf::load_or_make(directory, &authority, &purpose, at)?;
        let admin = Leaf::load_or_make(directory, &authority, &Purpose::Admin, at)?;
        Ok(Self { authority, server, admin, at })
    }

    /// Whether both show clients the same certificate.
    pub(crate) fn shows_same(&self, other: &Self) -> bool {
        self.server.certificate_pem == other.server.certificate_pem
    }

    /// Writes the administrator's kubeconfig (0600), unless the one that is there leads here: it is the administrator's to edit.
    pub(crate) fn write_kubeconfig(&self, data_dir: &Path, address: SocketAddr) -> Result<PathBuf, StartError> {
        let path = data_dir.join(KUBECONFIG);
        let authority = self.authority.certificate_pem();
        let present = files::read_if_present(&path).ok().flatten();
        if !present.is_some_and(|text| kubeconfig::leads_here(&text, address, authority, &self.admin)) {
            files::write_private(&path, kubeconfig::render(address, authority, &self.admin).as_bytes())?;
        }
        Ok(path)
    }

    /// Writes a kubeconfig of an administrator for the members of a group (0640).
    pub(crate) fn write_group_kubeconfig(
        &self,
        data_dir: &Path,
        address: SocketAddr,
        group: u32,
    ) -> Result<(), StartError> {
        let member = Leaf::load_or_make(&data_dir.join(DIRECTORY), &self.authority, &Purpose::GroupMember, self.at)?;
        let text = kubeconfig::render(address, self.authority.certificate_pem(), &member);
        files::write_for_group(&data_dir.join(GROUP_KUBECONFIG), text.as_bytes(), group)
    }

    /// Takes back what [`Self::write_group_kubeconfig`] wrote. Copies that members made are good until their certificate ends.
    pub(crate) fn remove_group_kubeconfig(data_dir: &Path) -> Result<(), StartError> {
        files::remove(&data_dir.join(GROUP_KUBECONFIG))?;
        Leaf::remove(&data_dir.join(DIRECTORY), &Purpose::GroupMember)
    }

    /// The authority's certificate (PEM).
    pub(crate) fn authority_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Signs clients' certificates with the authority.
    pub(crate) fn signer(&self) -> Signer {
        Signer::new(self.authority.shared_issuer())
    }

    /// TLS for the listener. Clients without a certificate get as far as a 401; one of another authority fails the
    /// handshake.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, StartError> {
        let config = self.server_config().map_err(failed("use certificates of", Path::new(DIRECTORY)))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn server_config(&self) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate_pem().as_bytes())?)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        let certificate = CertificateDer::from_pem_slice(self.server.certificate_pem.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.server.key_pem.as_bytes())?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests;

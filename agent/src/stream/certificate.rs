//! The agent's own certificate: self-signed, made at each start, its key never written anywhere.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use api::names::AGENT_TLS_NAME;

/// Key and certificate of this process. Has no `Debug`: keys never reach a log.
pub(super) struct OwnCertificate {
    certificate: CertificateDer<'static>,
    pem: String,
    key: PrivatePkcs8KeyDer<'static>,
}

/// Why the authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("they are no PEM certificates")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("there is none")]
    None,
    #[error("they cannot be trusted")]
    Unusable(#[from] rustls::Error),
    #[error("they cannot be trusted")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl OwnCertificate {
    pub(super) fn make() -> Result<Self, rcgen::Error> {
        // No dates: whoever trusts it trusts exactly it, for as long as our Lease shows it.
        let mut params = CertificateParams::new([AGENT_TLS_NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, AGENT_TLS_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// TLS that shows this certificate, and takes only clients with one by an authority of `bundle` (PEM).
    ///
    /// # Errors
    /// When there is no usable authority.
    pub(super) fn server_config(&self, bundle: &str) -> Result<ServerConfig, AuthorityError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(authority.map_err(AuthorityError::Pem)?)?;
        }
        if roots.is_empty() {
            return Err(AuthorityError::None);
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

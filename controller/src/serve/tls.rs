//! TLS of the server, and towards agents.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::certificates::{Material, Pair};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A certificate or key is not what it should be.
    #[error("read certificate or key")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They do not fit.
    #[error("use certificate and key")]
    Use(#[from] rustls::Error),
}

/// What the server shows.
///
/// # Errors
/// When certificate and key cannot be used.
pub(crate) fn server_config(material: &Material) -> Result<ServerConfig, TlsError> {
    let (chain, key) = read(&material.serving)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyClient { algorithms: provider.signature_verification_algorithms });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client of one agent: it shows our client certificate, and trusts exactly the agent's own certificate.
///
/// # Errors
/// When a certificate or key cannot be used.
pub(crate) fn agent_client_config(client: &Pair, agent_certificate: &str) -> Result<ClientConfig, TlsError> {
    let (chain, key) = read(client)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(agent_certificate.as_bytes())?)?;
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}

fn read(pair: &Pair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes())?;
    Ok((vec![certificate], PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?))
}

/// Asks for a client certificate and takes any, or none: whom it stands for is decided for each request (`front_proxy`), by an authority that
/// may have changed since, and with an answer that says so. A client with a certificate must still prove that it has its key.
///
/// Webhook calls may come with a certificate of an authority that is none of our business, and must not fail for it.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The one crypto library.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

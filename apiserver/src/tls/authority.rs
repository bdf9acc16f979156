//! The certificate authority of an installation.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

use super::{failed, files, leaf};
use crate::server::StartError;

/// Lifetime: longer than any host.
const LIFETIME: Duration = Duration::days(365 * 20);

/// When less than this is left at a start, everything is made anew. Kubeconfigs copied elsewhere end with it.
const RENEW_WITHIN: Duration = Duration::days(365);

/// Signs the server's and the administrator's certificate.
#[derive(Clone)]
pub(super) struct Authority {
    issuer: Arc<Issuer<'static, KeyPair>>,
    certificate_pem: String,
}

impl Authority {
    pub(super) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn shared_issuer(&self) -> Arc<Issuer<'static, KeyPair>> {
        Arc::clone(&self.issuer)
    }

    /// Reads the authority, or makes one.
    pub(super) fn load_or_make(directory: &Path) -> Result<Self, StartError> {
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        let stored = files::read_if_present(&certificate_path)?.zip(files::read_if_present(&key_path)?);
        if let Some((certificate_pem, key_pem)) = stored {
            let read = || {
                let key = KeyPair::from_pem(&key_pem)?;
                Issuer::from_ca_cert_pem(&certificate_pem, key)
            };
            let issuer =
                read().map_err(|error| failed("read certificate authority", &certificate_path)(error.into()))?;
            let ends = leaf::ends(&certificate_pem);
            if ends.is_some_and(|ends| ends > OffsetDateTime::now_utc() + RENEW_WITHIN) {
                return Ok(Self { issuer: Arc::new(issuer), certificate_pem });
            }
        }
        let make = || {
            let key = KeyPair::generate()?;
            let params = params();
            let certificate_pem = params.self_signed(&key)?.pem();
            let key_pem = key.serialize_pem();
            Ok::<_, rcgen::Error>((Issuer::new(params, key), certificate_pem, key_pem))
        };
        let (issuer, certificate_pem, key_pem) =
            make().map_err(|error| failed("make certificate authority", &certificate_path)(error.into()))?;
        files::write_private(&key_path, key_pem.as_bytes())?;
        files::write_private(&certificate_path, certificate_pem.as_bytes())?;
        Ok(Self { issuer: Arc::new(issuer), certificate_pem })
    }
}

fn params() -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    // A name of its own for each authority: verifiers look issuers up by name.
    params.distinguished_name.push(DnType::CommonName, format!("ovm-ca-{}", uuid::Uuid::new_v4()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = now - leaf::CLOCK_SKEW;
    params.not_after = now + LIFETIME;
    params
}

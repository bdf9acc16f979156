//! A client certificate as a user: common name = user name, organizations = groups.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;

/// The user that a verified certificate names; `None` if it names nobody.
pub(crate) fn from_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<String> =
        subject.iter_organization().filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned).collect();
    Some(User::new(name, groups))
}

//! A client certificate as a user: common name = user name, organizations = groups.

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;

const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The user that a verified certificate names, and until when it does; `None` if it names nobody.
pub(crate) fn from_certificate(der: &CertificateDer<'_>) -> Option<(User, jiff::Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<String> =
        subject.iter_organization().filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned).collect();
    let mut user = User::new(name, groups);
    let digest: String = Sha256::digest(der)
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect();
    // As kube-apiserver has it: which of a user's certificates was shown.
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={digest}")]);
    let until = jiff::Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some((user, until))
}

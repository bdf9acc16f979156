//! A certificate and its key, in one PEM text as the kubelet has them.

use std::fmt;

use api::join::node_of_user;
use api::names::NODES_GROUP;
use jiff::Timestamp;
use rcgen::KeyPair;
use x509_parser::pem::Pem;

/// The label of a certificate in PEM.
const CERTIFICATE: &str = "CERTIFICATE";

/// A joined agent's certificate and key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and the authorities between it and the cluster's if there are any (PEM).
    pub certificates: String,
    /// The key (PEM, PKCS #8).
    pub key: String,
    /// The node that it makes its holder the agent of.
    pub node: String,
    /// From when it is good.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// A text that is no joined agent's certificate and key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no certificate in it, or none that can be read.
    #[error("there is no certificate in it that can be read")]
    NoCertificate,
    /// There is no key in it, or none that can be read.
    #[error("there is no key in it that can be read")]
    NoKey,
    /// Key and certificate do not belong together.
    #[error("its key is not that of its certificate")]
    NotAPair,
    /// It is somebody else's.
    #[error("it is the certificate of {0:?}, not of a joined agent")]
    OtherUser(String),
}

impl ClientCertificate {
    /// Reads both from one text.
    ///
    /// # Errors
    /// If it does not hold a joined agent's certificate, with its key.
    pub fn parse(text: &str) -> Result<Self, CertificateError> {
        let blocks: Vec<Pem> = Pem::iter_from_buffer(text.as_bytes()).filter_map(Result::ok).collect();
        let first = blocks.iter().find(|block| block.label == CERTIFICATE).ok_or(CertificateError::NoCertificate)?;
        let certificate = first.parse_x509().map_err(|_| CertificateError::NoCertificate)?;
        let key_text = section(text, |label| label.ends_with("PRIVATE KEY"));
        let key = KeyPair::from_pem(&key_text).map_err(|_| CertificateError::NoKey)?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CertificateError::NotAPair);
        }
        let subject = certificate.subject();
        let user = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        let is_node = subject.iter_organization().any(|group| group.as_str() == Ok(NODES_GROUP));
        let node =
            node_of_user(user).filter(|_| is_node).ok_or_else(|| CertificateError::OtherUser(user.to_owned()))?;
        let time = |seconds: i64| Timestamp::from_second(seconds).map_err(|_| CertificateError::NoCertificate);
        Ok(Self {
            certificates: section(text, |label| label == CERTIFICATE),
            key: key_text,
            node: node.to_owned(),
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
        })
    }

    /// Both as one text.
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.certificates, self.key)
    }
}

/// Without the key.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("node", &self.node)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The blocks of a PEM text whose label is wanted, as they are written.
fn section(text: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let mut inside = false;
    let mut out = String::new();
    for line in text.lines() {
        let label = |begin: &str| line.strip_prefix(begin).and_then(|rest| rest.strip_suffix("-----"));
        inside |= label("-----BEGIN ").is_some_and(&is_wanted);
        if inside {
            out.push_str(line);
            out.push('\n');
        }
        inside &= label("-----END ").is_none();
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType};

    use super::*;

    /// A certificate of this user and group, with its key. It signs itself.
    pub(in crate::credentials) fn pem(user: &str, group: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, user);
        format!("{}{}", params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn one_file_holds_both() {
        let read = ClientCertificate::parse(&pem("kubevirt.io:node:n1", NODES_GROUP)).unwrap();
        assert_eq!(read.node, "n1");
        assert!(read.not_before < read.not_after);
        assert_eq!(ClientCertificate::parse(&read.to_pem()), Ok(read.clone()));
        assert!(!read.certificates.contains("KEY") && !read.key.contains("CERTIFICATE"));
        assert!(!format!("{read:?}").contains("KEY"), "a log never holds the key");
    }

    #[test]
    fn what_is_not_a_joined_agent_s_is_refused() {
        let error = |text: &str| ClientCertificate::parse(text).unwrap_err();
        assert_eq!(error(""), CertificateError::NoCertificate);
        let one = pem("kubevirt.io:node:n1", NODES_GROUP);
        let without_key = one.split("-----BEGIN PRIVATE").next().unwrap();
        assert_eq!(error(without_key), CertificateError::NoKey);
        let other_key = KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(error(&format!("{without_key}{other_key}")), CertificateError::NotAPair);
        assert_eq!(error(&pem("admin", NODES_GROUP)), CertificateError::OtherUser("admin".to_owned()));
        assert!(matches!(error(&pem("kubevirt.io:node:n1", "system:masters")), CertificateError::OtherUser(_)));
    }
}

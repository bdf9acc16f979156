//! A signing request as `plan::cluster` looks at it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt as _;
use plan::cluster::{AskedCertificate, AskedKey, SigningRequest};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AttributeTypeAndValue, SubjectPublicKeyInfo};

/// How a request begins.
const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE REQUEST-----";

/// What a request says.
pub(super) fn facts(request: &CertificateSigningRequest, now: Timestamp) -> SigningRequest {
    let (spec, status) = (&request.spec, request.status.as_ref());
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let approved = conditions.iter().find(|condition| condition.type_ == "Approved");
    // A condition that does not say since when counts as new. The clock of who wrote it may be ahead of ours.
    let since = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
    SigningRequest {
        name: request.name_any(),
        signer: spec.signer_name.clone(),
        requestor: spec.username.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        usages: spec.usages.clone().unwrap_or_default(),
        asked: asked(&spec.request.0),
        approved_for: approved.map(|condition| since(condition.last_update_time.as_ref().map_or(now, |time| time.0))),
        is_settled: conditions.iter().any(|one| matches!(one.type_.as_str(), "Approved" | "Denied" | "Failed")),
    }
}

/// What the PKCS #10 request (PEM) asks for; none if it cannot be read. The signer checks that whoever asks has the key.
fn asked(pem: &[u8]) -> Option<AskedCertificate> {
    // Nothing may stand before or after it that a signer might read instead: readers of PEM differ there.
    if !pem.starts_with(PEM_BEGIN) {
        return None;
    }
    let (rest, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (trailing, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    if !rest.trim_ascii().is_empty() || !trailing.is_empty() {
        return None;
    }
    let info = &request.certification_request_info;
    let texts = |attributes: &mut dyn Iterator<Item = &AttributeTypeAndValue<'_>>| -> Option<Vec<String>> {
        attributes.map(|attribute| attribute.as_str().ok().map(str::to_owned)).collect()
    };
    let common_names = texts(&mut info.subject.iter_common_name())?;
    let organizations = texts(&mut info.subject.iter_organization())?;
    let parts = info.subject.iter_attributes().count();
    Some(AskedCertificate {
        has_more_in_subject: parts != common_names.len() + organizations.len(),
        common_names,
        organizations,
        has_extensions: !info.attributes().is_empty(),
        key: key(&info.subject_pki),
    })
}

fn key(info: &SubjectPublicKeyInfo<'_>) -> AskedKey {
    /// <https://datatracker.ietf.org/doc/html/rfc8410#section-3>
    const ED25519: &str = "1.3.101.112";
    if info.algorithm.algorithm.to_id_string() == ED25519 {
        return AskedKey::Curve;
    }
    match info.parsed() {
        Ok(PublicKey::EC(_)) => AskedKey::Curve,
        Ok(PublicKey::RSA(key)) => AskedKey::Rsa(key.key_size()),
        _ => AskedKey::Other,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn pem(change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "kubevirt.io:nodes");
        params.distinguished_name.push(DnType::CommonName, "kubevirt.io:node:n1");
        change(&mut params);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_is_read_whole() {
        let plain = asked(pem(|_| {}).as_bytes()).unwrap();
        let wanted = AskedCertificate {
            common_names: vec!["kubevirt.io:node:n1".to_owned()],
            organizations: vec!["kubevirt.io:nodes".to_owned()],
            key: AskedKey::Curve,
            ..AskedCertificate::default()
        };
        assert_eq!(plain, wanted);
        let more =
            asked(pem(|params| params.distinguished_name.push(DnType::LocalityName, "here")).as_bytes()).unwrap();
        assert!(more.has_more_in_subject);
        let name = SanType::DnsName("kubernetes".try_into().unwrap());
        let named = asked(pem(|params| params.subject_alt_names.push(name)).as_bytes()).unwrap();
        assert!(named.has_extensions);
        let is_authority = |params: &mut CertificateParams| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        };
        assert!(asked(pem(is_authority).as_bytes()).unwrap().has_extensions);
    }

    #[test]
    fn what_cannot_be_read_asks_for_nothing() {
        assert_eq!(asked(b""), None);
        assert_eq!(asked(format!("{}{}", pem(|_| {}), pem(|_| {})).as_bytes()), None, "two in one");
        let in_a_line = pem(|_| {}).replace('\n', "");
        assert_eq!(asked(format!("x{in_a_line}\n{}", pem(|_| {})).as_bytes()), None, "one before it");
    }
}

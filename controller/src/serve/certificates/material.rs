//! Keys and certificates as they are in the Secret, and what they say.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use super::plan::{AUTHORITY_LIFE, AuthorityFacts, CLOCK_SKEW, CertificateFacts, LEAF_LIFE, LeafFacts, Life, Step};
use api::names::{CA_KEY, CONTROLLER_NAME, SYSTEM_NAMESPACE};

/// Keys of the Secret beside [`CA_KEY`].
const AUTHORITY_KEY: &str = "ca.key";
const SERVING_CERTIFICATE: &str = "tls.crt";
const SERVING_KEY: &str = "tls.key";
const CLIENT_CERTIFICATE: &str = "client.crt";
const CLIENT_KEY: &str = "client.key";

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// All that the Secret holds. Has no `Debug`: keys never reach a log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Material {
    /// Certificates of the authorities to trust (PEM), the newest first.
    pub(crate) authorities: Vec<String>,
    authority_key: String,
    /// What the TLS server shows.
    pub(crate) serving: Pair,
    /// What agents are shown.
    pub(crate) client: Pair,
}

/// What a leaf is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serving,
    Client,
}

impl Material {
    /// Reads the Secret's data; `None` if something is missing or no text.
    pub(super) fn from_secret(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        let pair = |certificate, key| Some(Pair { certificate: text(certificate)?, key: text(key)? });
        Some(Self {
            authorities: split_pem(&text(CA_KEY)?)?,
            authority_key: text(AUTHORITY_KEY)?,
            serving: pair(SERVING_CERTIFICATE, SERVING_KEY)?,
            client: pair(CLIENT_CERTIFICATE, CLIENT_KEY)?,
        })
    }

    /// The Secret's data.
    pub(super) fn to_secret(&self) -> BTreeMap<String, ByteString> {
        let bundle = self.bundle();
        let entries = [
            (CA_KEY, &bundle),
            (AUTHORITY_KEY, &self.authority_key),
            (SERVING_CERTIFICATE, &self.serving.certificate),
            (SERVING_KEY, &self.serving.key),
            (CLIENT_CERTIFICATE, &self.client.certificate),
            (CLIENT_KEY, &self.client.key),
        ];
        entries.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).into()
    }

    /// The authorities' certificates, one after the other: what others are told to trust.
    pub(super) fn bundle(&self) -> String {
        self.authorities.concat()
    }

    /// What the certificates say; `None` if they cannot be used.
    pub(super) fn facts(&self) -> Option<CertificateFacts> {
        let (newest, older) = self.authorities.split_first()?;
        let (newest, older) =
            (authority_facts(newest)?, older.iter().map(|pem| authority_facts(pem)).collect::<Option<_>>()?);
        if !is_pair(self.authorities.first()?, &self.authority_key) {
            return None;
        }
        let leaves = [leaf_facts(&self.serving, Purpose::Serving)?, leaf_facts(&self.client, Purpose::Client)?];
        Some(CertificateFacts { newest, older, leaves })
    }

    /// What is there after a step; `before` is what was, if it could be used.
    ///
    /// # Errors
    /// When a key cannot be made or used.
    pub(super) fn after(step: &Step, before: Option<Self>, now: Timestamp) -> Result<Self, rcgen::Error> {
        match (step, before) {
            (Step::MakeEverything, _) | (_, None) => Self::make(now),
            (Step::AddAuthority, Some(mut material)) => {
                let added = make_authority(now)?;
                material.authorities.insert(0, added.certificate);
                material.authority_key = added.key;
                Ok(material)
            }
            (Step::IssueLeaves, Some(mut material)) => {
                let newest = material.authorities.first().cloned().unwrap_or_default();
                let issuer = Issuer::from_ca_cert_pem(&newest, KeyPair::from_pem(&material.authority_key)?)?;
                material.serving = make_leaf(now, Purpose::Serving, &issuer)?;
                material.client = make_leaf(now, Purpose::Client, &issuer)?;
                Ok(material)
            }
            (Step::ForgetAuthorities(names), Some(mut material)) => {
                let is_kept = |pem: &String| authority_facts(pem).is_some_and(|facts| !names.contains(&facts.name));
                material.authorities.retain(is_kept);
                Ok(material)
            }
        }
    }

    /// Everything new.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub(in crate::serve) fn make(now: Timestamp) -> Result<Self, rcgen::Error> {
        let authority = make_authority(now)?;
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
        Ok(Self {
            serving: make_leaf(now, Purpose::Serving, &issuer)?,
            client: make_leaf(now, Purpose::Client, &issuer)?,
            authorities: vec![authority.certificate],
            authority_key: authority.key,
        })
    }
}

impl Purpose {
    /// Names that the API server and whoever forwards a port know us by.
    fn names(self) -> Vec<String> {
        match self {
            Self::Client => Vec::new(),
            Self::Serving => vec![
                format!("{CONTROLLER_NAME}.{SYSTEM_NAMESPACE}.svc"),
                format!("{CONTROLLER_NAME}.{SYSTEM_NAMESPACE}.svc.cluster.local"),
                "localhost".to_owned(),
            ],
        }
    }

    fn usage(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Self::Serving => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

fn lives(params: &mut CertificateParams, life: Life) -> Result<(), rcgen::Error> {
    let at = |time: Timestamp| OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| rcgen::Error::Time);
    params.not_before = at(life.made.checked_sub(CLOCK_SKEW).unwrap_or(life.made))?;
    params.not_after = at(life.ends)?;
    Ok(())
}

fn make_authority(now: Timestamp) -> Result<Pair, rcgen::Error> {
    let mut params = CertificateParams::default();
    // A name of its own for each authority: verifiers look issuers up by name.
    params.distinguished_name.push(DnType::CommonName, format!("{CONTROLLER_NAME}-ca-{}", uuid::Uuid::new_v4()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    lives(&mut params, Life::starting(now, AUTHORITY_LIFE))?;
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn make_leaf(now: Timestamp, purpose: Purpose, issuer: &Issuer<'_, KeyPair>) -> Result<Pair, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, CONTROLLER_NAME);
    params.subject_alt_names =
        purpose.names().into_iter().map(|name| name.try_into().map(SanType::DnsName)).collect::<Result<_, _>>()?;
    if purpose == Purpose::Serving {
        params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose.usage()];
    params.use_authority_key_identifier_extension = true;
    lives(&mut params, Life::starting(now, LEAF_LIFE))?;
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.signed_by(&key, issuer)?.pem(), key: key.serialize_pem() })
}

/// Each certificate of a PEM text by itself; `None` if it is none.
fn split_pem(text: &str) -> Option<Vec<String>> {
    const END: &str = "-----END CERTIFICATE-----";
    let certificates: Vec<_> =
        text.split_inclusive(END).filter(|part| part.contains(END)).map(|part| format!("{}\n", part.trim())).collect();
    (!certificates.is_empty()).then_some(certificates)
}

/// Reads a certificate; `None` if it is none.
fn inspect<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
    let (_, pem): (_, Pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    look(&pem.parse_x509().ok()?)
}

fn life(certificate: &X509Certificate<'_>) -> Option<Life> {
    let validity = certificate.validity();
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some(Life { made: at(validity.not_before)?.checked_add(CLOCK_SKEW).ok()?, ends: at(validity.not_after)? })
}

fn authority_facts(pem: &str) -> Option<AuthorityFacts> {
    inspect(pem, |certificate| {
        Some(AuthorityFacts { name: certificate.subject().to_string(), life: life(certificate)? })
    })
}

fn leaf_facts(pair: &Pair, purpose: Purpose) -> Option<LeafFacts> {
    inspect(&pair.certificate, |certificate| {
        let names = certificate.subject_alternative_name().ok()?;
        let has = |wanted: &str| {
            names
                .iter()
                .flat_map(|found| &found.value.general_names)
                .any(|name| matches!(name, GeneralName::DNSName(name) if *name == wanted))
        };
        let fits = is_pair(&pair.certificate, &pair.key) && purpose.names().iter().all(|name| has(name));
        Some(LeafFacts { issuer: certificate.issuer().to_string(), life: life(certificate)?, fits })
    })
}

fn is_pair(certificate: &str, key: &str) -> bool {
    inspect(certificate, |certificate| {
        let key = KeyPair::from_pem(key).ok()?;
        Some(certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw())
    })
    .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_is_made_survives_the_secret_and_says_what_it_is() {
        let material = Material::after(&Step::MakeEverything, None, now()).unwrap();
        let read = Material::from_secret(&material.to_secret()).unwrap();
        assert!(read == material);
        let facts = read.facts().unwrap();
        assert_eq!(facts.newest.life, Life::starting(now(), AUTHORITY_LIFE));
        assert!(facts.older.is_empty());
        for leaf in facts.leaves {
            let (life, issuer) = (Life::starting(now(), LEAF_LIFE), facts.newest.name.clone());
            assert_eq!(leaf, LeafFacts { issuer, life, fits: true });
        }
    }

    #[test]
    fn a_rotation_keeps_the_old_authority_until_it_is_forgotten() {
        let first = Material::after(&Step::MakeEverything, None, now()).unwrap();
        let added = Material::after(&Step::AddAuthority, Some(first.clone()), now()).unwrap();
        let facts = added.facts().unwrap();
        let old = facts.older[0].name.clone();
        assert_ne!(facts.newest.name, old);
        assert!(facts.leaves.iter().all(|leaf| leaf.issuer == old), "the leaves stay");
        let issued = Material::after(&Step::IssueLeaves, Some(added), now()).unwrap();
        let facts = issued.facts().unwrap();
        assert!(facts.leaves.iter().all(|leaf| leaf.issuer == facts.newest.name && leaf.fits));
        assert_eq!(issued.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        let forgotten = Material::after(&Step::ForgetAuthorities(vec![old]), Some(issued), now()).unwrap();
        assert_eq!(forgotten.facts().unwrap(), CertificateFacts { older: Vec::new(), ..facts });
    }

    #[test]
    fn broken_material_says_nothing() {
        let material = Material::after(&Step::MakeEverything, None, now()).unwrap();
        let mut data = material.to_secret();
        data.remove(CLIENT_KEY);
        assert!(Material::from_secret(&data).is_none());
        let other = Material::after(&Step::MakeEverything, None, now()).unwrap();
        let swapped = Material { authority_key: other.authority_key.clone(), ..material.clone() };
        assert!(swapped.facts().is_none(), "a key that is not the authority's");
        let swapped = Material { serving: Pair { key: other.serving.key, ..material.serving.clone() }, ..material };
        assert!(!swapped.facts().unwrap().leaves[0].fits);
    }
}

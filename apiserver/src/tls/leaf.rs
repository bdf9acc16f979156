//! The server's and the administrator's certificate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::Authority;
use super::{failed, files};
use crate::auth::MASTERS;
use crate::server::StartError;

/// Clocks that are a little behind accept a fresh certificate.
pub(super) const CLOCK_SKEW: Duration = Duration::minutes(5);

/// Lifetime of a certificate.
const LIFETIME: Duration = Duration::days(365 * 2);

/// When less than this is left at a look, a certificate is made anew.
const RENEW_WITHIN: Duration = Duration::days(180);

/// Name of the administrator, as kubeadm has it.
const ADMIN_NAME: &str = "kubernetes-admin";

/// Name of whoever has the group's kubeconfig.
const GROUP_MEMBER_NAME: &str = "group-member";

/// What a certificate is for.
pub(super) enum Purpose {
    /// Proves the server to clients.
    Server {
        /// The address that clients will connect to.
        listen: IpAddr,
        /// Other names and addresses of it.
        names: Vec<String>,
    },
    /// Proves the administrator to the server.
    Admin,
    /// Proves a member of the group that administers the server.
    GroupMember,
}

/// A certificate and its key, as PEM.
pub(super) struct Leaf {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

impl Purpose {
    fn file_stem(&self) -> &'static str {
        match self {
            Self::Server { .. } => "server",
            Self::Admin => "admin",
            Self::GroupMember => "group",
        }
    }

    /// Names that clients may know the server by.
    fn alternative_names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let Self::Server { listen, names: others } = self else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let (others_addresses, other_names): (Vec<_>, Vec<_>) =
            others.iter().partition(|name| name.parse::<IpAddr>().is_ok());
        let own = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        for name in own.into_iter().chain(other_names.into_iter().map(String::as_str)) {
            names.push(SanType::DnsName(name.try_into()?));
        }
        let given = others_addresses.into_iter().filter_map(|address| address.parse().ok());
        for address in std::iter::once(*listen).chain(given) {
            if !addresses.contains(&address) && !address.is_unspecified() {
                addresses.push(address);
            }
        }
        names.extend(addresses.into_iter().map(SanType::IpAddress));
        Ok(names)
    }

    fn params(&self, now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        let name = match self {
            Self::Server { .. } => "ovm-apiserver",
            Self::Admin => ADMIN_NAME,
            Self::GroupMember => GROUP_MEMBER_NAME,
        };
        params.distinguished_name.push(DnType::CommonName, name);
        if matches!(self, Self::Admin | Self::GroupMember) {
            params.distinguished_name.push(DnType::OrganizationName, MASTERS);
        }
        params.extended_key_usages = vec![match self {
            Self::Server { .. } => ExtendedKeyUsagePurpose::ServerAuth,
            Self::Admin | Self::GroupMember => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = self.alternative_names()?;
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + LIFETIME;
        Ok(params)
    }
}

impl Leaf {
    /// Removes certificate and key, if they are there.
    pub(super) fn remove(directory: &Path, purpose: &Purpose) -> Result<(), StartError> {
        for ending in ["crt", "key"] {
            files::remove(&directory.join(format!("{}.{ending}", purpose.file_stem())))?;
        }
        Ok(())
    }

    /// Reads a certificate and its key; makes new ones if they are missing, end soon, are not of this authority, or do
    /// not name the listen address.
    pub(super) fn load_or_make(
        directory: &Path,
        authority: &Authority,
        purpose: &Purpose,
        now: OffsetDateTime,
    ) -> Result<Self, StartError> {
        let certificate_path = directory.join(format!("{}.crt", purpose.file_stem()));
        let key_path = directory.join(format!("{}.key", purpose.file_stem()));
        let stored = files::read_if_present(&certificate_path)?.zip(files::read_if_present(&key_path)?);
        if let Some((certificate_pem, key_pem)) = stored
            && is_usable(&certificate_pem, &key_pem, authority, purpose, now).unwrap_or(false)
        {
            return Ok(Self { certificate_pem, key_pem });
        }
        let make = || {
            let key = KeyPair::generate()?;
            let certificate = purpose.params(now)?.signed_by(&key, authority.issuer())?;
            Ok::<_, rcgen::Error>(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
        };
        let leaf = make().map_err(|error| failed("make certificate", &certificate_path)(error.into()))?;
        files::write_private(&key_path, leaf.key_pem.as_bytes())?;
        files::write_private(&certificate_path, leaf.certificate_pem.as_bytes())?;
        Ok(leaf)
    }
}

/// When a certificate ends; `None` if it cannot be read.
pub(super) fn ends(certificate_pem: &str) -> Option<OffsetDateTime> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(certificate.validity().not_after.to_datetime())
}

/// Whether a stored certificate still serves; `None` if it cannot be read.
fn is_usable(
    certificate_pem: &str,
    key_pem: &str,
    authority: &Authority,
    purpose: &Purpose,
    now: OffsetDateTime,
) -> Option<bool> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let (_, authority_pem) = x509_parser::pem::parse_x509_pem(authority.certificate_pem().as_bytes()).ok()?;
    let (_, issuer) = X509Certificate::from_der(&authority_pem.contents).ok()?;
    let key = KeyPair::from_pem(key_pem).ok()?;
    let is_pair = certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
    // The authority's name is its own, so a certificate of a former one shows.
    let is_ours = certificate.issuer() == issuer.subject();
    let lasts = certificate.validity().not_after.to_datetime() > now + RENEW_WITHIN;
    let names_all = match purpose {
        Purpose::Server { listen, names } => {
            (listen.is_unspecified() || names_address(&certificate, *listen))
                && names.iter().all(|name| match name.parse() {
                    Ok(address) => names_address(&certificate, address),
                    Err(_) => names_host(&certificate, name),
                })
        }
        Purpose::Admin | Purpose::GroupMember => true,
    };
    Some(is_pair && is_ours && lasts && names_all)
}

fn names_host(certificate: &X509Certificate<'_>, host: &str) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    names.into_iter().any(|name| matches!(name, GeneralName::DNSName(found) if *found == host))
}

fn names_address(certificate: &X509Certificate<'_>, address: IpAddr) -> bool {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    names.into_iter().any(|name| matches!(name, GeneralName::IPAddress(found) if *found == bytes.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_soon_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_make(directory.path()).unwrap();
        let write = |left: Duration| {
            let key = KeyPair::generate().unwrap();
            let mut params = Purpose::Admin.params(OffsetDateTime::now_utc()).unwrap();
            params.not_after = OffsetDateTime::now_utc() + left;
            let certificate = params.signed_by(&key, authority.issuer()).unwrap().pem();
            files::write_private(&directory.path().join("admin.crt"), certificate.as_bytes()).unwrap();
            files::write_private(&directory.path().join("admin.key"), key.serialize_pem().as_bytes()).unwrap();
            certificate
        };
        let load = || {
            Leaf::load_or_make(directory.path(), &authority, &Purpose::Admin, OffsetDateTime::now_utc())
                .unwrap()
                .certificate_pem
        };
        let lasting = write(RENEW_WITHIN + Duration::days(1));
        assert_eq!(load(), lasting);
        let ending = write(RENEW_WITHIN - Duration::days(1));
        let renewed = load();
        assert_ne!(renewed, ending);
        assert!(ends(&renewed).unwrap() > OffsetDateTime::now_utc() + RENEW_WITHIN);
        assert_eq!(load(), renewed, "and kept");
    }
}

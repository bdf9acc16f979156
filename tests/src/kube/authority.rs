//! A certificate authority for one cluster, and the certificates and kubeconfigs that it issues.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::{Value, json};

/// A certificate authority, with its files in one folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM, PKCS #8.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one, with its certificate in `ca.crt` of a folder that is there.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate().context("make the authority's key")?;
        let mut params = CertificateParams::new(Vec::new()).context("describe the authority")?;
        params.distinguished_name.push(DnType::CommonName, "test-authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let signed = params.self_signed(&key).context("sign the authority's certificate")?;
        let certificate = folder.join("ca.crt");
        fs::write(&certificate, signed.pem()).context("write the authority's certificate")?;
        fs::write(folder.join("ca.key"), key.serialize_pem()).context("write the authority's key")?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), certificate })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Its key.
    pub fn key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    /// Issues a certificate for servers at these names and addresses, and for the user `user` of `groups` as a client.
    ///
    /// # Errors
    /// When a name is none, or the files cannot be written.
    pub fn issue(&self, file: &str, user: &str, groups: &[&str], names: &[&str]) -> Result<Certificate> {
        let key = KeyPair::generate().with_context(|| format!("make the key of {user}"))?;
        let mut params = CertificateParams::new(Vec::new()).with_context(|| format!("describe {user}"))?;
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().with_context(|| format!("use the name {name}"))?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&key, &self.issuer).with_context(|| format!("sign the certificate of {user}"))?;
        let issued = Certificate {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        };
        fs::write(&issued.certificate, signed.pem()).with_context(|| format!("write the certificate of {user}"))?;
        fs::write(&issued.key, key.serialize_pem()).with_context(|| format!("write the key of {user}"))?;
        Ok(issued)
    }

    /// Makes a key that signs service accounts' tokens.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_token_key(&self) -> Result<Certificate> {
        let key = KeyPair::generate().context("make the key of tokens")?;
        let files = Certificate { certificate: self.folder.join("tokens.pub"), key: self.folder.join("tokens.key") };
        fs::write(&files.key, key.serialize_pem()).context("write the key of tokens")?;
        fs::write(&files.certificate, key.public_key_pem()).context("write the public key of tokens")?;
        Ok(files)
    }

    /// Writes a kubeconfig with everything in it, for a client with a certificate.
    ///
    /// # Errors
    /// When the certificate cannot be read, or the file not written.
    pub fn write_kubeconfig(&self, file: &Path, server: &str, client: &Certificate) -> Result<()> {
        let user = json!({
            "client-certificate-data": encoded(&client.certificate)?,
            "client-key-data": encoded(&client.key)?,
        });
        self.write_kubeconfig_of(file, server, &user)
    }

    /// Writes a kubeconfig for a client that reads its token from a file, again and again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_token_file_kubeconfig(&self, file: &Path, server: &str, token: &Path) -> Result<()> {
        self.write_kubeconfig_of(file, server, &json!({ "tokenFile": token }))
    }

    /// Writes a kubeconfig with everything in it, for a client with a token.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_token_kubeconfig(&self, file: &Path, server: &str, token: &str) -> Result<()> {
        self.write_kubeconfig_of(file, server, &json!({ "token": token }))
    }

    fn write_kubeconfig_of(&self, file: &Path, server: &str, user: &Value) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": encoded(&self.certificate)?}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
            "current-context": "test",
        });
        fs::write(file, config.to_string()).with_context(|| format!("write {}", file.display()))
    }
}

fn encoded(file: &Path) -> Result<String> {
    fs::read(file).map(|bytes| STANDARD.encode(bytes)).with_context(|| format!("read {}", file.display()))
}

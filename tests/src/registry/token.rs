//! Who gives tokens for a registry: <https://distribution.github.io/distribution/spec/auth/token/>.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SigningKey as _};
use serde_json::{Value, json};

use super::hostile::{HostileRegistry, Reply};
use super::{PASSWORD, USER};

/// Whom tokens are for.
pub(super) const SERVICE: &str = "registry.test";
/// Who makes them.
pub(super) const ISSUER: &str = "tokens.test";
const PATH: &str = "/token";
const VALID_SECONDS: u64 = 3600;
/// Of each of the two numbers of a signature with P-256.
const NUMBER_BYTES: usize = 32;

/// Gives tokens to [`USER`], by HTTP on loopback.
#[derive(Debug)]
pub struct TokenServer {
    server: HostileRegistry,
    key: KeyPair,
    certificate: Vec<u8>,
}

impl TokenServer {
    /// Starts one, and writes the certificate by which registries know its tokens to `authority`.
    ///
    /// # Errors
    /// When it cannot listen, or the file cannot be written.
    pub(super) fn start(authority: &Path) -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new()).context("make a certificate")?;
        parameters.distinguished_name.push(DnType::CommonName, ISSUER);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("make a key")?;
        let certificate = parameters.self_signed(&key).context("sign a certificate")?;
        std::fs::write(authority, certificate.pem()).context("write the certificate")?;
        Ok(Self { server: HostileRegistry::start()?, key, certificate: certificate.der().to_vec() })
    }

    /// Where it is asked.
    pub(super) fn realm(&self) -> String {
        format!("http://{}{PATH}", self.server.host())
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.server.host()
    }

    /// From now on gives who shows the password a token to pull from this repository.
    ///
    /// # Errors
    /// When the token cannot be signed.
    pub(super) fn let_pull(&self, repository: &str) -> Result<()> {
        let token = self.token(repository, &["pull"])?;
        let basic = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let reply = Reply::ok(json!({ "token": token }).to_string().into_bytes());
        self.server.reply(PATH, Reply { authorization: Some(format!("Basic {basic}")), ..reply });
        Ok(())
    }

    /// Queries that it was asked with the password, oldest first.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.server.asked().into_iter().filter(|asked| asked.authorization.is_some());
        asked.map(|asked| asked.query).collect()
    }

    /// A token for this.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub(super) fn token(&self, repository: &str, actions: &[&str]) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)] });
        let claims = json!({
            "iss": ISSUER, "sub": USER, "aud": SERVICE, "jti": "1",
            "iat": now, "nbf": now - VALID_SECONDS, "exp": now + VALID_SECONDS,
            "access": [{ "type": "repository", "name": repository, "actions": actions }],
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(signed.as_bytes()).context("sign a token")?;
        let numbers = two_numbers(&signature).context("a signature has two numbers")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(numbers)))
    }
}

/// What a signature in ASN.1 holds: a token has its two numbers side by side.
fn two_numbers(der: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der.get(2..)?;
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let [2, length, bytes @ ..] = rest else { return None };
        let (number, after) = bytes.split_at_checked(usize::from(*length))?;
        // One too long has a zero for its sign, and one too short had zeros.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        numbers.resize(numbers.len() + NUMBER_BYTES.checked_sub(number.len())?, 0);
        numbers.extend_from_slice(number);
        rest = after;
    }
    Some(numbers)
}

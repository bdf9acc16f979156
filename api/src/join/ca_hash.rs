//! The hash by which a certificate authority is known before it is trusted: SHA-256 of its public key (SubjectPublicKeyInfo), as kubeadm has it.
//! A certificate that is renewed with its key has the same.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use x509_parser::pem::Pem;

const PREFIX: &str = "sha256:";

/// SHA-256 of an authority's SubjectPublicKeyInfo, in DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaHash([u8; 32]);

/// A text that is no such hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no hash of a certificate authority: write sha256: and 64 hexadecimal digits, as `virtctl token create` prints it"
)]
pub struct CaHashError(String);

/// A text that holds no certificates, or a broken one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is none in it.
    #[error("there is no certificate in it")]
    Empty,
    /// One cannot be read.
    #[error("certificate {number} of it cannot be read: {message}")]
    Broken {
        /// The first one is 1.
        number: usize,
        /// What the parser said.
        message: String,
    },
}

/// The hashes of all certificates of a bundle (PEM), in its order.
///
/// # Errors
/// If there is none, or one cannot be read.
pub fn ca_hashes(bundle: &str) -> Result<Vec<CaHash>, PemError> {
    let hash = |(index, pem): (usize, Result<Pem, x509_parser::error::PEMError>)| {
        let broken = |message: String| PemError::Broken { number: index + 1, message };
        let pem = pem.map_err(|error| broken(error.to_string()))?;
        let certificate = pem.parse_x509().map_err(|error| broken(error.to_string()))?;
        Ok(CaHash(Sha256::digest(certificate.public_key().raw).into()))
    };
    let hashes: Vec<CaHash> =
        Pem::iter_from_buffer(bundle.as_bytes()).enumerate().map(hash).collect::<Result<_, PemError>>()?;
    if hashes.is_empty() { Err(PemError::Empty) } else { Ok(hashes) }
}

impl FromStr for CaHash {
    type Err = CaHashError;

    fn from_str(text: &str) -> Result<Self, CaHashError> {
        let wrong = || CaHashError(text.to_owned());
        let digits =
            text.strip_prefix(PREFIX).filter(|digits| digits.len() == 64 && digits.is_ascii()).ok_or_else(wrong)?;
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(index * 2..index * 2 + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 36500`; the hash by
    /// `openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | sha256sum`, which is what kubeadm's documentation gives.
    const CERTIFICATE: &str = include_str!("test-ca.crt");
    const HASH: &str = "sha256:455a1b96fb23fb1d3777ccaddaf4d94875a68d486622dae348102fa458fb3959";

    #[test]
    fn the_hash_is_kubeadms() {
        let hashes = ca_hashes(&format!("{CERTIFICATE}{CERTIFICATE}")).unwrap();
        assert_eq!(hashes.iter().map(ToString::to_string).collect::<Vec<_>>(), [HASH, HASH]);
        assert_eq!(HASH.parse::<CaHash>().unwrap(), hashes[0]);
    }

    #[test]
    fn what_is_no_certificate_or_no_hash_is_said() {
        assert_eq!(ca_hashes("nothing"), Err(PemError::Empty));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(ca_hashes(broken), Err(PemError::Broken { number: 1, .. })));
        for text in ["", "sha256:", &HASH[7..], &HASH.replace("sha256", "md5"), &format!("{HASH}0"), "sha256:zz"] {
            assert!(text.parse::<CaHash>().is_err(), "{text}");
        }
    }
}

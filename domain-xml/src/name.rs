//! The name of a guest's libvirt domain.
//!
//! libvirt makes file names of it (`/etc/libvirt/qemu/NAME.xml`, logs), so nothing that could leave a directory may be in it, and a define fails
//! from 253 bytes on.

use std::fmt;

use sha2::{Digest, Sha256};

/// Longest name that is used as it is, in bytes: well below the 253 at which libvirt fails, since it appends suffixes of its own.
const MAX_BYTES: usize = 200;
/// Bytes of the hash at the end of a cut name, in hex: 128 bits, so that two names do not meet.
const HASH_HEX_BYTES: usize = 32;

/// Name of a guest's libvirt domain: `<namespace>_<name>`, at most 200 bytes of `[A-Za-z0-9._-]`.
///
/// A pair that is longer, or has other characters (no object of the API has), is cut, cleaned and made unique again by a hash after a second `_`.
/// DNS names have no `_`, so a hashed name never equals a plain one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

impl DomainName {
    /// The name of the domain of VirtualMachine `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        let plain = format!("{namespace}_{name}");
        if plain.len() <= MAX_BYTES && is_plain(namespace) && is_plain(name) {
            Self(plain)
        } else {
            Self(make_hashed(&plain))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for DomainName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Whether a part is a DNS name in form: what the API server lets through.
fn is_plain(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphanumeric())
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

fn make_hashed(plain: &str) -> String {
    use fmt::Write as _;

    let mut hashed: String = plain
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' })
        .take(MAX_BYTES - HASH_HEX_BYTES - 1)
        .collect();
    if !hashed.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        hashed.replace_range(..1, "x");
    }
    hashed.push('_');
    for byte in Sha256::digest(plain).iter().take(HASH_HEX_BYTES / 2) {
        let _ = write!(hashed, "{byte:02x}"); // writing to a String cannot fail
    }
    hashed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_namespace_and_name() {
        assert_eq!(DomainName::new("default", "ovm-cirros").as_str(), "default_ovm-cirros");
        assert_eq!(DomainName::new("a", "b.c").as_str(), "a_b.c");
    }

    #[test]
    fn names_past_the_limit_are_cut_and_stay_apart() {
        let fits = DomainName::new("ns", &"x".repeat(197));
        assert_eq!(fits.as_str().len(), 200);
        let (one, other) = (format!("{}a", "x".repeat(220)), format!("{}b", "x".repeat(220)));
        let (one, other) = (DomainName::new("ns", &one), DomainName::new("ns", &other));
        assert_eq!(one.as_str().len(), 200);
        assert_ne!(one, other);
        assert!(one.as_str().starts_with("ns_xxx"));
    }

    #[test]
    fn a_hashed_name_is_never_a_plain_one() {
        let hashed = DomainName::new("ns", &"x".repeat(220));
        assert_eq!(hashed.as_str().matches('_').count(), 2);
        let posing = hashed.as_str().strip_prefix("ns_").expect("starts with its namespace");
        assert_ne!(DomainName::new("ns", posing), hashed);
    }

    proptest! {
        #[test]
        fn any_pair_gives_a_name_that_is_safe_in_a_path(namespace in any::<String>(), name in any::<String>()) {
            let domain = DomainName::new(&namespace, &name);
            prop_assert!(domain.as_str().len() <= MAX_BYTES);
            prop_assert!(domain.as_str().chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)));
            prop_assert!(domain.as_str().starts_with(|c: char| c.is_ascii_alphanumeric()));
        }
    }
}

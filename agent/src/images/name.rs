//! Names of images, as `registryDisk.image` writes them, and when two of them mean the same.
//!
//! The grammar is the one of container image references (<https://github.com/distribution/reference>): `[HOST/]PATH[:TAG][@DIGEST]`, where a
//! missing host is `docker.io`, a `docker.io` path of one part lies under `library/`, and a missing tag is `latest`.

use std::fmt;
use std::str::FromStr;

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// The limit of the reference grammar for host and path together.
const MAX_NAME_BYTES: usize = 255;
/// The limit of the reference grammar for a tag.
const MAX_TAG_BYTES: usize = 128;
const SHA256_HEX_DIGITS: usize = 64;

/// The name of an image: as the user wrote it, and in the full form by which names are compared.
#[derive(Clone, Debug)]
pub struct ImageName {
    given: String,
    full: String,
}

/// Why a text is no name of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image name {name:?}: {rule}")]
pub struct ImageNameError {
    /// The text.
    pub name: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl ImageName {
    /// The name as the user wrote it.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// The registry's host, with its port if the name gives one, such as `docker.io`.
    pub fn host(&self) -> &str {
        self.full.split_once('/').map_or(DEFAULT_HOST, |(host, _)| host)
    }

    /// The repository in that registry, such as `library/debian`.
    pub fn repository(&self) -> &str {
        self.parts().0
    }

    /// Registry and repository, such as `docker.io/library/debian`: what one server answers for.
    pub fn source(&self) -> &str {
        self.full.strip_suffix(self.reference()).map_or(&*self.full, |source| source.trim_end_matches([':', '@']))
    }

    /// The tag, or the digest with `sha256:`.
    pub fn reference(&self) -> &str {
        self.parts().1
    }

    /// Whether the name means whatever was published last: Kubernetes asks the registry at each start for these.
    pub fn is_floating(&self) -> bool {
        self.reference() == DEFAULT_TAG
    }

    fn parts(&self) -> (&str, &str) {
        let rest = self.full.split_once('/').map_or("", |(_, rest)| rest);
        // The full form always has one of the two, and a path has neither character.
        rest.split_once('@').or_else(|| rest.split_once(':')).unwrap_or((rest, DEFAULT_TAG))
    }

    /// The full form, such as `docker.io/library/debian:latest`. Two names are the same image if their full forms are equal.
    pub fn full(&self) -> &str {
        &self.full
    }
}

impl PartialEq for ImageName {
    fn eq(&self, other: &Self) -> bool {
        self.full == other.full
    }
}

impl Eq for ImageName {}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        full_form(text)
            .map(|full| Self { given: text.to_owned(), full })
            .map_err(|rule| ImageNameError { name: text.to_owned(), rule })
    }
}

fn full_form(text: &str) -> Result<String, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to the host's port.
    let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[last_slash..].find(':') {
        Some(at) => (&rest[..last_slash + at], Some(&rest[last_slash + at + 1..])),
        None => (rest, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path),
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    let path = if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };

    if !is_host(host) {
        return Err("the registry's host must be a DNS name or address, with an optional port");
    }
    if !path.split('/').all(is_path_part) {
        return Err(
            "each part of the path must be lower-case letters and digits, separated by '.', '_', '__' or dashes",
        );
    }
    if host.len() + 1 + path.len() > MAX_NAME_BYTES {
        return Err("host and path must not exceed 255 bytes");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag must be at most 128 letters, digits, '_', '.' and '-', and not start with '.' or '-'");
    }
    match digest {
        Some(digest) if is_sha256(digest) => Ok(format!("{host}/{path}@{digest}")),
        Some(_) => Err("a digest must be 'sha256:' and 64 lower-case hexadecimal digits"),
        None => Ok(format!("{host}/{path}:{}", tag.unwrap_or(DEFAULT_TAG))),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // The last colon of a bare IPv6 address lies within the brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let name_is_good = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    name_is_good && port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_path_part(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_are_good =
        bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends_are_good && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_sha256(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == SHA256_HEX_DIGITS && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_forms() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (given, full) in [
            ("debian", "docker.io/library/debian:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("index.docker.io/library/debian:12", "docker.io/library/debian:12"),
            ("kubevirt/cirros-registry-disk-demo:latest", "docker.io/kubevirt/cirros-registry-disk-demo:latest"),
            ("kubevirt/cirros-registry-disk-demo", "docker.io/kubevirt/cirros-registry-disk-demo:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("quay.io/a/b/c:V1.2-x_y", "quay.io/a/b/c:V1.2-x_y"),
            ("[fd00::1]:5000/a", "[fd00::1]:5000/a:latest"),
            ("[fd00::1]/a", "[fd00::1]/a:latest"),
            ("a/b__c--d.e_f", "docker.io/a/b__c--d.e_f:latest"),
            (&format!("a/b@{digest}"), &format!("docker.io/a/b@{digest}")),
            (&format!("a/b:tag@{digest}"), &format!("docker.io/a/b@{digest}")),
        ] {
            let name: ImageName = given.parse().unwrap();
            assert_eq!((name.given(), name.full()), (given, full));
            assert_eq!(format!("{}/{}", name.host(), name.repository()), name.source());
            let at = if full.contains('@') { '@' } else { ':' };
            assert_eq!(format!("{}{at}{}", name.source(), name.reference()), full);
        }
    }

    #[test]
    fn refused() {
        let long = format!("a/{}", "b".repeat(255));
        let long_tag = format!("a:{}", "b".repeat(129));
        for given in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A/b",
            "a:",
            "a:.x",
            "a:-x",
            "a b",
            "a\nb",
            "../etc",
            "a/../b",
            "a/.b",
            "a/b-",
            "a__-b",
            "a___b",
            "quay.io/",
            "-x.io/a",
            "host:70000/a",
            "host:+5/a",
            "host:/a",
            "a@sha256:00",
            "a@",
            "a@md5:0",
            "[zz]/a",
            "ü",
            "a:ü",
            "<a>",
            "a'b",
            &long,
            &long_tag,
        ] {
            assert!(given.parse::<ImageName>().is_err(), "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic_and_full_forms_are_fixed_points(text in "[a-z0-9.:/@_-]{0,40}|\\PC{0,20}") {
            if let Ok(name) = text.parse::<ImageName>() {
                let again: ImageName = name.full().parse().unwrap();
                prop_assert_eq!(again.full(), name.full());
                prop_assert!(name.full().is_ascii());
            }
        }
    }
}

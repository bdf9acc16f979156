//! The `format`s that a real server checks in CRD schemas; all others are ignored, as there. Not built: book, bank card and
//! insurance numbers, colours as `rgb()`, BSON ids and UUIDs of one version.
//!
//! List: <https://pkg.go.dev/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1#JSONSchemaProps>.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

/// A format with a check behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Int32,
    Int64,
    Float,
    Double,
    Byte,
    Cidr,
    Date,
    DateTime,
    Duration,
    Email,
    HexColor,
    Hostname,
    Ipv4,
    Ipv6,
    Mac,
    Uri,
    Uuid,
    ShortName,
    LongName,
}

impl Format {
    /// The format of a schema of type `kind`, or nothing where the server would ignore it.
    pub(crate) fn parse(kind: Option<&str>, format: Option<&str>) -> Option<Self> {
        let format = format?;
        match kind {
            Some("integer") => [Self::Int32, Self::Int64].into_iter().find(|f| f.name() == format),
            Some("number") => [Self::Float, Self::Double].into_iter().find(|f| f.name() == format),
            None | Some("" | "string") => Some(match format.replace('-', "").as_str() {
                "byte" => Self::Byte,
                "cidr" => Self::Cidr,
                "date" => Self::Date,
                "datetime" => Self::DateTime,
                "duration" => Self::Duration,
                "email" => Self::Email,
                "hexcolor" => Self::HexColor,
                "hostname" => Self::Hostname,
                "ipv4" => Self::Ipv4,
                "ipv6" => Self::Ipv6,
                "mac" => Self::Mac,
                "uri" => Self::Uri,
                "uuid" => Self::Uuid,
                "k8sshortname" => Self::ShortName,
                "k8slongname" => Self::LongName,
                _ => return None,
            }),
            Some(_) => None,
        }
    }

    /// The name as errors print it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float => "float",
            Self::Double => "double",
            Self::Byte => "byte",
            Self::Cidr => "cidr",
            Self::Date => "date",
            Self::DateTime => "date-time",
            Self::Duration => "duration",
            Self::Email => "email",
            Self::HexColor => "hexcolor",
            Self::Hostname => "hostname",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Mac => "mac",
            Self::Uri => "uri",
            Self::Uuid => "uuid",
            Self::ShortName => "k8s-short-name",
            Self::LongName => "k8s-long-name",
        }
    }

    /// Whether `text` is of this format. Numeric formats say nothing about text.
    pub(crate) fn admits(self, text: &str) -> bool {
        match self {
            Self::Int32 | Self::Int64 | Self::Float | Self::Double => true,
            Self::Byte => {
                !text.is_empty() && base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok()
            }
            Self::Cidr => is_cidr(text),
            Self::Date => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
            Self::DateTime => text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok(),
            Self::Duration => DURATION.is_match(text),
            Self::Email => EMAIL.is_match(text),
            Self::HexColor => HEX_COLOR.is_match(text),
            Self::Hostname => is_hostname(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Mac => MAC.is_match(text),
            Self::Uri => text.starts_with('/') || URI.is_match(text),
            Self::Uuid => UUID.is_match(text),
            Self::ShortName => super::names::is_dns_label(text),
            Self::LongName => super::names::is_dns_subdomain(text),
        }
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let Ok(prefix) = prefix.parse::<u8>() else { return false };
    (address.parse::<Ipv4Addr>().is_ok() && prefix <= 32) || (address.parse::<Ipv6Addr>().is_ok() && prefix <= 128)
}

/// As strfmt has it: a lone label takes a hyphen only as its second character, a last label is letters only.
fn is_hostname(text: &str) -> bool {
    let is_word = |c: char| c.is_alphabetic() || c.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(is_word) && label.ends_with(is_word) && label.chars().all(|c| is_word(c) || c == '-')
    };
    if text.len() > 255 || text.split('.').any(|label| label.len() > 63) {
        return false;
    }
    match text.rsplit_once('.') {
        None => {
            let mut chars = text.chars();
            let first = chars.next();
            let rest = chars.as_str();
            first.is_some_and(is_word) && rest.strip_prefix('-').unwrap_or(rest).chars().all(is_word)
        }
        Some((domain, top)) => {
            domain.split('.').all(is_label) && top.chars().count() >= 2 && top.chars().all(char::is_alphabetic)
        }
    }
}

fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant that tests compile")
}

/// A Go duration, or the Scala form: any number with a unit, somewhere in the text.
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"^[+-]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$",
        r"|(?i:\d+\s*((ns|us|µs|ms|s|m|h|hr|d|w|wk)([^a-zµ]|$)|nano|micro|milli|sec|min|hour|day|week))",
    ))
});
/// An address, with or without a name before it.
static EMAIL: LazyLock<Regex> = LazyLock::new(|| fixed(r"^([^<>]*<[^\s@<>]+@[^\s@<>]+>|[^\s@<>]+@[^\s@<>]+)$"));
static HEX_COLOR: LazyLock<Regex> = LazyLock::new(|| fixed(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static MAC: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"^(([0-9a-fA-F]{2}:){5}([0-9a-fA-F]{2}:){0,14}[0-9a-fA-F]{2}|([0-9a-fA-F]{2}-){5}[0-9a-fA-F]{2}|([0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4})$",
    )
});
static URI: LazyLock<Regex> = LazyLock::new(|| fixed(r"^[a-zA-Z][a-zA-Z0-9+.-]*:[^\s\x00-\x1f]+$"));
static UUID: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_admit_what_they_name() {
        let table = [
            (Format::Byte, "aGk=", "aGk"),
            (Format::Cidr, "10.0.0.0/8", "10.0.0.0/33"),
            (Format::Date, "2026-11-22", "2026-13-22"),
            (Format::DateTime, "2026-11-22T15:00:00Z", "2026-11-22"),
            (Format::Duration, "1h30m", "soon"),
            (Format::Email, "a@b", "a"),
            (Format::HexColor, "#ffF", "#ff"),
            (Format::Hostname, "b-c.org", "a.b-c"),
            (Format::Ipv4, "1.2.3.4", "1.2.3"),
            (Format::Ipv6, "::1", "1.2.3.4"),
            (Format::Mac, "52:54:00:12:34:56", "52:54:00"),
            (Format::Uri, "https://a/b", "a b"),
            (Format::Uuid, "5d307ca9-b3ef-428c-8861-06e72d69f223", "5d307ca9"),
            (Format::ShortName, "abc-1", "a.b"),
            (Format::LongName, "a.b", "A.b"),
        ];
        for (format, good, bad) in table {
            assert!(format.admits(good), "{} {good}", format.name());
            assert!(!format.admits(bad), "{} {bad}", format.name());
        }
    }

    #[test]
    fn unknown_formats_are_ignored() {
        assert_eq!(Format::parse(Some("string"), Some("fancy")), None);
        assert_eq!(Format::parse(Some("object"), Some("date-time")), None);
        assert_eq!(Format::parse(Some("string"), Some("date-time")), Some(Format::DateTime));
    }
}

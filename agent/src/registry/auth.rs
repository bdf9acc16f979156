//! How a registry wants to be shown who asks: `WWW-Authenticate`, and the token that stands for it.
//!
//! Protocol: <https://distribution.github.io/distribution/spec/auth/token/>.

use std::collections::BTreeMap;

use ::http::header::WWW_AUTHENTICATE;
use ::http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use url::Url;

/// Tokens of large registries have some ten KiB.
pub(super) const MAX_TOKEN_BYTES: u64 = 256 << 10;

/// What a registry wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from this address.
    Bearer { realm: Url },
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// The challenge of a 401, for the right to pull from `repository`; a token is preferred. Only that right is asked for, whatever the registry names.
pub(super) fn challenge(headers: &HeaderMap, repository: &str) -> Option<Challenge> {
    let challenges: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .filter_map(|header| parse(header, repository))
        .collect();
    let is_bearer = |challenge: &Challenge| matches!(challenge, Challenge::Bearer { .. });
    let at = challenges.iter().position(is_bearer).unwrap_or(0);
    challenges.into_iter().nth(at)
}

fn parse(header: &str, repository: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters(rest);
    let mut realm = Url::parse(parameters.get("realm")?).ok()?;
    if !matches!(realm.scheme(), "http" | "https") || !realm.username().is_empty() || realm.password().is_some() {
        return None;
    }
    {
        let mut query = realm.query_pairs_mut();
        if let Some(service) = parameters.get("service") {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{repository}:pull"));
    }
    Some(Challenge::Bearer { realm })
}

/// `key="value",key=value`, where a quoted value may hold commas.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').map_or((after, ""), |(value, next)| (value.trim(), next)),
        };
        found.insert(key.trim().trim_start_matches(',').trim().to_ascii_lowercase(), value.to_owned());
        rest = next.trim_start().trim_start_matches(',');
    }
    found
}

/// The header for the token that a realm answered with.
pub(super) fn bearer(answer: &[u8]) -> Option<HeaderValue> {
    let Token { token, access_token } = serde_json::from_slice(answer).ok()?;
    let token = if token.is_empty() { access_token } else { token };
    if token.is_empty() {
        return None;
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, header.parse().unwrap());
        }
        challenge(&map, "a/b")
    }

    #[test]
    fn a_token_is_asked_for_where_the_registry_says_and_for_pulling_alone() {
        let realm = |url: &str| Some(Challenge::Bearer { realm: Url::parse(url).unwrap() });
        let pull = "scope=repository%3Aa%2Fb%3Apull";
        assert_eq!(
            ask(&[r#"Bearer realm="https://auth.io/token",service="reg, one",scope="repository:other:push""#]),
            realm(&format!("https://auth.io/token?service=reg%2C+one&{pull}"))
        );
        assert_eq!(
            ask(&["Basic realm=x", r#"bearer realm="https://auth.io/t?x=1""#]),
            realm(&format!("https://auth.io/t?x=1&{pull}"))
        );
        assert_eq!(ask(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        for header in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer realm=",
            "Bearer realm=\"file:///etc\"",
            "Bearer realm=\"https://u:p@h/\"",
        ] {
            assert_eq!(ask(&[header]), None, "{header}");
        }
    }

    #[test]
    fn i7_a_token_is_sensitive() {
        let header = bearer(br#"{"token": "t0ken"}"#).unwrap();
        assert_eq!((header.to_str().unwrap(), format!("{header:?}").as_str()), ("Bearer t0ken", "Sensitive"));
        assert_eq!(bearer(br#"{"access_token": "b"}"#).unwrap(), "Bearer b");
        assert!(bearer(b"{}").is_none() && bearer(b"x").is_none() && bearer(br#"{"token": "a\nb"}"#).is_none());
    }
}

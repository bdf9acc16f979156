//! Bootstrap tokens: Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`, shown as `Authorization: Bearer ID.SECRET`.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>. Looked up with each request: a token that is deleted ends at once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use serde_json::Value;

use super::User;
use crate::object::Object;
use crate::store::{Key, Store};

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of everybody who shows one.
const GROUP: &str = "system:bootstrappers";
/// What the groups that a token adds begin with.
const GROUP_PREFIX: &str = "system:bootstrappers:";

/// The user whose token the request shows; none if it shows none that is good.
pub(crate) async fn from_bearer(headers: &HeaderMap, store: &Store) -> Option<User> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    let (id, secret) = shown.split_once('.').filter(|(id, secret)| is_part(id, 6) && is_part(secret, 16))?;
    let name = format!("bootstrap-token-{id}");
    let key = Key { resource: "secrets".into(), namespace: NAMESPACE.to_owned(), name };
    let stored = store.get(&key).await.ok()??;
    user(Object::parse(&stored.json).ok()?.value(), id, secret, jiff::Timestamp::now())
}

fn is_part(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Whom a Secret makes of somebody who shows this.
fn user(stored: &Value, id: &str, secret: &str, now: jiff::Timestamp) -> Option<User> {
    let field = |key: &str| -> Option<String> {
        let bytes = STANDARD.decode(stored["data"].get(key)?.as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let lasts = match field("expiration") {
        None => true,
        // A time that cannot be read is over.
        Some(text) => text.parse::<jiff::Timestamp>().is_ok_and(|end| now < end),
    };
    let is_good = stored["type"] == SECRET_TYPE
        && field("token-id").as_deref() == Some(id)
        && field("token-secret").is_some_and(|expected| is_same(expected.as_bytes(), secret.as_bytes()))
        && field("usage-bootstrap-authentication").as_deref() == Some("true")
        && lasts;
    if !is_good {
        return None;
    }
    let extra = field("auth-extra-groups").unwrap_or_default();
    let extra = extra.split(',').filter(|group| group.starts_with(GROUP_PREFIX)).map(str::to_owned);
    Some(User::new(format!("system:bootstrap:{id}"), [GROUP.to_owned()].into_iter().chain(extra)))
}

/// Takes the same time wherever the difference is.
fn is_same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (left, right)| sum | (left ^ right)) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(change: impl FnOnce(&mut Value)) -> Value {
        let mut plain = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": "2026-01-01T00:00:00Z",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:x,system:masters",
        });
        change(&mut plain);
        let data: serde_json::Map<String, Value> = plain
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.clone(), json!(STANDARD.encode(value.as_str().unwrap()))))
            .collect();
        json!({"type": SECRET_TYPE, "data": data})
    }

    #[test]
    fn a_token_is_good_for_what_its_secret_says() {
        let before: jiff::Timestamp = "2025-12-31T00:00:00Z".parse().unwrap();
        let show = |stored: &Value, shown: &str, now| user(stored, "abcdef", shown, now);
        let plain = secret(|_| {});
        let found = show(&plain, "0123456789abcdef", before).unwrap();
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert_eq!(
            found.groups,
            ["system:bootstrappers", "system:bootstrappers:x", "system:authenticated"],
            "and no other"
        );
        assert_eq!(show(&plain, "0123456789abcdeF", before), None);
        assert_eq!(show(&plain, "0123456789abcdef", "2026-01-01T00:00:00Z".parse().unwrap()), None, "expired");
        for (key, value) in
            [("usage-bootstrap-authentication", "false"), ("expiration", "soon"), ("token-id", "other0")]
        {
            let changed = secret(|data| data[key] = json!(value));
            assert_eq!(show(&changed, "0123456789abcdef", before), None, "{key}={value}");
        }
        let mut opaque = secret(|_| {});
        opaque["type"] = json!("Opaque");
        assert_eq!(show(&opaque, "0123456789abcdef", before), None);
    }
}

//! `Impersonate-*` headers: whoever may do everything may act as somebody else (`kubectl --as`). A header that cannot be honoured refuses the request:
//! passed over, it would run with all the rights that its sender wanted to leave aside.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use crate::status::ApiError;

/// What all the headers begin with, as the HTTP library writes names.
const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
/// What the names of the others begin with; the rest is a key.
const EXTRA_PREFIX: &str = "impersonate-extra-";
/// Who a service account is, beside its name `system:serviceaccount:NAMESPACE:NAME`.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// As whom a request is to be answered: `user`, or the one that the headers name, which are taken out.
///
/// # Errors
/// 403 if headers name somebody and `user` may not do everything; 400 if they say something of nobody, or cannot be read.
pub(crate) fn acting_user(user: User, headers: &mut HeaderMap) -> Result<User, ApiError> {
    let names: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    if names.is_empty() {
        return Ok(user);
    }
    let mut said: Vec<(String, String)> = Vec::new();
    for name in &names {
        for value in headers.get_all(name) {
            let value = std::str::from_utf8(value.as_bytes())
                .map_err(|_| ApiError::bad_request(format!("header {name} is not UTF-8")))?;
            said.push((name.as_str().to_owned(), value.to_owned()));
        }
    }
    let of = |wanted: &'static str| said.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value.clone());
    let Some(name) = of(USER).next().filter(|name| !name.is_empty()) else {
        return Err(ApiError::bad_request(format!("requested {} without impersonating a user", names_of(&names))));
    };
    if let Some(unknown) = names.iter().map(HeaderName::as_str).find(|name| !is_known(name)) {
        return Err(ApiError::bad_request(format!("header {unknown} is not known here")));
    }
    if !user.is_master() {
        if user.is_anonymous() {
            return Err(ApiError::unauthorized());
        }
        let why = format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::forbidden("", "users", &name, &why));
    }
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    for (header, value) in &said {
        if let Some(key) = header.strip_prefix(EXTRA_PREFIX) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(value.clone());
        }
    }
    for name in names {
        headers.remove(name);
    }
    let groups = groups(&name, of(GROUP).collect());
    let uid = of(UID).next().unwrap_or_default();
    tracing::info!(user = user.name, acts_as = name, ?groups, "impersonation");
    Ok(User { name, groups, uid, extra })
}

fn is_known(header: &str) -> bool {
    matches!(header, USER | GROUP | UID) || header.starts_with(EXTRA_PREFIX)
}

fn names_of(names: &[HeaderName]) -> String {
    names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ")
}

/// The groups of whom a request names, given those that it lists.
fn groups(name: &str, mut groups: Vec<String>) -> Vec<String> {
    let namespace = name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
    if let Some((namespace, _)) = namespace.filter(|_| groups.is_empty()) {
        groups = vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
    }
    let has = |wanted: &str| groups.iter().any(|group| group == wanted);
    let everybody = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !has(UNAUTHENTICATED) && !has(everybody) {
        groups.push(everybody.to_owned());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(user: User, headers: &[(&'static str, &'static str)]) -> Result<(User, usize), (u16, String)> {
        let mut map = HeaderMap::new();
        map.append("accept", "application/json".parse().unwrap());
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let user = acting_user(user, &mut map).map_err(|error| (error.code.as_u16(), error.message))?;
        Ok((user, map.len()))
    }

    #[test]
    fn masters_become_whom_they_name() {
        let (user, left) = act(
            User::system("admin"),
            &[
                ("impersonate-user", "jane"),
                ("impersonate-group", "a"),
                ("impersonate-group", "b"),
                ("impersonate-uid", "7"),
                ("impersonate-extra-acme.com%2fproject", "x"),
                ("impersonate-extra-acme.com%2fproject", "y"),
            ],
        )
        .unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str(), left), ("jane", "7", 1));
        assert_eq!(user.groups, ["a", "b", AUTHENTICATED]);
        assert_eq!(user.extra["acme.com/project"], ["x", "y"]);
        for (name, groups) in [
            ("jane", vec![AUTHENTICATED]),
            (ANONYMOUS, vec![UNAUTHENTICATED]),
            ("system:serviceaccount:ns:sa", vec![SERVICE_ACCOUNTS, "system:serviceaccounts:ns", AUTHENTICATED]),
        ] {
            let (user, _) = act(User::system("admin"), &[("impersonate-user", name)]).unwrap();
            assert_eq!(user.groups, groups, "{name}");
            assert!(!user.is_master());
        }
    }

    #[test]
    fn what_cannot_be_honoured_refuses_the_request() {
        let guest = || User::new("guest", ["kubevirt.io:nodes".to_owned()]);
        let (code, message) = act(guest(), &[("impersonate-user", "jane")]).unwrap_err();
        assert_eq!(code, 403);
        assert_eq!(
            message,
            "users \"jane\" is forbidden: User \"guest\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
        );
        assert_eq!(act(User::anonymous(), &[("impersonate-user", "jane")]).unwrap_err().0, 401);
        for headers in [
            [("impersonate-group", "a")],
            [("impersonate-uid", "a")],
            [("impersonate-extra-a", "a")],
            [("impersonate-user", "")],
        ] {
            let (code, message) = act(User::system("admin"), &headers).unwrap_err();
            assert!(code == 400 && message.ends_with("without impersonating a user"), "{message}");
        }
        let unknown = [("impersonate-user", "jane"), ("impersonate-rank", "high")];
        assert_eq!(act(User::system("admin"), &unknown).unwrap_err().0, 400);
        assert_eq!(act(guest(), &[]).unwrap(), (guest(), 1));
    }
}

//! Who asks: users, and how a client certificate or a bootstrap token names one.
//!
//! Whoever this server's certificate authority vouches for as `system:masters` may do everything, everybody else what the
//! [access rules](crate::AccessRules) say.

mod bootstrap_token;
mod certificate;
mod impersonation;

use std::collections::BTreeMap;

pub(crate) use bootstrap_token::from_bearer;
pub(crate) use certificate::from_certificate;
pub(crate) use impersonation::acting_user;

/// An authenticated user. Every request that reaches a mounted router carries it as a request extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User name: a client certificate's common name, or the name that the embedding program chose.
    pub name: String,
    /// Groups: a client certificate's organizations, and `system:authenticated`.
    pub groups: Vec<String>,
    /// An identifier that is the user's alone; empty: none is known.
    pub uid: String,
    /// What else is known, by name: `authentication.kubernetes.io/credential-id` of a client certificate.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// The group of every user that has proved who it is.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// Name and group of whoever does not say who it is.
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

impl User {
    /// A user of the given groups; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, uid: String::new(), extra: BTreeMap::new() }
    }

    /// Whoever does not say who it is.
    pub(crate) fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            uid: String::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Whether the user has not said who it is.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// A part of the embedding program, e.g. `system:ovm-controller`: may do everything.
    pub fn system(name: impl Into<String>) -> Self {
        Self::new(name, [MASTERS.to_owned()])
    }

    /// The user as `UserInfo` of reviews and policies.
    pub(crate) fn info(&self) -> serde_json::Value {
        let mut info = serde_json::json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = serde_json::json!(self.extra);
        }
        info
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

//! Who asks: users, and how a client certificate names one.
//!
//! There is no role-based access control yet: whoever this server's certificate authority vouches for as
//! `system:masters` may do everything, everybody else nothing.

mod certificate;

pub(crate) use certificate::from_certificate;

/// An authenticated user. Every request that reaches a mounted router carries it as a request extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User name: a client certificate's common name, or the name that the embedding program chose.
    pub name: String,
    /// Groups: a client certificate's organizations, and `system:authenticated`.
    pub groups: Vec<String>,
}

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// The group of every user that has proved who it is.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

impl User {
    /// A user of the given groups; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups }
    }

    /// A part of the embedding program, e.g. `system:ovm-controller`: may do everything.
    pub fn system(name: impl Into<String>) -> Self {
        Self::new(name, [MASTERS.to_owned()])
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

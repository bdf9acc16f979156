//! What a host that joins and the cluster that it joins have to agree on: bootstrap tokens, user names, the hash of an authority's key.

mod ca_hash;
mod token;

pub use ca_hash::{CaHash, CaHashError, PemError, ca_hashes};
pub use token::{BootstrapToken, TokenError};

use crate::names::{LEADER_LEASE, NODE_USER_PREFIX};

/// Longest name of a node: it is the value of a label.
const LONGEST_NAME: usize = 63;

/// Why a name is none for a node that joins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeNameError {
    /// It breaks Kubernetes' rules.
    #[error(
        "node name {0:?} is not usable: write at most 63 lower case letters, digits, - and ., beginning and ending with a letter or digit"
    )]
    Form(String),
    /// Its Lease would be the one that controllers are elected by.
    #[error("node name {0:?} is not usable: the controllers' Lease has it; choose another")]
    Reserved(String),
}

/// User name of the joined agent of a node.
pub fn node_user(node: &str) -> String {
    format!("{NODE_USER_PREFIX}{node}")
}

/// The node whose joined agent a user is; none if the user is no joined agent.
pub fn node_of_user(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_USER_PREFIX).filter(|node| check_node_name(node).is_ok())
}

/// Whether a host may join under a name: a DNS subdomain that is short enough for a label.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_node_name(name: &str) -> Result<(), NodeNameError> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.into_iter().all(|end| end.copied().is_some_and(is_inner))
            && bytes.iter().all(|byte| is_inner(*byte) || *byte == b'-')
    };
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        return Err(NodeNameError::Form(name.to_owned()));
    }
    if name == LEADER_LEASE {
        return Err(NodeNameError::Reserved(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_names_a_node_or_none() {
        assert_eq!(node_of_user(&node_user("n1.example.com")), Some("n1.example.com"));
        for user in ["admin", "system:node:n1", "kubevirt.io:node:", "kubevirt.io:node:a:b", "kubevirt.io:node:A"] {
            assert_eq!(node_of_user(user), None, "{user}");
        }
    }

    #[test]
    fn names_are_kubernetes_and_not_the_controllers() {
        for name in ["n1", "a.b-c.d", &"a".repeat(63)] {
            assert_eq!(check_node_name(name), Ok(()), "{name}");
        }
        for name in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a/b", "a:b", &"a".repeat(64)] {
            assert_eq!(check_node_name(name), Err(NodeNameError::Form(name.to_owned())), "{name}");
        }
        assert!(matches!(check_node_name("ovm-controller"), Err(NodeNameError::Reserved(_))));
    }
}

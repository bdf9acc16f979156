//! Why a host does not join. Each says what to do.

use std::path::PathBuf;

use api::join::NodeNameError;

use super::cluster_info::ClusterInfoError;
use crate::credentials::RequestError;
use crate::hostfs::FileError;

/// Why a host does not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The address is none.
    #[error("--server {0:?} is no address of an API server: write https://HOST:PORT")]
    Server(String),
    /// The host has no name.
    #[error("the host's name is not known: give --node-name NAME")]
    NoName,
    /// The name cannot be a node's.
    #[error("give another --node-name")]
    NodeName(#[from] NodeNameError),
    /// It has joined, and its certificate is good.
    #[error(
        "this host has joined already, as node {node}, with a certificate that is good until {until} ({}); to join anew: ovm-agent leave",
        kubeconfig.display()
    )]
    AlreadyJoined {
        /// Its node.
        node: String,
        /// Its kubeconfig.
        kubeconfig: PathBuf,
        /// End of its certificate.
        until: jiff::Timestamp,
    },
    /// Nobody answers, or not by TLS, or with a certificate of another authority.
    #[error("reach the API server at {server}")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// It does not show who it is.
    #[error(
        "{server} shows no ConfigMap kube-public/cluster-info, by which it is known ({message}); `virtctl token create` makes it where it is missing"
    )]
    NoClusterInfo {
        /// Its address.
        server: String,
        /// What it said.
        message: String,
    },
    /// What it shows is of no use.
    #[error("ConfigMap kube-public/cluster-info")]
    ClusterInfo {
        /// What is wrong with it.
        #[source]
        source: ClusterInfoError,
    },
    /// It is another cluster, or somebody in between.
    #[error(
        "{server} is not the cluster that is meant: its certificate authority has hash {found}, and --ca-hash is {wanted}; nothing was sent to it"
    )]
    WrongHash {
        /// Its address.
        server: String,
        /// Hashes of its authorities.
        found: String,
        /// Hashes that were given.
        wanted: String,
    },
    /// The token is not good.
    #[error(
        "bootstrap token {id} is not known to the cluster ({message}): it is used up, expired or deleted; make another with `virtctl token create`"
    )]
    Token {
        /// Its id.
        id: String,
        /// What the API server said.
        message: String,
    },
    /// No certificate came.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A path cannot be made absolute.
    #[error("find {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The unit was not started or stopped.
    #[error("systemctl {arguments}: {message}")]
    Systemctl {
        /// What was asked.
        arguments: String,
        /// What it said.
        message: String,
    },
    /// Nobody reads what was done.
    #[error("print what was done")]
    Print(#[source] std::io::Error),
}

//! What keeps the controller from starting, and how errors are printed.

use api::chain;

use thiserror::Error;

/// What keeps the controller from starting.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// The API server did not give an object that the controller needs.
    #[error("read {what} from the API server")]
    Read {
        /// The object.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// Our namespace could not be made.
    #[error("create namespace {name}")]
    EnsureNamespace {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The namespace `kube-system` has a UID that is none.
    #[error("namespace kube-system has uid {uid:?}, which is no UUID: cannot tell which cluster this is")]
    ClusterUid {
        /// The UID.
        uid: String,
    },
}

/// What the API server said, without the dump of its Status object; else the chain of causes.
pub(crate) fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

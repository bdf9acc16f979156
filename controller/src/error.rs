//! What keeps the controller from starting, and how errors are printed.

use api::chain;

use telemetry::ListenError;
use thiserror::Error;

/// What keeps the controller from starting. An API server that is away does not.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// Metrics were asked for at an address that cannot be had.
    #[error(transparent)]
    Metrics(#[from] ListenError),
}

/// What the API server said, without the dump of its Status object; else the chain of causes.
pub(crate) fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

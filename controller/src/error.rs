//! What keeps the controller from starting, and how errors are printed.

use std::error::Error;
use std::fmt::Write as _;

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

/// An error and its causes in one line. A cause whose text is part of what is there already is not repeated, and only the first line of each is
/// taken: parsers add drawings of their input.
pub fn chain(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        let line = cause_text.lines().next().unwrap_or_default();
        if !text.contains(line) {
            let separator = if text.is_empty() { "" } else { ": " };
            // Writing into a String cannot fail.
            let _ = write!(text, "{separator}{line}");
        }
        next = cause.source();
    }
    text
}

/// What the API server said, without the dump of its Status object; else the chain of causes.
pub(crate) fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Error)]
    #[error("outer: {source}")]
    struct Repeats {
        source: Inner,
    }

    #[derive(Debug, Error)]
    #[error("inner\n  ^ drawing")]
    struct Inner(#[source] std::fmt::Error);

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        let error = Repeats { source: Inner(std::fmt::Error) };
        assert_eq!(chain(&error), format!("outer: inner: {}", std::fmt::Error));
    }
}

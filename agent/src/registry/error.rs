//! What can go wrong between this node and a registry.

use super::hosts::HostsError;
use super::manifest::ManifestError;
use crate::images::Digest;

/// Why a registry was of no help.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The configuration of this registry cannot be used.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// No connection, or one that broke.
    #[error("registry {registry} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What the network said.
        why: String,
    },
    /// The registry, or who stands in for it, has trouble of its own.
    #[error("registry {registry} answered {status} to {what}")]
    Trouble {
        /// Host and port.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
    },
    /// There is no such thing.
    #[error("registry {registry} has no {what}")]
    Missing {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The caller may not have it.
    #[error("registry {registry} refuses {what} {}", if *.with_credentials { "with the credentials of the pull secret; correct the secret" } else { "without credentials; name a secret of type kubernetes.io/dockerconfigjson in registryDisk.imagePullSecret" })]
    Denied {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// A redirect that is not followed.
    #[error("registry {registry} redirects {what} to {target}: {rule}")]
    Redirect {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// Scheme and host of the target.
        target: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// An answer that breaks the protocol.
    #[error("registry {registry}: {rule}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// The manifest is no image of a disk.
    #[error("registry {registry}: {what}")]
    Manifest {
        /// Host and port.
        registry: String,
        /// Which manifest.
        what: String,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The bytes are not those that the digest stands for.
    #[error("registry {registry} serves other bytes than {expected} stands for: they have {found}")]
    DigestMismatch {
        /// Host and port.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
}

impl RegistryError {
    /// One word for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Hosts(_) => "RegistryConfigInvalid",
            Self::Unreachable { .. } | Self::Trouble { .. } => "ErrImagePull",
            Self::Missing { .. } => "ErrImageNotFound",
            Self::Denied { .. } => "ErrImageDenied",
            Self::Redirect { .. } | Self::Protocol { .. } | Self::Manifest { .. } | Self::DigestMismatch { .. } => {
                "ErrImageInvalid"
            }
        }
    }

    /// Whether the same call may well succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Trouble { .. })
    }
}

//! What the agent reads and writes in the API, always uncached. Every write carries what it depends on, so that a late one fails.

mod kube_objects;

use std::collections::{BTreeMap, BTreeSet};

use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use futures::future::BoxFuture;
use plan::node::{GuestKey, NodeView};
use uuid::Uuid;

pub use kube_objects::KubeObjects;
pub(crate) use kube_objects::within;

/// Why the API was of no help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// What the write depends on has changed: read again.
    #[error("{operation}: the object has changed")]
    Conflict {
        /// What was asked.
        operation: &'static str,
    },
    /// There is no such object, or its kind is not served.
    #[error("{operation}: not found")]
    Missing {
        /// What was asked.
        operation: &'static str,
    },
    /// The API refused.
    #[error("{operation}: {message}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The API's words.
        message: String,
    },
    /// No answer, or one that proves nothing.
    #[error("{operation}: {message}")]
    Away {
        /// What was asked.
        operation: &'static str,
        /// What is known of the cause.
        message: String,
    },
}

/// The objects of one guest.
pub trait GuestObjects: Send + Sync + 'static {
    /// The VirtualMachine. None only for a 404 while the kind is served.
    fn read_vm<'a>(&'a self, key: &'a GuestKey) -> BoxFuture<'a, Result<Option<VirtualMachine>, ApiError>>;

    /// The OfflineVirtualMachine. None only for a 404 while the kind is served.
    fn read_ovm<'a>(&'a self, key: &'a GuestKey) -> BoxFuture<'a, Result<Option<OfflineVirtualMachine>, ApiError>>;

    /// Replaces the status; the object's resourceVersion and UID are the precondition. Returns the object as it is now.
    fn write_status<'a>(&'a self, vm: &'a VirtualMachine) -> BoxFuture<'a, Result<VirtualMachine, ApiError>>;

    /// Takes our finalizer off this VM; its resourceVersion and UID are the precondition.
    fn drop_finalizer<'a>(&'a self, vm: &'a VirtualMachine) -> BoxFuture<'a, Result<(), ApiError>>;

    /// Sets label `kubevirt.io/nodeName` on this VM; its UID is the precondition.
    fn label_node<'a>(
        &'a self,
        vm: &'a VirtualMachine,
        node: &'a str,
    ) -> BoxFuture<'a, Result<VirtualMachine, ApiError>>;

    /// Sets `status.placement.released` (E4); UID and resourceVersion are the precondition.
    fn release_placement<'a>(
        &'a self,
        key: &'a GuestKey,
        ovm_uid: &'a str,
        resource_version: &'a str,
    ) -> BoxFuture<'a, Result<(), ApiError>>;
}

/// The objects of this node.
pub trait NodeObjects: Send + Sync + 'static {
    /// Renews our Lease (S4, and the heartbeat).
    fn renew_lease(&self) -> BoxFuture<'_, Result<(), ApiError>>;

    /// Reads the Node.
    fn read_node(&self) -> BoxFuture<'_, NodeView>;

    /// The guests whose placement names this node and is not released (E4).
    fn list_unreleased(&self) -> BoxFuture<'_, Result<Vec<GuestKey>, ApiError>>;

    /// UIDs of all VirtualMachines.
    fn list_vm_uids(&self) -> BoxFuture<'_, Result<BTreeSet<String>, ApiError>>;
}

/// Where user data comes from that the spec only names. Agents have no right to Secrets: the controller reads them.
pub trait UserDataSource: Send + Sync + 'static {
    /// Key `userdata` of the Secrets that this VM names, by the Secret's name. A Secret that is missing, or has no such key, is left out.
    fn read_user_data<'a>(
        &'a self,
        key: &'a GuestKey,
        uid: Uuid,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Vec<u8>>, ApiError>>;

    /// Key `.dockerconfigjson` of the pull secrets that this VM names, likewise.
    fn read_pull_secrets<'a>(
        &'a self,
        key: &'a GuestKey,
        uid: Uuid,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Vec<u8>>, ApiError>>;
}

impl ApiError {
    /// One word for conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "Conflict",
            Self::Missing { .. } => "NotFound",
            Self::Refused { .. } => "ApiRefused",
            Self::Away { .. } => "ApiAway",
        }
    }
}

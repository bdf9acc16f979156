//! What all workers of a node share.

use std::path::PathBuf;
use std::sync::Arc;

use events::{EventType, Notice, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::Notify;

use super::{GuardBoard, HostStop, NodeIdentity, ProcBoard, VmCache};
use crate::guest::GuestDisks;
use crate::hypervisor::{Capabilities, Hypervisor};
use crate::journal::Journal;
use crate::metrics::Telemetry;
use crate::objects::{GuestObjects, NodeObjects};

/// What all workers of a node share.
pub(crate) struct NodeContext {
    /// The node's name.
    pub(crate) node: String,
    pub(crate) identity: NodeIdentity,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) capabilities: Capabilities,
    pub(crate) guests: Arc<dyn GuestObjects>,
    pub(crate) node_objects: Arc<dyn NodeObjects>,
    pub(crate) disks: Arc<dyn GuestDisks>,
    pub(crate) journal: Journal,
    pub(crate) recorder: Recorder,
    pub(crate) telemetry: Telemetry,
    pub(crate) vms: VmCache,
    pub(crate) guard: GuardBoard,
    /// Where the host's processes are shown: /proc, or a mount of the host's.
    pub(crate) proc_dir: PathBuf,
    /// Whether what is shown there may be believed.
    pub(crate) processes: ProcBoard,
    /// Whether the host is shutting down.
    pub(crate) host_stop: Arc<HostStop>,
    /// Rung for a pass over all guests.
    pub(crate) pass_wanted: Notify,
    /// Told of each guest that was started.
    pub(crate) started: Notify,
}

impl NodeContext {
    /// Tells the administrator something about the node.
    pub(crate) fn warn_on_node(&self, reason: &str, message: &str) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            // As kubelets do: `kubectl describe node` looks for it.
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.recorder.record(Notice { about, type_: EventType::Warning, reason, message });
    }

    /// Asks for a pass over all guests, soon.
    pub(crate) fn request_pass(&self) {
        self.pass_wanted.notify_one();
    }
}

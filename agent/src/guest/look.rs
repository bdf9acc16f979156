//! Looks beyond libvirt and the watch: uncached reads of the API, and /proc. Made only where a plan asked for one, in the order that the rules want.

use std::sync::Arc;

use api::v1alpha1::VirtualMachine;
use plan::node::{GuestKey, Look, OvmFacts, OvmView, ProcLook, StartCheck};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use crate::node::NodeContext;
use crate::objects::ApiError;
use crate::proc::{self, look_for_qemu};
use api::chain;

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The VM as just read, and what that means.
    pub(super) vm: Option<Result<Option<Arc<VirtualMachine>>, ApiError>>,
    pub(super) start_check: Option<StartCheck>,
    /// When a look for a start began: before the Lease was renewed.
    pub(super) begun: Option<Instant>,
    pub(super) ovm: OvmView,
    pub(super) proc: ProcLook,
    /// VMs with files here; none if no look was made.
    pub(super) files: Option<Result<Vec<Uuid>, String>>,
}

/// Who looks: apart from the worker, so that it can look while the worker executes.
#[derive(Clone)]
pub(super) struct Looker {
    pub(super) context: Arc<NodeContext>,
    pub(super) key: GuestKey,
    pub(super) domain_name: String,
}

impl Looker {
    /// Makes the look that a plan asked for.
    pub(super) async fn read(&self, look: Look, uuids: Vec<Uuid>) -> Reads {
        match look {
            Look::Start => {
                let begun = Some(Instant::now());
                // S4: the Lease first, then Node and VM; S5: /proc after them.
                let lease = self.context.node_objects.renew_lease().await.map_err(|error| error.to_string());
                let (node, vm) =
                    tokio::join!(self.context.node_objects.read_node(), self.context.guests.read_vm(&self.key));
                let (proc, files) = tokio::join!(self.look_for_process(uuids), self.list_files());
                Reads {
                    vm: Some(shared(vm)),
                    start_check: Some(StartCheck { lease, node }),
                    begun,
                    ovm: OvmView::Unknown,
                    proc,
                    files,
                }
            }
            Look::End => {
                // E4: the OVM before the VM, so that the VM in its placement is known to be gone.
                let ovm = match self.context.guests.read_ovm(&self.key).await {
                    Ok(Some(ovm)) => OvmView::Present(OvmFacts::from_object(&ovm)),
                    Ok(None) => OvmView::Absent,
                    Err(_) => OvmView::Unknown,
                };
                let vm = self.context.guests.read_vm(&self.key).await;
                let (proc, files) = tokio::join!(self.look_for_process(uuids), self.list_files());
                Reads { vm: Some(shared(vm)), start_check: None, begun: None, ovm, proc, files }
            }
            Look::Orphans => Reads::default(),
        }
    }

    async fn look_for_process(&self, uuids: Vec<Uuid>) -> ProcLook {
        if let Some(doubt) = self.context.processes.doubt() {
            return ProcLook::Failed(doubt);
        }
        let processes = match look_for_qemu(&self.context.proc_dir, uuids, proc::DEADLINE).await {
            Ok(processes) => processes,
            Err(error) => return ProcLook::Failed(chain(&error)),
        };
        let own = processes.iter().find(|process| process.domain == self.domain_name);
        match (own, processes.first()) {
            (Some(own), _) => ProcLook::Hit { pid: own.pid },
            (None, Some(other)) => ProcLook::OtherGuest { pid: other.pid, domain: other.domain.clone() },
            (None, None) => ProcLook::Clear,
        }
    }

    async fn list_files(&self) -> Option<Result<Vec<Uuid>, String>> {
        let listed = self.context.disks.list().await;
        Some(listed.map_err(|trouble| {
            warn!(error = trouble.message, "cannot list the disks");
            trouble.message
        }))
    }
}

fn shared(answer: Result<Option<VirtualMachine>, ApiError>) -> Result<Option<Arc<VirtualMachine>>, ApiError> {
    answer.map(|vm| vm.map(Arc::new))
}

//! One guest in one world: built from an ordinary one by changing what a test is about.

use std::time::Duration;

use api::v1alpha1::{AbiStatus, Phase, Placement, VirtualMachineStatus};
use jiff::Timestamp;

use crate::node::{
    DesiredGuest, DisksState, DomainFacts, DomainSlot, DomainState, FinalState, FreshVm, JournalFacts, NodePlan,
    NodeView, ObservedGuest, OvmFacts, OvmView, ProcLook, StartCheck, StartRecord, Step, VmFacts, plan_guest,
};

pub(super) const NODE: &str = "node1";
pub(super) const UID: &str = "uid-1";
pub(super) const OTHER_UID: &str = "uid-2";

/// Noon, in seconds.
pub(super) const NOON: i64 = 1_800_000_000;

pub(super) fn at(offset_seconds: i64) -> Timestamp {
    Timestamp::from_second(NOON + offset_seconds).unwrap()
}

/// A guest in a world.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) desired: DesiredGuest,
    pub(super) observed: ObservedGuest,
}

pub(super) fn abi() -> AbiStatus {
    AbiStatus {
        firmware_uuid: Some("7b1c0d0e-0000-4000-8000-000000000001".to_owned()),
        machine_type: Some("pc-q35-10.0".to_owned()),
        ..AbiStatus::default()
    }
}

/// A VM bound to this node.
pub(super) fn vm(phase: Phase) -> VmFacts {
    VmFacts {
        uid: UID.to_owned(),
        resource_version: "10".to_owned(),
        deleting: false,
        has_finalizer: true,
        node_label: Some(NODE.to_owned()),
        owner: None,
        grace: Duration::from_secs(30),
        status: VirtualMachineStatus {
            node_name: Some(NODE.to_owned()),
            phase: Some(phase),
            ..VirtualMachineStatus::default()
        },
    }
}

pub(super) fn domain(state: DomainState) -> DomainFacts {
    DomainFacts {
        vm_uid: UID.to_owned(),
        state,
        run_id: state.is_active().then_some(7),
        grace: Duration::from_secs(20),
        deadline: None,
        abi: abi(),
        interfaces: Vec::new(),
    }
}

pub(super) fn started() -> JournalFacts {
    let start = StartRecord { this_boot: true, settled: true, run_id: Some(7) };
    JournalFacts { vm_uid: UID.to_owned(), start: Some(start), end: None }
}

impl World {
    /// A VM that waits to be started: nothing of it is on the node.
    pub(super) fn scheduled() -> Self {
        Self {
            desired: DesiredGuest { cached: Some(vm(Phase::Scheduled)), ..DesiredGuest::default() },
            observed: ObservedGuest {
                node_name: NODE.to_owned(),
                slot: DomainSlot::Free,
                wanted_abi: Some(Ok(abi())),
                ..ObservedGuest::default()
            },
        }
    }

    /// A guest whose domain is in `state`, started by the agent, with `phase` in the API.
    pub(super) fn with_domain(phase: Phase, state: DomainState) -> Self {
        let mut world = Self::scheduled();
        world.vm().status.phase = Some(phase);
        world.observed.slot = DomainSlot::Ours(Box::new(domain(state)));
        world.observed.journal = vec![started()];
        world.observed.disks =
            DisksState { ready_for: Some(UID.to_owned()), present: Ok(vec![UID.to_owned()]), ..DisksState::default() };
        world.observed.is_defined_from_disks = true;
        world
    }

    pub(super) fn running() -> Self {
        Self::with_domain(Phase::Running, DomainState::Running)
    }

    /// The VM that the watch has.
    pub(super) fn vm(&mut self) -> &mut VmFacts {
        self.desired.cached.as_mut().unwrap()
    }

    pub(super) fn domain(&mut self) -> &mut DomainFacts {
        match &mut self.observed.slot {
            DomainSlot::Ours(domain) => domain,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn deleting(mut self) -> Self {
        self.vm().deleting = true;
        self
    }

    /// The look before a start was made, and found all well; the VM is as the watch has it.
    pub(super) fn looked_to_start(mut self) -> Self {
        self.desired.start_check = Some(StartCheck { lease: Ok(()), node: NodeView::InService });
        self.looked()
    }

    /// The look at an end was made; the VM is as the watch has it.
    pub(super) fn looked(mut self) -> Self {
        self.desired.fresh =
            Some(self.desired.cached.clone().map_or(FreshVm::Absent, |vm| FreshVm::Present(Box::new(vm))));
        self.observed.proc = ProcLook::Clear;
        self
    }

    /// The VM object is gone, as an uncached read says.
    pub(super) fn without_vm(mut self) -> Self {
        self.desired.cached = None;
        self.desired.fresh = Some(FreshVm::Absent);
        self.observed.proc = ProcLook::Clear;
        self
    }

    /// Another VM has taken the name, bound to `node`.
    pub(super) fn with_successor(mut self, node: Option<&str>) -> Self {
        let mut successor = vm(Phase::Scheduled);
        OTHER_UID.clone_into(&mut successor.uid);
        successor.status.node_name = node.map(str::to_owned);
        self.desired.cached = Some(successor.clone()).filter(|vm| vm.is_bound_to(NODE));
        self.desired.fresh = Some(FreshVm::Present(Box::new(successor)));
        self.observed.proc = ProcLook::Clear;
        self
    }

    pub(super) fn with_ovm(mut self, placed_uid: &str, node: &str, released: bool) -> Self {
        self.desired.ovm = OvmView::Present(OvmFacts {
            uid: "ovm".to_owned(),
            resource_version: "5".to_owned(),
            placement: Some(Placement { vm_uid: placed_uid.to_owned(), node_name: node.to_owned(), released }),
            ..OvmFacts::default()
        });
        self
    }

    pub(super) fn api_away(mut self) -> Self {
        self.desired.fresh = Some(FreshVm::Unreachable("no answer".to_owned()));
        self.observed.proc = ProcLook::Clear;
        self
    }

    pub(super) fn plan(&self) -> NodePlan {
        plan_guest(at(0), &self.desired, &self.observed)
    }
}

/// Names of a plan's steps, without the events.
pub(super) fn names(plan: &NodePlan) -> Vec<String> {
    let acts = plan.steps.iter().filter(|step| !matches!(step, Step::Record(_)));
    acts.map(|step| format!("{step:?}").split([' ', '(']).next().unwrap_or_default().to_owned()).collect()
}

/// Reason and message of the events that a plan records.
pub(super) fn events(plan: &NodePlan) -> Vec<(&'static str, String)> {
    let records = plan.steps.iter().filter_map(|step| match step {
        Step::Record(event) => Some((event.reason, event.message.clone())),
        _ => None,
    });
    records.collect()
}

/// The status that a plan writes.
pub(super) fn written(plan: &NodePlan) -> Option<VirtualMachineStatus> {
    plan.steps.iter().find_map(|step| match step {
        Step::WriteStatus(write) => Some((*write.status).clone()),
        _ => None,
    })
}

/// Reason of a condition.
pub(super) fn reason(status: &VirtualMachineStatus, type_: &str) -> Option<String> {
    status.conditions.iter().find(|condition| condition.type_ == type_).and_then(|condition| condition.reason.clone())
}

pub(super) fn final_state() -> FinalState {
    FinalState {
        phase: Phase::Succeeded,
        reason: "PoweredOff".to_owned(),
        message: "the guest powered off".to_owned(),
        at: at(-60),
    }
}

//! `VM.status` as it should be: phase, conditions, addresses. Written only where it differs from what is there.

use api::v1alpha1::{AbiStatus, Condition, ImageStatus, Phase, PhaseTransitionTimestamp, VirtualMachineStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    DiskFault, DomainFacts, DomainState, FinalState, GuestEvent, PausedReason, StatusWrite, Step, VmFacts, disk_fault,
};

/// Condition: whether the guest runs; its reason says how it ended.
const READY: &str = "Ready";
/// Condition: present, and False, while the agent fails to bring the guest about.
const SYNCHRONIZED: &str = "Synchronized";

/// The step that makes `status` the VM's, if it differs.
pub(super) fn write_if_needed(vm: &VmFacts, status: VirtualMachineStatus) -> Option<Step> {
    (status != vm.status).then(|| {
        Step::WriteStatus(StatusWrite {
            uid: vm.uid.clone(),
            resource_version: vm.resource_version.clone(),
            status: Box::new(status),
        })
    })
}

/// The status of a guest that is about to start: what libvirt settled (S5), and what its disks stand on.
pub(super) fn starting(vm: &VmFacts, abi: &AbiStatus, images: &[ImageStatus]) -> VirtualMachineStatus {
    let mut status = with_abi(vm, abi);
    // Known only to the process that prepared the disks: one that was restarted since leaves what is there.
    if !images.is_empty() {
        status.images = images.to_vec();
    }
    status
}

/// The steps that say how far the guest's images are: condition and event, both only when there is something new.
pub(super) fn pulling(now: Timestamp, vm: &VmFacts, message: &str) -> Vec<Step> {
    const PULLING: &str = "Pulling";
    let mut status = vm.status.clone();
    set(&mut status, SYNCHRONIZED, "False", PULLING, message, now);
    let event = GuestEvent::normal(&vm.uid, PULLING, message);
    write_if_needed(vm, status).map(|write| vec![write, Step::Record(event)]).unwrap_or_default()
}

/// The status with what libvirt settled.
fn with_abi(vm: &VmFacts, abi: &AbiStatus) -> VirtualMachineStatus {
    let mut status = vm.status.clone();
    // The number stays that of the record that the VM was bound with (R1).
    let revision = status.abi.as_ref().and_then(|bound| bound.revision);
    status.abi = Some(AbiStatus { revision, ..abi.clone() });
    status
}

/// The status of a guest whose QEMU lives.
pub(super) fn running(
    now: Timestamp,
    vm: &VmFacts,
    domain: &DomainFacts,
    faults: &[DiskFault],
) -> VirtualMachineStatus {
    let mut status = with_abi(vm, &domain.abi);
    enter(&mut status, Phase::Running, now);
    status.interfaces.clone_from(&domain.interfaces);
    if disk_fault::is_paused_by_disk(domain) {
        let (reason, message) = disk_fault::readiness(faults);
        set(&mut status, READY, "False", reason, &message, now);
    } else {
        let (ready, reason, message) = readiness(domain.state);
        set(&mut status, READY, ready, reason, message, now);
    }
    status.conditions.retain(|condition| condition.type_ != SYNCHRONIZED);
    status
}

/// The status of a guest that ended.
pub(super) fn ended(now: Timestamp, vm: &VmFacts, end: &FinalState) -> VirtualMachineStatus {
    let mut status = vm.status.clone();
    enter(&mut status, end.phase, end.at);
    status.interfaces.iter_mut().for_each(|interface| interface.ip_address = None);
    set(&mut status, READY, "False", &end.reason, &end.message, now);
    status.conditions.retain(|condition| condition.type_ != SYNCHRONIZED);
    status
}

/// The status of a guest whose process lives without libvirt's knowledge.
pub(super) fn lost(now: Timestamp, vm: &VmFacts, message: &str) -> VirtualMachineStatus {
    let mut status = vm.status.clone();
    set(&mut status, READY, "Unknown", "DomainLost", message, now);
    status
}

/// The steps that say why the guest cannot be brought about: condition and event, both only when the cause changed.
pub(super) fn sync_failed(now: Timestamp, vm: &VmFacts, reason: &str, message: &str) -> Vec<Step> {
    let mut status = vm.status.clone();
    set(&mut status, SYNCHRONIZED, "False", reason, message, now);
    let event = GuestEvent::warning(&vm.uid, "SyncFailed", message);
    write_if_needed(vm, status).map(|write| vec![write, Step::Record(event)]).unwrap_or_default()
}

/// Whether condition Ready has this reason.
pub(super) fn says(vm: &VmFacts, reason: &str) -> bool {
    let ready = vm.status.conditions.iter().find(|condition| condition.type_ == READY);
    ready.is_some_and(|ready| ready.reason.as_deref() == Some(reason))
}

/// Condition Ready of a live domain: status, reason, message.
fn readiness(state: DomainState) -> (&'static str, &'static str, &'static str) {
    match state {
        DomainState::Running => ("True", "Running", "the guest runs"),
        DomainState::Paused(PausedReason::Crashed) | DomainState::CrashedKept => {
            ("False", "GuestPanicked", "the guest panicked")
        }
        DomainState::Paused(PausedReason::Watchdog) => ("False", "Paused", "the guest is paused: its watchdog fired"),
        DomainState::Paused(
            PausedReason::User | PausedReason::StartingUp | PausedReason::IoError | PausedReason::Other,
        ) => ("False", "Paused", "the guest is paused"),
        DomainState::Suspended => ("False", "Suspended", "the guest suspended itself"),
        DomainState::ShuttingDown => ("False", "ShuttingDown", "the guest is shutting down"),
        DomainState::ShutOff(_) | DomainState::Other => {
            ("Unknown", "UnknownState", "libvirt reports a state that this version does not know")
        }
    }
}

/// Sets the phase; the time of the first entry stays.
fn enter(status: &mut VirtualMachineStatus, phase: Phase, at: Timestamp) {
    status.phase = Some(phase);
    if !status.phase_transition_timestamps.iter().any(|entry| entry.phase == phase) {
        status
            .phase_transition_timestamps
            .push(PhaseTransitionTimestamp { phase, phase_transition_timestamp: to_time(at) });
    }
}

/// Sets a condition. Its transition time moves only with its status.
fn set(status: &mut VirtualMachineStatus, type_: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let old = status.conditions.iter_mut().find(|condition| condition.type_ == type_);
    let since = old.as_ref().filter(|old| old.status == value).and_then(|old| old.last_transition_time.clone());
    let new = Condition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        last_probe_time: None,
        last_transition_time: since.or_else(|| Some(to_time(now))),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    };
    match old {
        Some(old) => *old = new,
        None => status.conditions.push(new),
    }
}

/// The wire holds whole seconds: a finer time would never equal what is read back.
fn to_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

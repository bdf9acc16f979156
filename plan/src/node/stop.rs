//! Ends: a guest that ended, one that is told to, one whose object is gone, and the teardown that follows (E1 to E6).
//!
//! The teardown's states are facts, not memory: each is recognised by what is left, and each has one step.
//!
//! ```text
//! domain shut off ──► final state in the API ──► undefined ──► files removed ──► finalizer dropped ──► journal forgotten ──► placement released
//! ```

use std::time::Duration;

use api::v1alpha1::{Phase, Placement};
use jiff::SignedDuration;

use super::abi::{Gate, gate};
use super::guest::Guest;
use super::lifecycle::{Verdict, judge, reason};
use super::{
    DomainFacts, DomainSlot, EventType, FinalState, FreshVm, GuestEvent, Look, NodePlan, OrphanGuard, OvmFacts,
    OvmView, ProcLook, Report, Step, VmFacts, status,
};

/// A booting guest drops the power button: it is pressed again this often (E3).
pub(super) const SIGNAL_INTERVAL: Duration = Duration::from_secs(10);
/// How long to wait before the API or /proc is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// How long to wait before the record is looked for again: no event tells of it.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// What is left of a VM that is to be let go, once its domain is gone.
enum Teardown {
    /// Perhaps files of the guest: they could not be read. The text says why.
    Unreadable(String),
    /// Files of the guest.
    Files,
    /// Our finalizer on the object.
    Finalizer,
    /// Nothing.
    Done,
}

/// S6: a start call may still fire.
pub(super) fn settle(uid: &str) -> NodePlan {
    NodePlan::act("SettlingStart", vec![Step::SettleStart { uid: uid.to_owned() }])
}

/// E3: an orderly shutdown with a deadline, then the hard one. `vm` is none for an orphan, whose grace period the domain remembers.
pub(super) fn plan_stop(guest: &Guest<'_>, domain: &DomainFacts, vm: Option<&VmFacts>) -> NodePlan {
    let uid = || domain.vm_uid.clone();
    let grace = vm.map_or(domain.grace, |vm| vm.grace);
    let latest = guest
        .now
        .saturating_add(SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX))
        .unwrap_or(jiff::Timestamp::MAX);
    let Some(deadline) = domain.deadline.filter(|deadline| *deadline <= latest) else {
        // No stop has begun, or the clock has been set back since.
        let set = Step::SetDeadline { uid: uid(), deadline: latest };
        if grace.is_zero() {
            return NodePlan::act(
                "PoweringOff",
                with_event(vec![set, Step::Destroy { uid: uid() }], vm, "Deleted", "VM stopping"),
            );
        }
        return NodePlan {
            steps: with_event(
                vec![set, Step::Shutdown { uid: uid() }],
                vm,
                "ShuttingDown",
                "Signaled Graceful Shutdown",
            ),
            requeue: Some(grace.min(SIGNAL_INTERVAL)),
            report: Report::new("ShuttingDown", ""),
            ..NodePlan::default()
        };
    };
    let left = Duration::try_from(deadline.duration_since(guest.now)).unwrap_or_default();
    if left.is_zero() {
        return NodePlan::act(
            "PoweringOff",
            with_event(vec![Step::Destroy { uid: uid() }], vm, "Deleted", "VM stopping"),
        );
    }
    let since = guest.observed.last_signal.and_then(|at| Duration::try_from(guest.now.duration_since(at)).ok());
    match since.and_then(|since| SIGNAL_INTERVAL.checked_sub(since)).filter(|wait| !wait.is_zero()) {
        Some(wait) => NodePlan::retry("ShuttingDown", "waiting for the guest", wait.min(left)),
        // Each repeat asks first whether a successor is bound elsewhere: `plan_orphan` then destroys at once.
        None if guest.desired.fresh.is_none() => NodePlan::look(Look::End, "ShuttingDown"),
        None => NodePlan {
            steps: vec![Step::Shutdown { uid: uid() }],
            requeue: Some(left.min(SIGNAL_INTERVAL)),
            report: Report::new("ShuttingDown", ""),
            ..NodePlan::default()
        },
    }
}

/// A run that is over and not yet reported: /proc again (E1), the final state (E2), then the definition goes.
pub(super) fn plan_end(guest: &Guest<'_>, vm: &VmFacts, domain: Option<&DomainFacts>, end: &FinalState) -> NodePlan {
    let journalled = guest.journal(&vm.uid).and_then(|entry| entry.end.as_ref());
    let end = journalled.unwrap_or(end);
    match (&guest.desired.fresh, process(guest)) {
        (None, _) | (_, Process::Unread) => NodePlan::look(Look::End, "Ended"),
        (_, Process::Unreadable(why)) => NodePlan::retry("ProcessesUnreadable", &why, RETRY),
        (_, Process::Lives(pid)) => plan_lost(guest, vm, pid),
        (_, Process::OfAnother(whose)) => plan_displaced(guest, vm, &whose),
        (Some(FreshVm::Unreachable(why)), Process::Gone) => journal_end(guest, &vm.uid, end, why),
        (Some(FreshVm::Present(_) | FreshVm::Absent), Process::Gone) => {
            let mut steps: Vec<Step> =
                status::write_if_needed(vm, status::ended(guest.now, vm, end)).into_iter().collect();
            steps.push(Step::Record(stopped_event(&vm.uid, end)));
            steps.extend(domain.map(|domain| Step::Undefine { uid: domain.vm_uid.clone() }));
            NodePlan::act("Ended", steps)
        }
    }
}

/// The API says that the run is over, and its domain is still there: a fenced node that came back, or a teardown cut short.
pub(super) fn plan_after_end(guest: &Guest<'_>, domain: &DomainFacts, vm: &VmFacts) -> NodePlan {
    if domain.state.is_active() {
        return match guest.desired.fresh {
            None => NodePlan::look(Look::End, "EndedElsewhere"),
            Some(FreshVm::Unreachable(ref why)) => NodePlan::retry("ApiAway", why, RETRY),
            // F3: its final state stands, so the guest must not go on.
            Some(FreshVm::Present(_) | FreshVm::Absent) => {
                NodePlan::act("EndedElsewhere", vec![Step::Destroy { uid: vm.uid.clone() }])
            }
        };
    }
    match judge(domain, guest.evidence(&vm.uid, vm.phase())) {
        Verdict::Unsettled => settle(&vm.uid),
        Verdict::Live | Verdict::NeverRan | Verdict::Ended(_) => plan_undefine(guest, vm),
    }
}

/// A definition that nothing needs any more.
pub(super) fn plan_undefine(guest: &Guest<'_>, vm: &VmFacts) -> NodePlan {
    with_process_gone(guest, "Undefining", || NodePlan::act("Undefining", vec![Step::Undefine { uid: vm.uid.clone() }]))
}

/// A VM that ended and is not being deleted: its files stay until the object goes. Its volumes are others' from now on (K2).
pub(super) fn plan_ended(guest: &Guest<'_>, vm: &VmFacts) -> NodePlan {
    let has_volumes = !vm.status.volumes.is_empty() && guest.observed.disks.given_back.as_deref() != Some(&vm.uid);
    if has_volumes && guest.observed.slot == DomainSlot::Free {
        return with_process_gone(guest, "Ended", || {
            NodePlan::act("GivingVolumesBack", vec![Step::GiveVolumesBack { uid: vm.uid.clone() }])
        });
    }
    match process(guest) {
        Process::Lives(pid) => NodePlan::act("KillingLostGuest", vec![Step::KillProcess { pid }]),
        Process::OfAnother(whose) => NodePlan::wait("NameInUse", &whose),
        Process::Unread | Process::Unreadable(_) | Process::Gone => NodePlan::wait("Ended", vm.phase().as_str()),
    }
}

/// A VM that is being deleted and has no domain: clean up, then let it go.
pub(super) fn plan_let_go(guest: &Guest<'_>, vm: &VmFacts) -> NodePlan {
    let let_go = || match teardown(guest, vm) {
        Teardown::Unreadable(why) => unreadable(&why),
        Teardown::Files => NodePlan::act("Cleaning", vec![Step::CleanDisks { uid: vm.uid.clone() }]),
        Teardown::Finalizer => drop_finalizer(guest, vm),
        Teardown::Done => NodePlan::wait("LetGo", "somebody else's finalizer holds the object"),
    };
    let has_run = vm.phase() == Phase::Running || guest.start_record(&vm.uid).is_some();
    if matches!(process(guest), Process::OfAnother(_)) && !has_run {
        // What has its name is an earlier VM's.
        return let_go();
    }
    with_process_gone(guest, "LettingGo", let_go)
}

/// What is left to do for a VM without domain and process.
fn teardown(guest: &Guest<'_>, vm: &VmFacts) -> Teardown {
    match (&guest.observed.disks.present, vm.has_finalizer) {
        (Err(why), _) => Teardown::Unreadable(why.clone()),
        (Ok(present), _) if present.contains(&vm.uid) => Teardown::Files,
        (Ok(_), true) => Teardown::Finalizer,
        (Ok(_), false) => Teardown::Done,
    }
}

/// What cannot be seen is not taken for gone: once nothing names its VM any more, what it has here stays taken.
fn unreadable(why: &str) -> NodePlan {
    NodePlan::retry("DisksUnreadable", why, RETRY)
}

/// The one place where the agent lets a VM go, and only once its ABI is recorded (R3).
fn drop_finalizer(guest: &Guest<'_>, vm: &VmFacts) -> NodePlan {
    match &guest.desired.fresh {
        None => NodePlan::look(Look::End, "LettingGo"),
        Some(FreshVm::Unreachable(why)) => NodePlan::retry("ApiAway", why, RETRY),
        Some(FreshVm::Absent | FreshVm::Present(_)) => match gate(vm, &guest.desired.ovm) {
            Gate::Unread => NodePlan::retry("ApiAway", "the OfflineVirtualMachine cannot be read", RETRY),
            Gate::Closed(why) => NodePlan::retry("AwaitingRecord", &why, RECORD_RETRY),
            Gate::Open => NodePlan::act(
                "LettingGo",
                vec![
                    Step::DropFinalizer { uid: vm.uid.clone(), resource_version: vm.resource_version.clone() },
                    Step::ForgetJournal { uid: vm.uid.clone() },
                ],
            ),
        },
    }
}

/// A domain whose VM is not, or not any more, the one that it was defined for.
pub(super) fn plan_orphan(guest: &Guest<'_>, domain: &DomainFacts) -> NodePlan {
    let successor = match &guest.desired.fresh {
        None => return NodePlan::look(Look::End, "CheckingOwner"),
        Some(FreshVm::Unreachable(why)) => return plan_unknown_owner(guest, domain, why),
        Some(FreshVm::Present(vm)) => Some(vm),
        Some(FreshVm::Absent) => None,
    };
    let elsewhere = successor.is_some_and(|vm| vm.is_bound_elsewhere(&guest.observed.node_name));
    if domain.state.is_active() {
        return match (successor, &guest.observed.guard, domain.deadline) {
            (Some(_), _, _) if elsewhere => {
                NodePlan::act("OrphanWithSuccessor", vec![Step::Destroy { uid: domain.vm_uid.clone() }])
            }
            (Some(_), _, _) | (None, OrphanGuard::Clear, _) | (None, _, Some(_)) => plan_stop(guest, domain, None),
            (None, OrphanGuard::Unasked, None) => NodePlan::look(Look::Orphans, "Orphan"),
            (None, OrphanGuard::Held(why), None) => NodePlan::wait("OrphanHeld", why),
        };
    }
    match judge(domain, guest.evidence(&domain.vm_uid, Phase::Unset)) {
        Verdict::Unsettled => settle(&domain.vm_uid),
        Verdict::Live | Verdict::NeverRan | Verdict::Ended(_) => with_process_gone(guest, "OrphanEnded", || {
            NodePlan::act("OrphanEnded", vec![Step::Undefine { uid: domain.vm_uid.clone() }])
        }),
    }
}

/// The API does not answer and the watch has nothing: touch nothing, but keep how the guest ended (E2).
fn plan_unknown_owner(guest: &Guest<'_>, domain: &DomainFacts, why: &str) -> NodePlan {
    match judge(domain, guest.evidence(&domain.vm_uid, Phase::Unset)) {
        Verdict::Ended(end) => journal_end(guest, &domain.vm_uid, &end, why),
        Verdict::Live | Verdict::Unsettled | Verdict::NeverRan => NodePlan::retry("ApiAway", why, RETRY),
    }
}

/// No domain, and no VM of this node: remove what is left of earlier ones, release their placement (E4), be done.
///
/// Where somebody else's domain has the name, nothing is touched: it may be this guest, of another installation or under another name of this node.
pub(super) fn plan_leftovers(guest: &Guest<'_>) -> NodePlan {
    if let DomainSlot::Foreign(whose) = &guest.observed.slot {
        return NodePlan::wait("NameInUse", whose);
    }
    let alive = match &guest.desired.fresh {
        None => return NodePlan::look(Look::End, "CheckingLeftovers"),
        Some(FreshVm::Unreachable(why)) => return NodePlan::retry("ApiAway", why, RETRY),
        Some(FreshVm::Present(vm)) => Some(vm.uid.as_str()),
        Some(FreshVm::Absent) => None,
    };
    if let Process::Lives(pid) = process(guest)
        && !was_here(guest)
    {
        let message = format!("QEMU process {pid} runs a guest of that name, which this node has never started");
        return NodePlan::wait("ProcessOfOthers", &message);
    }
    with_process_gone(guest, "CheckingLeftovers", || {
        clean_predecessors(guest, alive.unwrap_or_default())
            .or_else(|| release(guest, alive))
            .unwrap_or_else(|| NodePlan::wait("Gone", ""))
    })
}

/// Whether anything says that a VM of this name was this node's.
fn was_here(guest: &Guest<'_>) -> bool {
    !guest.observed.journal.is_empty() || unreleased_placement(guest).is_some()
}

/// Files and journal entries of earlier VMs of this name; only once `alive` is known to be the VM of that name now.
pub(super) fn clean_predecessors(guest: &Guest<'_>, alive: &str) -> Option<NodePlan> {
    let present = match &guest.observed.disks.present {
        Ok(present) => present,
        Err(why) => return Some(unreadable(why)),
    };
    if let Some(uid) = present.iter().find(|uid| *uid != alive) {
        return Some(NodePlan::act("Cleaning", vec![Step::CleanDisks { uid: uid.clone() }]));
    }
    let dead = guest.observed.journal.iter().find(|entry| entry.vm_uid != alive)?;
    if super::lifecycle::is_unsettled(dead.start.as_ref()) {
        return Some(settle(&dead.vm_uid));
    }
    Some(NodePlan::act("Cleaning", vec![Step::ForgetJournal { uid: dead.vm_uid.clone() }]))
}

/// E4: the VM in `placement` is gone, no domain of that name is left, and no process either.
fn release(guest: &Guest<'_>, alive: Option<&str>) -> Option<NodePlan> {
    let (ovm, placement) = unreleased_placement(guest)?;
    let gone = alive != Some(placement.vm_uid.as_str());
    let free = guest.observed.slot == DomainSlot::Free;
    (gone && free).then(|| {
        NodePlan::act(
            "Releasing",
            vec![Step::ReleasePlacement { ovm_uid: ovm.uid.clone(), resource_version: ovm.resource_version.clone() }],
        )
    })
}

/// The placement on this node that its agent has not released.
fn unreleased_placement<'a>(guest: &Guest<'a>) -> Option<(&'a OvmFacts, &'a Placement)> {
    let OvmView::Present(ovm) = &guest.desired.ovm else { return None };
    let placement = ovm.placement.as_ref()?;
    (placement.node_name == guest.observed.node_name && !placement.released).then_some((ovm, placement))
}

/// A QEMU of the guest runs, and libvirt has it as a domain that is not ours: not to be touched, and not to be called ended.
fn plan_displaced(guest: &Guest<'_>, vm: &VmFacts, whose: &str) -> NodePlan {
    NodePlan {
        steps: status::write_if_needed(vm, status::lost(guest.now, vm, whose)).into_iter().collect(),
        ..NodePlan::retry("NameInUse", whose, RETRY)
    }
}

/// libvirt says that the guest is off, and its QEMU lives (E1): it runs. A stop kills that process.
fn plan_lost(guest: &Guest<'_>, vm: &VmFacts, pid: u32) -> NodePlan {
    if vm.deleting {
        return NodePlan::act("KillingLostGuest", vec![Step::KillProcess { pid }]);
    }
    let message =
        format!("QEMU process {pid} runs this guest, and libvirt has lost it; delete the VirtualMachine to end it");
    NodePlan {
        steps: status::write_if_needed(vm, status::lost(guest.now, vm, &message)).into_iter().collect(),
        report: Report::new("Lost", &message),
        ..NodePlan::default()
    }
}

/// E2, while the API is away.
fn journal_end(guest: &Guest<'_>, uid: &str, end: &FinalState, why: &str) -> NodePlan {
    let known = guest.journal(uid).is_some_and(|entry| entry.end.is_some());
    let steps = if known { Vec::new() } else { vec![Step::JournalEnd { uid: uid.to_owned(), end: end.clone() }] };
    NodePlan { steps, requeue: Some(RETRY), report: Report::new("EndedApiAway", why), ..NodePlan::default() }
}

/// What /proc says of this guest.
enum Process {
    Unread,
    Unreadable(String),
    Lives(u32),
    /// It lives, and libvirt has not lost it: it is a domain that is not ours. The text names it and its owner.
    OfAnother(String),
    Gone,
}

fn process(guest: &Guest<'_>) -> Process {
    match (&guest.observed.proc, &guest.observed.slot) {
        (ProcLook::NotLooked, _) => Process::Unread,
        (ProcLook::Failed(why), _) => Process::Unreadable(why.clone()),
        (ProcLook::Hit { .. }, DomainSlot::Foreign(whose)) => Process::OfAnother(whose.clone()),
        (ProcLook::Hit { pid }, _) => Process::Lives(*pid),
        (ProcLook::Clear | ProcLook::OtherGuest { .. }, _) => Process::Gone,
    }
}

/// E1: goes on only once /proc shows that no QEMU of the guest lives; one that does is killed.
fn with_process_gone(guest: &Guest<'_>, state: &'static str, then: impl FnOnce() -> NodePlan) -> NodePlan {
    match process(guest) {
        Process::Unread => NodePlan::look(Look::End, state),
        Process::Unreadable(why) => NodePlan::retry("ProcessesUnreadable", &why, RETRY),
        Process::Lives(pid) => NodePlan::act("KillingLostGuest", vec![Step::KillProcess { pid }]),
        Process::OfAnother(whose) => NodePlan::retry("NameInUse", &whose, RETRY),
        Process::Gone => then(),
    }
}

/// Adds an event to steps; nothing is recorded on an object that is gone.
fn with_event(mut steps: Vec<Step>, vm: Option<&VmFacts>, reason: &'static str, message: &str) -> Vec<Step> {
    steps.extend(vm.map(|vm| Step::Record(GuestEvent::normal(&vm.uid, reason, message))));
    steps
}

/// The event of an end. A warning is for what the user did not ask for.
fn stopped_event(uid: &str, end: &FinalState) -> GuestEvent {
    let (type_, message) = match end.reason.as_str() {
        reason::POWERED_OFF | reason::GRACE_PERIOD_EXCEEDED | reason::DESTROYED => {
            (EventType::Normal, "The VM was shut down.")
        }
        reason::QEMU_CRASHED | reason::GUEST_PANICKED => (EventType::Warning, "The VM crashed."),
        _ => (EventType::Warning, end.message.as_str()),
    };
    GuestEvent { uid: uid.to_owned(), type_, reason: "Stopped", message: message.to_owned() }
}

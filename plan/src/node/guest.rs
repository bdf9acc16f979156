//! The decision for one guest: which of its lives applies, then the rules of that life.

use std::time::Duration;

use api::names::LABEL_LIMIT;
use api::v1alpha1::Phase;
use jiff::Timestamp;

use super::lifecycle::{Evidence, Verdict, is_started_by_agent, judge, vanished};
use super::{
    DesiredGuest, DomainFacts, DomainSlot, DomainState, FreshVm, GuestEvent, ImageFetch, JournalFacts, Look, NodePlan,
    ObservedGuest, PausedReason, Report, StartRecord, Step, VmFacts, disk_fault, start, status, stop,
};

/// A start that libvirt is still making is looked at again after this time, should its event be lost.
const STARTING_RECHECK: Duration = Duration::from_secs(2);

/// A libvirt that did not answer is asked again after this time. An answer of `unknown` may have been one slow call, for which no event comes.
const LIBVIRT_RETRY: Duration = Duration::from_secs(5);

/// Decides for one guest.
pub fn plan_guest(now: Timestamp, desired: &DesiredGuest, observed: &ObservedGuest) -> NodePlan {
    let guest = Guest { now, desired, observed };
    if let Some(wait) = guest.pause_after_failure() {
        return wait;
    }
    if observed.disks.fetch.as_ref().is_some_and(|fetch| guest.is_in_vain(fetch)) {
        return NodePlan::act("CancellingPull", vec![Step::CancelFetch]);
    }
    match (&observed.slot, guest.vm()) {
        (DomainSlot::Unknown, _) => NodePlan::retry("LibvirtAway", "libvirt does not answer", LIBVIRT_RETRY),
        (DomainSlot::Ours(domain), Some(vm)) if vm.uid == domain.vm_uid => guest.plan_own(domain, vm),
        (DomainSlot::Ours(domain), _) => stop::plan_orphan(&guest, domain),
        (DomainSlot::Free | DomainSlot::Foreign(_), Some(vm)) if vm.is_bound_to(&observed.node_name) => {
            guest.plan_without_domain(vm)
        }
        (DomainSlot::Free | DomainSlot::Foreign(_), _) => stop::plan_leftovers(&guest),
    }
}

/// One guest's facts, with the questions that several rules ask of them.
#[derive(Clone, Copy)]
pub(super) struct Guest<'a> {
    pub(super) now: Timestamp,
    pub(super) desired: &'a DesiredGuest,
    pub(super) observed: &'a ObservedGuest,
}

impl<'a> Guest<'a> {
    /// The VM as last known: the uncached answer if there is one, else the watch's.
    pub(super) fn vm(&self) -> Option<&'a VmFacts> {
        match &self.desired.fresh {
            Some(FreshVm::Present(vm)) => Some(vm),
            Some(FreshVm::Absent) => None,
            Some(FreshVm::Unreachable(_)) | None => self.desired.cached.as_ref(),
        }
    }

    /// Whether images are fetched for a VM that will not be started here.
    fn is_in_vain(&self, fetch: &ImageFetch) -> bool {
        let is_wanted = |vm: &VmFacts| {
            vm.uid == fetch.vm_uid && !vm.deleting && vm.is_bound_to(&self.observed.node_name) && !vm.phase().is_final()
        };
        !self.vm().is_some_and(is_wanted)
    }

    /// What the journal says of a VM UID.
    pub(super) fn journal(&self, uid: &str) -> Option<&'a JournalFacts> {
        self.observed.journal.iter().find(|entry| entry.vm_uid == uid)
    }

    /// The journalled start of a VM UID.
    pub(super) fn start_record(&self, uid: &str) -> Option<&'a StartRecord> {
        self.journal(uid).and_then(|entry| entry.start.as_ref())
    }

    /// What bears on the verdict over a run.
    pub(super) fn evidence(&self, uid: &str, phase: Phase) -> Evidence<'a> {
        Evidence { now: self.now, phase, start: self.start_record(uid), panic_seen: self.observed.panic_seen }
    }

    /// After a failed step that was not part of bringing the guest up, nothing is tried before its time. The first failure is told: no condition speaks of it.
    fn pause_after_failure(&self) -> Option<NodePlan> {
        let trouble = self.observed.trouble.as_ref().filter(|trouble| !trouble.bringing_up)?;
        let left = trouble.wait_left(self.now)?;
        let told = self.vm().filter(|_| trouble.failures == 1);
        let event = |vm: &VmFacts| GuestEvent::warning(&vm.uid, "SyncFailed", &trouble.message);
        Some(NodePlan {
            steps: told.map(|vm| Step::Record(event(vm))).into_iter().collect(),
            requeue: Some(left),
            report: Report::new("Retrying", &trouble.message),
            ..NodePlan::default()
        })
    }

    /// A domain of this very VM.
    fn plan_own(&self, domain: &DomainFacts, vm: &VmFacts) -> NodePlan {
        if vm.is_bound_elsewhere(&self.observed.node_name) {
            return stop::plan_orphan(self, domain);
        }
        if !vm.is_bound_to(&self.observed.node_name) {
            return NodePlan::wait(
                "Unbound",
                "the VirtualMachine has lost its node name; its controller binds it again",
            );
        }
        if vm.phase().is_final() {
            return stop::plan_after_end(self, domain, vm);
        }
        match judge(domain, self.evidence(&vm.uid, vm.phase())) {
            Verdict::Unsettled => stop::settle(&vm.uid),
            Verdict::Ended(end) => stop::plan_end(self, vm, Some(domain), &end),
            Verdict::NeverRan if vm.deleting => stop::plan_undefine(self, vm),
            Verdict::NeverRan => start::plan_start(self, vm),
            Verdict::Live if vm.deleting => stop::plan_stop(self, domain, Some(vm)),
            Verdict::Live => self.plan_live(domain, vm),
        }
    }

    /// A running domain of a VM that shall run: report it, unless somebody else started it.
    fn plan_live(&self, domain: &DomainFacts, vm: &VmFacts) -> NodePlan {
        if !is_started_by_agent(domain, self.evidence(&vm.uid, vm.phase())) {
            return start::plan_foreign_start(self, domain, vm);
        }
        if domain.state == DomainState::Paused(PausedReason::StartingUp) {
            // One past its deadline may hang with the guest's storage for hours.
            let late = self.observed.trouble.as_ref().filter(|trouble| trouble.bringing_up);
            let told = late.map(|trouble| status::sync_failed(self.now, vm, &trouble.reason, &trouble.message));
            return NodePlan {
                steps: told.unwrap_or_default(),
                requeue: Some(STARTING_RECHECK),
                report: Report::new("Starting", "libvirt is starting it"),
                ..NodePlan::default()
            };
        }
        let told = status::write_if_needed(vm, status::running(self.now, vm, domain, &self.observed.disk_faults));
        if vm.phase() == Phase::Running && disk_fault::is_paused_by_disk(domain) {
            return disk_fault::plan_paused(self.now, vm, told, &self.observed.disk_faults, self.observed.resumes);
        }
        let mut steps: Vec<Step> = told.into_iter().collect();
        if vm.phase() != Phase::Running {
            steps.push(Step::Record(GuestEvent::normal(&vm.uid, "Started", "VM started.")));
        }
        let node = self.observed.node_name.as_str();
        // A Node's name may have 253 characters.
        if vm.node_label.as_deref() != Some(node) && node.len() <= LABEL_LIMIT {
            steps.push(Step::SetNodeLabel { uid: vm.uid.clone() });
        }
        NodePlan { steps, report: Report::new("Running", ""), ..NodePlan::default() }
    }

    /// A VM of this node without a domain of ours.
    fn plan_without_domain(&self, vm: &VmFacts) -> NodePlan {
        let entry = self.journal(&vm.uid);
        if super::lifecycle::is_unsettled(self.start_record(&vm.uid)) {
            return stop::settle(&vm.uid);
        }
        if vm.phase().is_final() {
            return if vm.deleting { stop::plan_let_go(self, vm) } else { stop::plan_ended(self, vm) };
        }
        if let Some(end) = entry.and_then(|entry| entry.end.as_ref()) {
            return stop::plan_end(self, vm, None, end);
        }
        if vm.phase() == Phase::Running || entry.is_some_and(|entry| entry.start.is_some()) {
            return stop::plan_end(self, vm, None, &vanished(self.now));
        }
        if vm.deleting { stop::plan_let_go(self, vm) } else { start::plan_start(self, vm) }
    }
}

impl NodePlan {
    /// Nothing to do now.
    pub(super) fn wait(state: &'static str, because: &str) -> Self {
        Self { report: Report::new(state, because), ..Self::default() }
    }

    /// Look further, and plan again.
    pub(super) fn look(look: Look, state: &'static str) -> Self {
        Self { look: Some(look), report: Report::new(state, ""), ..Self::default() }
    }

    /// Do this, then observe and plan again at once.
    pub(super) fn act(state: &'static str, steps: Vec<Step>) -> Self {
        Self { steps, requeue: Some(Duration::ZERO), report: Report::new(state, ""), ..Self::default() }
    }

    /// Nothing to do now, look again after `delay`.
    pub(super) fn retry(state: &'static str, because: &str, delay: Duration) -> Self {
        Self { requeue: Some(delay), ..Self::wait(state, because) }
    }
}

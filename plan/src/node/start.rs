//! Bringing a guest up: rules S4 and S5, one attempt after another with a growing pause.

use std::time::Duration;

use api::v1alpha1::{AbiStatus, Phase};
use jiff::Timestamp;

use super::guest::Guest;
use super::lifecycle::is_started_by_agent;
use super::{
    DomainFacts, DomainSlot, FetchState, FreshVm, GuestEvent, Look, NodePlan, NodeView, ProcLook, Report, Step,
    Trouble, VmFacts, status, stop,
};

/// How long to wait before the API is asked again.
const API_RETRY: Duration = Duration::from_secs(5);
/// How long to wait before an obstacle outside the guest is looked at again.
const OBSTACLE_RETRY: Duration = Duration::from_secs(10);

/// A registry that answers sooner is not worth a word to the user.
const LONG_TO_ASK: Duration = Duration::from_secs(5);

/// Why a start may not be made.
enum Obstacle {
    /// Not read yet.
    Unread,
    /// The API gave no answer: no start, and nothing can be written either.
    ApiAway(String),
    /// The VM is not, or no longer, to be started here.
    NotWanted(String),
    /// The user must know: reason and message.
    Told(&'static str, String),
}

/// Brings up a VM that has never run: prepare its disks, read what S4 wants read, then define, publish, journal and start.
pub(super) fn plan_start(guest: &Guest<'_>, vm: &VmFacts) -> NodePlan {
    if vm.phase() != Phase::Scheduled {
        return NodePlan::wait("NotScheduled", "its controller has not scheduled it");
    }
    let abi = match prerequisites(guest, vm) {
        Ok(abi) => abi,
        Err(plan) => return plan,
    };
    let is_ready = guest.observed.disks.ready_for.as_deref() == Some(&vm.uid);
    // Disks are prepared while the reads of S4 are made; what an earlier VM of this name has is given back first (K2), which takes those reads.
    if !is_ready && !shows_predecessor(guest, vm) {
        return prepare(guest, vm);
    }
    match start_allowed(guest, vm).and_then(|fresh| process_clear(guest).map(|()| fresh)) {
        Ok(fresh) => stop::clean_predecessors(guest, &vm.uid).unwrap_or_else(|| {
            if is_ready { NodePlan::act("Starting", start_steps(guest, fresh, &abi)) } else { prepare(guest, vm) }
        }),
        Err(obstacle) => explain(guest, vm, obstacle),
    }
}

/// Whether an earlier VM of this name may have something here: journal, files, or the disks that this agent process prepared last.
fn shows_predecessor(guest: &Guest<'_>, vm: &VmFacts) -> bool {
    let disks = &guest.observed.disks;
    let journalled = guest.observed.journal.iter().map(|entry| &entry.vm_uid);
    journalled.chain(disks.present.iter().flatten()).chain(&disks.ready_for).any(|uid| *uid != vm.uid)
}

/// Has the disks made, and the images fetched that they need.
fn prepare(guest: &Guest<'_>, vm: &VmFacts) -> NodePlan {
    let fetch = guest.observed.disks.fetch.as_ref().map(|fetch| &fetch.state);
    let pulled = match fetch {
        Some(FetchState::Missing) => {
            return NodePlan::act("FetchingImages", vec![Step::FetchImages { uid: vm.uid.clone() }]);
        }
        Some(FetchState::Asking { since, message }) => return plan_asking(guest, vm, *since, message),
        Some(FetchState::Pulling(message)) => {
            return NodePlan {
                steps: status::pulling(guest.now, vm, message),
                report: Report::new("FetchingImages", message),
                ..NodePlan::default()
            };
        }
        Some(FetchState::Fetched(pulled)) => pulled.as_slice(),
        None => &[],
    };
    let told = pulled.iter().map(|message| Step::Record(GuestEvent::normal(&vm.uid, "Pulled", message)));
    NodePlan {
        steps: told.chain([Step::PrepareDisks { uid: vm.uid.clone() }]).collect(),
        look: Some(Look::Start),
        report: Report::new("PreparingDisks", ""),
        ..NodePlan::default()
    }
}

/// Tells of a registry that keeps the guest waiting. That ends with a word to the agent; until then what is known of an earlier try stays in the status.
fn plan_asking(guest: &Guest<'_>, vm: &VmFacts, since: Timestamp, message: &str) -> NodePlan {
    // A clock that was set back says nothing.
    let waited = Duration::try_from(guest.now.duration_since(since)).unwrap_or_default();
    let left = LONG_TO_ASK.saturating_sub(waited);
    let has_failed = guest.observed.trouble.as_ref().is_some_and(|trouble| trouble.bringing_up);
    if left.is_zero() && !has_failed {
        return NodePlan {
            steps: status::pulling(guest.now, vm, message),
            report: Report::new("FetchingImages", message),
            ..NodePlan::default()
        };
    }
    let requeue = Some(left).filter(|left| !left.is_zero());
    NodePlan { requeue, ..NodePlan::wait("FetchingImages", message) }
}

/// A guest that runs, and was started by somebody else: kept if a start were allowed right now (S4), else stopped.
pub(super) fn plan_foreign_start(guest: &Guest<'_>, domain: &DomainFacts, vm: &VmFacts) -> NodePlan {
    debug_assert!(
        !is_started_by_agent(domain, guest.evidence(&vm.uid, vm.phase())),
        "asked about a guest of the agent's own"
    );
    match start_allowed(guest, vm) {
        Ok(_) => NodePlan::act("Adopting", vec![Step::JournalStart { uid: vm.uid.clone(), running: true }]),
        Err(Obstacle::Unread) => NodePlan::look(Look::Start, "StartedByOthers"),
        Err(Obstacle::ApiAway(_) | Obstacle::NotWanted(_) | Obstacle::Told(..)) => {
            stop::plan_stop(guest, domain, Some(vm))
        }
    }
}

/// Whether this node can bring the guest up at all: the ABI to define it with, or the plan that says why not.
fn prerequisites(guest: &Guest<'_>, vm: &VmFacts) -> Result<AbiStatus, NodePlan> {
    if let DomainSlot::Foreign(whose) = &guest.observed.slot {
        return Err(blocked(guest, vm, "NameInUse", whose, OBSTACLE_RETRY));
    }
    if let Some(trouble) = guest.observed.trouble.as_ref().filter(|trouble| trouble.bringing_up)
        && let Some(left) = trouble.wait_left(guest.now)
    {
        return Err(blocked(guest, vm, &trouble.reason, &trouble.message, left));
    }
    match (&guest.observed.slot, &guest.observed.wanted_abi) {
        (_, None) => Err(NodePlan::retry("LibvirtAway", "libvirt's capabilities are not known yet", OBSTACLE_RETRY)),
        (_, Some(Err(trouble))) => Err(blocked(guest, vm, &trouble.reason, &trouble.message, OBSTACLE_RETRY)),
        // Defined already: what libvirt settled counts, not what was asked for.
        (DomainSlot::Ours(domain), Some(Ok(_))) => Ok(domain.abi.clone()),
        (DomainSlot::Unknown | DomainSlot::Free | DomainSlot::Foreign(_), Some(Ok(abi))) => Ok(abi.clone()),
    }
}

/// S4: may this VM be started now? Answers with the VM as just read.
fn start_allowed<'a>(guest: &Guest<'a>, vm: &VmFacts) -> Result<&'a VmFacts, Obstacle> {
    let (Some(fresh), Some(check)) = (&guest.desired.fresh, &guest.desired.start_check) else {
        return Err(Obstacle::Unread);
    };
    if guest.observed.host_stops {
        let message = "the host is shutting down; the guest starts when it has booted, unless it is placed elsewhere";
        return Err(Obstacle::Told("HostShuttingDown", message.to_owned()));
    }
    if let Err(why) = &check.lease {
        return Err(Obstacle::ApiAway(format!("the node's Lease cannot be renewed: {why}")));
    }
    match &check.node {
        NodeView::InService => {}
        NodeView::OutOfService => {
            return Err(Obstacle::Told(
                "NodeOutOfService",
                "the node is tainted out of service; remove the taint".to_owned(),
            ));
        }
        NodeView::Missing => {
            return Err(Obstacle::Told("NodeMissing", "the Node object of this node does not exist".to_owned()));
        }
        NodeView::Unreachable(why) => return Err(Obstacle::ApiAway(why.clone())),
    }
    let fresh = match fresh {
        FreshVm::Present(fresh) => fresh,
        FreshVm::Absent => return Err(Obstacle::NotWanted("the VirtualMachine is gone".to_owned())),
        FreshVm::Unreachable(why) => return Err(Obstacle::ApiAway(why.clone())),
    };
    let refusal = if fresh.uid != vm.uid {
        "another VirtualMachine has taken its place"
    } else if !fresh.is_bound_to(&guest.observed.node_name) {
        "it is not bound to this node"
    } else if fresh.deleting {
        "it is being deleted"
    } else if !fresh.has_finalizer {
        "it has lost its finalizer; its controller puts it back"
    } else if fresh.phase() != Phase::Scheduled {
        "its phase is not Scheduled"
    } else {
        return Ok(fresh);
    };
    Err(Obstacle::NotWanted(refusal.to_owned()))
}

/// S5: no QEMU with this UUID may live.
fn process_clear(guest: &Guest<'_>) -> Result<(), Obstacle> {
    match &guest.observed.proc {
        ProcLook::Clear => Ok(()),
        ProcLook::NotLooked => Err(Obstacle::Unread),
        ProcLook::Failed(why) => {
            Err(Obstacle::Told("ProcessesUnreadable", format!("cannot tell whether the guest runs already: {why}")))
        }
        ProcLook::Hit { pid } => {
            Err(Obstacle::Told("StillRunning", format!("QEMU process {pid} runs this guest, and libvirt has lost it")))
        }
        ProcLook::OtherGuest { pid, domain } => Err(Obstacle::Told(
            "UuidInUse",
            format!("QEMU process {pid} of domain {domain} has the same firmware UUID"),
        )),
    }
}

/// S5: define, publish what libvirt settled, journal, start. In this order.
fn start_steps(guest: &Guest<'_>, fresh: &VmFacts, abi: &AbiStatus) -> Vec<Step> {
    let uid = || fresh.uid.clone();
    let is_new = !matches!(guest.observed.slot, DomainSlot::Ours(_));
    let mut steps = Vec::with_capacity(5);
    // An attempt that failed may have failed for what was defined. A domain of these very disks with an ABI of its own is left as libvirt settled it.
    let is_as_wanted = guest.observed.wanted_abi.as_ref().is_some_and(|wanted| wanted.as_ref() == Ok(abi));
    if is_new || is_as_wanted || !guest.observed.is_defined_from_disks {
        steps.push(Step::Define { uid: uid(), expect: abi.clone() });
    }
    let publish = status::write_if_needed(fresh, status::starting(fresh, abi, &guest.observed.disks.images));
    // A definition that settles another ABI than was expected ends its pass: the next one publishes it, and tells of the definition then.
    if is_new || publish.is_some() {
        steps.push(Step::Record(GuestEvent::normal(&fresh.uid, "Created", "VM defined.")));
    }
    steps.extend(publish);
    steps.push(Step::JournalStart { uid: uid(), running: false });
    steps.push(Step::Start { uid: uid() });
    steps
}

/// What to do about an obstacle.
fn explain(guest: &Guest<'_>, vm: &VmFacts, obstacle: Obstacle) -> NodePlan {
    match obstacle {
        Obstacle::Unread => NodePlan::look(Look::Start, "CheckingStart"),
        Obstacle::ApiAway(why) => NodePlan::retry("ApiAway", &why, API_RETRY),
        Obstacle::NotWanted(why) => NodePlan::retry("NotWanted", &why, API_RETRY),
        Obstacle::Told(reason, message) => blocked(guest, vm, reason, &message, OBSTACLE_RETRY),
    }
}

/// Says in the status why the guest does not come up, and tries again after `delay`.
fn blocked(guest: &Guest<'_>, vm: &VmFacts, reason: &str, message: &str, delay: Duration) -> NodePlan {
    NodePlan {
        steps: status::sync_failed(guest.now, vm, reason, message),
        requeue: Some(delay),
        report: Report::new("Blocked", message),
        ..NodePlan::default()
    }
}

impl Trouble {
    /// The pause before the first retry doubles with each failure, up to this where a guest is brought up.
    const LONGEST_START_PAUSE: Duration = Duration::from_secs(30);
    /// As above, for everything else: a stop must not wait long.
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);

    /// How long the step that failed must still wait. None: it may be tried.
    pub fn wait_left(&self, now: jiff::Timestamp) -> Option<Duration> {
        let longest = if self.bringing_up { Self::LONGEST_START_PAUSE } else { Self::LONGEST_PAUSE };
        let pause = Duration::from_secs(1u64 << self.failures.saturating_sub(1).min(5)).min(longest);
        // A failure from the future: the clock was set back since, and how long ago it was cannot be told.
        let waited = Duration::try_from(now.duration_since(self.at)).ok()?;
        pause.checked_sub(waited).filter(|left| !left.is_zero())
    }
}

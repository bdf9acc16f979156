//! Rules that hold in every world, however odd.

use std::time::Duration;

use api::v1alpha1::{AbiStatus, Phase, Placement, VolumeStatus};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::fixture::{NODE, OTHER_UID, UID, abi, at, domain, final_state, vm};
use crate::node::{
    DesiredGuest, DisksState, DomainSlot, DomainState, FetchState, FreshVm, ImageFetch, JournalFacts, Look, NodeView,
    ObservedGuest, OrphanGuard, OvmFacts, OvmView, PausedReason, ProcLook, ShutOffReason, StartCheck, StartRecord,
    Step, Trouble, VmFacts, plan_guest,
};

const UIDS: [&str; 2] = [UID, OTHER_UID];

fn any_phase() -> impl Strategy<Value = Phase> {
    select(vec![
        Phase::Unset,
        Phase::Pending,
        Phase::Scheduling,
        Phase::Scheduled,
        Phase::Running,
        Phase::Succeeded,
        Phase::Failed,
        Phase::Unknown,
    ])
}

fn any_vm() -> impl Strategy<Value = VmFacts> {
    let node = select(vec![None, Some(NODE), Some("node2")]);
    let volumes = proptest::collection::vec(Just(VolumeStatus::default()), 0..2);
    (select(&UIDS[..]), any_phase(), node, any::<bool>(), any::<bool>(), 0u64..40, volumes).prop_map(
        |(uid, phase, node, deleting, has_finalizer, grace, volumes)| {
            let mut vm = vm(phase);
            vm.status.volumes = volumes;
            uid.clone_into(&mut vm.uid);
            vm.status.node_name = node.map(str::to_owned);
            (vm.deleting, vm.has_finalizer, vm.grace) = (deleting, has_finalizer, Duration::from_secs(grace));
            vm
        },
    )
}

fn any_desired() -> impl Strategy<Value = DesiredGuest> {
    let fresh = prop_oneof![
        Just(FreshVm::Absent),
        Just(FreshVm::Unreachable("away".to_owned())),
        any_vm().prop_map(|vm| FreshVm::Present(Box::new(vm))),
    ];
    let node = select(vec![
        NodeView::InService,
        NodeView::OutOfService,
        NodeView::Missing,
        NodeView::Unreachable("away".to_owned()),
    ]);
    let check = (any::<bool>(), node)
        .prop_map(|(lease, node)| StartCheck { lease: lease.then_some(()).ok_or("away".to_owned()), node });
    let placement = (select(&UIDS[..]), select(vec![NODE, "node2"]), any::<bool>());
    let ovm = option::of(placement).prop_map(|placement| {
        let placement = placement.map(|(uid, node, released)| Placement {
            vm_uid: uid.to_owned(),
            node_name: node.to_owned(),
            released,
        });
        OvmView::Present(OvmFacts {
            uid: "ovm".to_owned(),
            resource_version: "1".to_owned(),
            placement,
            ..OvmFacts::default()
        })
    });
    (
        option::of(any_vm()),
        option::of(fresh),
        option::of(check),
        prop_oneof![Just(OvmView::Unknown), Just(OvmView::Absent), ovm],
    )
        .prop_map(|(cached, fresh, start_check, ovm)| DesiredGuest { cached, fresh, start_check, ovm })
}

fn any_slot() -> impl Strategy<Value = DomainSlot> {
    let off = select(vec![
        ShutOffReason::Unknown,
        ShutOffReason::Shutdown,
        ShutOffReason::Destroyed,
        ShutOffReason::Crashed,
        ShutOffReason::Failed,
        ShutOffReason::Daemon,
    ]);
    let live = select(vec![
        DomainState::Running,
        DomainState::Paused(PausedReason::StartingUp),
        DomainState::Paused(PausedReason::User),
        DomainState::ShuttingDown,
    ]);
    let state = prop_oneof![off.prop_map(DomainState::ShutOff), live];
    let ours =
        (select(&UIDS[..]), state, option::of(-60i64..60), 0u64..40).prop_map(|(uid, state, deadline, grace)| {
            let mut domain = domain(state);
            uid.clone_into(&mut domain.vm_uid);
            (domain.deadline, domain.grace) = (deadline.map(at), Duration::from_secs(grace));
            DomainSlot::Ours(Box::new(domain))
        });
    prop_oneof![1 => Just(DomainSlot::Unknown), 2 => Just(DomainSlot::Free), 1 => Just(DomainSlot::Foreign("theirs".to_owned())), 6 => ours]
}

fn any_observed() -> impl Strategy<Value = ObservedGuest> {
    let start = (any::<bool>(), any::<bool>(), option::of(6u32..9))
        .prop_map(|(this_boot, settled, run_id)| StartRecord { this_boot, settled, run_id });
    let entry = (select(&UIDS[..]), option::of(start), any::<bool>()).prop_map(|(uid, start, ended)| JournalFacts {
        vm_uid: uid.to_owned(),
        start,
        end: ended.then(final_state),
    });
    let proc = select(vec![
        ProcLook::NotLooked,
        ProcLook::Failed("denied".to_owned()),
        ProcLook::Clear,
        ProcLook::Clear,
        ProcLook::Hit { pid: 41 },
        ProcLook::OtherGuest { pid: 42, domain: "ns_other".to_owned() },
    ]);
    let trouble = (any::<bool>(), 1u32..9, 0i64..40).prop_map(|(bringing_up, failures, ago)| Trouble {
        reason: "DiskFull".to_owned(),
        message: "free space".to_owned(),
        at: at(-ago),
        failures,
        bringing_up,
    });
    let guard = select(vec![OrphanGuard::Unasked, OrphanGuard::Clear, OrphanGuard::Held("ask".to_owned())]);
    let ready = option::of(select(&UIDS[..])).prop_map(|uid| uid.map(str::to_owned));
    let present = option::weighted(0.9, proptest::sample::subsequence(UIDS.map(str::to_owned).to_vec(), 0..=2))
        .prop_map(|present| present.ok_or("unreadable".to_owned()));
    let fetch_state = prop_oneof![
        Just(FetchState::Missing),
        Just(FetchState::Asking { since: at(-60), message: "asking".to_owned() }),
        Just(FetchState::Pulling("half".to_owned())),
        Just(FetchState::Fetched(vec!["pulled".to_owned()])),
    ];
    let fetch = option::weighted(0.3, (select(&UIDS[..]), fetch_state))
        .prop_map(|fetch| fetch.map(|(uid, state)| ImageFetch { vm_uid: uid.to_owned(), state }));
    let wanted =
        option::of(any::<bool>()).prop_map(|same| same.map(|same| Ok(if same { abi() } else { AbiStatus::default() })));
    (
        any_slot(),
        proc,
        proptest::collection::vec(entry, 0..2),
        ready,
        (present, fetch),
        wanted,
        (option::weighted(0.2, trouble), option::of(-30i64..1), any::<bool>(), guard, any::<bool>()),
    )
        .prop_map(
            |(
                slot,
                proc,
                journal,
                ready_for,
                (present, fetch),
                wanted_abi,
                (trouble, signal, panic_seen, guard, host_stops),
            )| {
                ObservedGuest {
                    node_name: NODE.to_owned(),
                    slot,
                    proc,
                    journal,
                    disks: DisksState { ready_for, present, fetch, ..DisksState::default() },
                    is_defined_from_disks: !panic_seen,
                    wanted_abi,
                    trouble,
                    last_signal: signal.map(at),
                    disk_faults: Vec::new(),
                    resumes: None,
                    panic_seen,
                    guard,
                    host_stops,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn rules_hold_in_every_world(desired in any_desired(), observed in any_observed()) {
        let plan = plan_guest(at(0), &desired, &observed);
        prop_assert_eq!(&plan, &plan_guest(at(0), &desired, &observed), "deterministic");
        prop_assert!(plan.steps.iter().filter(|step| step.is_destructive()).count() <= 1, "one destructive step a pass");
        if matches!(observed.slot, DomainSlot::Unknown) {
            // Those need no libvirt.
            let without = |step: &Step| matches!(step, Step::CancelFetch | Step::Record(_));
            prop_assert!(plan.steps.iter().all(without), "libvirt is away");
        }
        let fresh = match &desired.fresh {
            Some(FreshVm::Present(vm)) => Some(vm),
            _ => None,
        };
        if observed.disks.present.is_err() {
            let lets_go = |step: &Step| matches!(step, Step::DropFinalizer { .. } | Step::ForgetJournal { .. } | Step::ReleasePlacement { .. });
            prop_assert!(!plan.steps.iter().any(lets_go), "what cannot be listed is not taken for gone");
        }
        for step in &plan.steps {
            match step {
                Step::FetchImages { uid } => {
                    let wanted = fresh.map(|vm| &**vm).or(desired.cached.as_ref()).expect("a VM to fetch for");
                    prop_assert!(&wanted.uid == uid && !wanted.deleting && wanted.is_bound_to(NODE), "fetched in vain");
                }
                Step::PrepareDisks { uid } => {
                    let others = observed.journal.iter().map(|entry| &entry.vm_uid).chain(observed.disks.present.iter().flatten());
                    prop_assert!(others.into_iter().all(|other| other == uid), "K2: while an earlier VM has some");
                }
                Step::Start { uid } => {
                    let fresh = fresh.expect("S4: read uncached");
                    prop_assert!(&fresh.uid == uid && fresh.phase() == Phase::Scheduled && fresh.is_bound_to(NODE));
                    prop_assert!(fresh.has_finalizer && !fresh.deleting, "S4");
                    prop_assert_eq!(desired.start_check.clone(), Some(StartCheck { lease: Ok(()), node: NodeView::InService }), "S4");
                    prop_assert_eq!(&observed.proc, &ProcLook::Clear, "S5");
                    prop_assert!(match &observed.slot {
                        DomainSlot::Free => true,
                        DomainSlot::Ours(domain) => domain.vm_uid == *uid && !domain.state.is_active(),
                        DomainSlot::Foreign(_) | DomainSlot::Unknown => false,
                    }, "I1: beside no other domain");
                    let unsettled = observed.journal.iter().filter_map(|entry| entry.start).any(|start| start.this_boot && !start.settled);
                    prop_assert!(!unsettled, "S6");
                }
                Step::Define { uid, .. } => prop_assert!(match &observed.slot {
                    DomainSlot::Free => true,
                    DomainSlot::Ours(domain) => domain.vm_uid == *uid,
                    DomainSlot::Foreign(_) | DomainSlot::Unknown => false,
                }, "never over a domain of another VM"),
                Step::GiveVolumesBack { uid } => {
                    let vm = fresh.map(|vm| &**vm).or(desired.cached.as_ref()).expect("a VM that ended");
                    prop_assert!(vm.uid == *uid && vm.phase().is_final() && observed.slot == DomainSlot::Free, "K2");
                    prop_assert!(matches!(observed.proc, ProcLook::Clear | ProcLook::OtherGuest { .. }), "E1");
                }
                Step::KillProcess { .. } => {
                    prop_assert!(!matches!(observed.slot, DomainSlot::Foreign(_)), "I6: a domain that is not ours");
                }
                Step::CleanDisks { .. } | Step::DropFinalizer { .. } if matches!(observed.slot, DomainSlot::Foreign(_)) => {
                    let vm = fresh.map(|vm| &**vm).or(desired.cached.as_ref()).expect("a VM to let go");
                    let ran = observed.journal.iter().any(|entry| entry.vm_uid == vm.uid && entry.start.is_some());
                    prop_assert!(!ran || matches!(observed.proc, ProcLook::Clear | ProcLook::OtherGuest { .. }), "E1");
                }
                Step::Undefine { .. } | Step::CleanDisks { .. } | Step::DropFinalizer { .. } | Step::ReleasePlacement { .. } => {
                    prop_assert!(matches!(observed.proc, ProcLook::Clear | ProcLook::OtherGuest { .. }), "E1");
                }
                Step::WriteStatus(write) if write.status.phase.is_some_and(Phase::is_final) => {
                    let before = desired.fresh.as_ref().map_or(desired.cached.as_ref(), |fresh| match fresh {
                        FreshVm::Present(vm) => Some(vm),
                        FreshVm::Absent | FreshVm::Unreachable(_) => desired.cached.as_ref(),
                    });
                    let was_final = before.is_some_and(|vm| vm.phase().is_final());
                    prop_assert!(was_final || matches!(observed.proc, ProcLook::Clear | ProcLook::OtherGuest { .. }), "E1");
                }
                Step::Destroy { uid } | Step::Shutdown { uid } | Step::SetDeadline { uid, .. } => {
                    let DomainSlot::Ours(domain) = &observed.slot else { panic!("touches only its own") };
                    prop_assert_eq!(&domain.vm_uid, uid);
                    let known = fresh.map(|vm| &**vm).or(desired.cached.as_ref()).filter(|_| desired.fresh != Some(FreshVm::Absent));
                    if known.is_none() {
                        prop_assert_eq!(&desired.fresh, &Some(FreshVm::Absent), "I6: an orphan only by an uncached 404");
                        prop_assert!(observed.guard == OrphanGuard::Clear || domain.deadline.is_some(), "E6");
                    }
                }
                _ => {}
            }
        }
        if matches!(observed.slot, DomainSlot::Foreign(_)) {
            let of_another = |step: &Step| match step {
                Step::CleanDisks { uid } => desired.cached.iter().chain(fresh.map(|vm| &**vm)).all(|vm| vm.uid != *uid),
                Step::ReleasePlacement { .. } => true,
                _ => false,
            };
            prop_assert!(!plan.steps.iter().any(of_another), "nothing of a guest that may live on as somebody else's domain");
        }
        // A look that was made is not asked for again at once: that would be a circle.
        if let (Some(Look::End), Some(_)) = (plan.look, &desired.fresh) {
            prop_assert_eq!(&observed.proc, &ProcLook::NotLooked);
        }
    }
}

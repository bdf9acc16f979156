//! S4, S5 and S6: when a guest is started, and when it is not.

use std::time::Duration;

use api::v1alpha1::Phase;

use super::fixture::{OTHER_UID, UID, World, abi, at, events, names, reason, started, vm, written};
use crate::node::{
    DomainSlot, DomainState, FreshVm, JournalFacts, Look, NodeView, ProcLook, ShutOffReason, StartCheck, StartRecord,
    Step, Trouble,
};

fn ready() -> World {
    let mut world = World::scheduled().looked_to_start();
    world.observed.disks.ready_for = Some(UID.to_owned());
    world
}

fn trouble(bringing_up: bool, failures: u32, seconds_ago: i64) -> Trouble {
    Trouble {
        reason: "DiskFull".to_owned(),
        message: "free space".to_owned(),
        at: at(-seconds_ago),
        failures,
        bringing_up,
    }
}

#[test]
fn disks_are_prepared_while_the_reads_of_s4_are_made() {
    let plan = World::scheduled().plan();
    assert_eq!(names(&plan), ["PrepareDisks"]);
    assert_eq!(plan.look, Some(Look::Start));
}

#[test]
fn s5_define_publish_journal_start_in_this_order() {
    let plan = ready().plan();
    assert_eq!(names(&plan), ["Define", "WriteStatus", "JournalStart", "Start"]);
    assert_eq!(written(&plan).unwrap().abi, Some(abi()));
    assert_eq!(events(&plan), [("Created", "VM defined.".to_owned())]);
    assert_eq!(plan.requeue, Some(Duration::ZERO), "what became of it is looked at");
}

#[test]
fn an_abi_that_is_published_already_is_not_written_again() {
    let mut world = ready();
    world.vm().status.abi = Some(abi());
    assert_eq!(names(&world.looked().plan()), ["Define", "JournalStart", "Start"]);
}

#[test]
fn what_libvirt_settled_is_published_not_what_was_asked_for() {
    let mut world =
        World::with_domain(Phase::Scheduled, DomainState::ShutOff(ShutOffReason::Unknown)).looked_to_start();
    world.observed.journal.clear();
    world.domain().abi.machine_type = Some("pc-q35-9.2".to_owned());
    let plan = world.plan();
    assert_eq!(names(&plan), ["WriteStatus", "JournalStart", "Start"], "and it is not defined over");
    assert_eq!(written(&plan).unwrap().abi.unwrap().machine_type.as_deref(), Some("pc-q35-9.2"));
    assert_eq!(events(&plan), [("Created", "VM defined.".to_owned())], "the pass that defined it ended there");
}

#[test]
fn s4_no_start_unless_every_read_says_so() {
    type Change = fn(&mut World);
    let rows: [(&str, Change); 12] = [
        ("the host shuts down", |world| world.observed.host_stops = true),
        ("no lease", |world| {
            world.desired.start_check = Some(StartCheck { lease: Err("away".to_owned()), node: NodeView::InService });
        }),
        ("node missing", |world| {
            world.desired.start_check = Some(StartCheck { lease: Ok(()), node: NodeView::Missing });
        }),
        ("node out of service", |world| {
            world.desired.start_check = Some(StartCheck { lease: Ok(()), node: NodeView::OutOfService });
        }),
        ("node unread", |world| {
            world.desired.start_check =
                Some(StartCheck { lease: Ok(()), node: NodeView::Unreachable("away".to_owned()) });
        }),
        ("VM unread", |world| world.desired.fresh = Some(FreshVm::Unreachable("away".to_owned()))),
        ("VM gone", |world| world.desired.fresh = Some(FreshVm::Absent)),
        ("another VM", |world| change_fresh(world, |vm| OTHER_UID.clone_into(&mut vm.uid))),
        ("bound elsewhere", |world| change_fresh(world, |vm| vm.status.node_name = Some("node2".to_owned()))),
        ("finalizer lost", |world| change_fresh(world, |vm| vm.has_finalizer = false)),
        ("being deleted", |world| change_fresh(world, |vm| vm.deleting = true)),
        ("not read at all", |world| world.desired.fresh = None),
    ];
    assert!(names(&ready().plan()).contains(&"Start".to_owned()));
    for (name, change) in rows {
        let mut world = ready();
        change(&mut world);
        let steps = names(&world.plan());
        assert!(!steps.contains(&"Start".to_owned()) && !steps.contains(&"Define".to_owned()), "{name}: {steps:?}");
    }
}

#[test]
fn s4_an_ended_vm_is_never_started_again() {
    for phase in [
        Phase::Unset,
        Phase::Pending,
        Phase::Scheduling,
        Phase::Running,
        Phase::Succeeded,
        Phase::Failed,
        Phase::Unknown,
    ] {
        let mut world = ready();
        change_fresh(&mut world, |vm| vm.status.phase = Some(phase));
        assert!(!names(&world.plan()).contains(&"Start".to_owned()), "{phase:?}");
    }
}

fn change_fresh(world: &mut World, change: impl Fn(&mut crate::node::VmFacts)) {
    let mut fresh = vm(Phase::Scheduled);
    change(&mut fresh);
    world.desired.fresh = Some(FreshVm::Present(Box::new(fresh)));
}

#[test]
fn s4_a_node_that_may_not_start_guests_is_told_to_the_user() {
    let mut world = ready();
    world.desired.start_check = Some(StartCheck { lease: Ok(()), node: NodeView::OutOfService });
    assert_eq!(reason(&written(&world.plan()).unwrap(), "Synchronized").as_deref(), Some("NodeOutOfService"));
}

#[test]
fn a_guest_that_waits_for_the_next_boot_says_so() {
    let mut world = ready();
    world.observed.host_stops = true;
    assert_eq!(reason(&written(&world.plan()).unwrap(), "Synchronized").as_deref(), Some("HostShuttingDown"));
}

#[test]
fn s5_no_start_beside_a_process_with_this_uuid() {
    let other = ProcLook::OtherGuest { pid: 9, domain: "ns_other".to_owned() };
    let rows = [
        (ProcLook::Hit { pid: 9 }, Some("StillRunning")),
        (other, Some("UuidInUse")),
        (ProcLook::Failed("denied".to_owned()), Some("ProcessesUnreadable")),
        (ProcLook::NotLooked, None),
    ];
    for (proc, why) in rows {
        let mut world = ready();
        world.observed.proc = proc.clone();
        let plan = world.plan();
        assert!(!names(&plan).contains(&"Start".to_owned()), "{proc:?}");
        assert_eq!(written(&plan).and_then(|status| reason(&status, "Synchronized")).as_deref(), why, "{proc:?}");
    }
}

#[test]
fn a_foreign_domain_in_the_way_is_named_and_not_touched() {
    let mut world = ready();
    world.observed.slot = DomainSlot::Foreign("domain default_vm belongs to node node7".to_owned());
    let plan = world.plan();
    assert_eq!(names(&plan), ["WriteStatus"]);
    assert!(events(&plan)[0].1.contains("node7"));
}

#[test]
fn a_failed_attempt_is_told_and_waits_ever_longer() {
    for (failures, pause) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (60, 30)] {
        let mut world = ready();
        world.observed.trouble = Some(trouble(true, failures, 0));
        let plan = world.plan();
        assert_eq!(plan.requeue, Some(Duration::from_secs(pause)), "{failures} failures");
        assert_eq!(names(&plan), ["WriteStatus"]);
        world.observed.trouble = Some(trouble(true, failures, pause.cast_signed()));
        assert!(names(&world.plan()).contains(&"Start".to_owned()), "tried again after {failures} failures");
    }
}

#[test]
fn a_clock_that_was_set_back_does_not_prolong_the_pause() {
    let mut world = ready();
    world.observed.trouble = Some(trouble(true, 1, -3600));
    assert!(names(&world.plan()).contains(&"Start".to_owned()));
}

#[test]
fn trouble_with_a_start_never_delays_a_stop() {
    let mut world = ready().deleting().looked();
    world.observed.trouble = Some(trouble(true, 6, 0));
    assert_eq!(names(&world.plan()), ["DropFinalizer", "ForgetJournal"]);
    world.observed.trouble = Some(trouble(false, 6, 0));
    let plan = world.plan();
    assert_eq!(names(&plan), [""; 0]);
    assert!(plan.requeue.is_some_and(|pause| pause <= Duration::from_secs(5)), "a stop's own trouble is retried soon");
    world.observed.trouble = Some(trouble(false, 1, 0));
    assert_eq!(events(&world.plan())[0].0, "SyncFailed", "and told when it begins");
}

#[test]
fn s6_a_start_without_known_end_is_settled_before_anything_else() {
    let unsettled =
        JournalFacts { start: Some(StartRecord { this_boot: true, settled: false, run_id: None }), ..started() };
    let off = DomainState::ShutOff(ShutOffReason::Shutdown);
    let mut worlds = vec![
        World::with_domain(Phase::Scheduled, off).looked_to_start(),
        World::with_domain(Phase::Scheduled, off).deleting().looked(),
        World::with_domain(Phase::Failed, off).deleting().looked(),
        World::with_domain(Phase::Scheduled, off).without_vm(),
        World::with_domain(Phase::Scheduled, off).with_successor(Some("node1")),
    ];
    let mut undefined = World::scheduled().looked_to_start();
    undefined.observed.disks.ready_for = Some(UID.to_owned());
    worlds.push(undefined);
    for mut world in worlds {
        world.observed.journal = vec![unsettled.clone()];
        assert_eq!(names(&world.plan()), ["SettleStart"], "{world:?}");
    }
}

#[test]
fn s6_nothing_fires_across_a_boot_of_the_host() {
    let mut world = World::with_domain(Phase::Running, DomainState::ShutOff(ShutOffReason::Unknown)).looked();
    world.observed.journal =
        vec![JournalFacts { start: Some(StartRecord { this_boot: false, settled: false, run_id: None }), ..started() }];
    assert_eq!(names(&world.plan()), ["WriteStatus", "Undefine"]);
}

#[test]
fn i5_a_guest_that_runs_is_not_touched_by_an_agent_that_knows_only_its_journal() {
    let mut world = World::running();
    // Killed between libvirt's answer and writing it down.
    world.observed.journal =
        vec![JournalFacts { start: Some(StartRecord { this_boot: true, settled: false, run_id: None }), ..started() }];
    assert!(names(&world.plan()).iter().all(|step| step == "WriteStatus"));
    world.observed.journal.clear();
    assert!(names(&world.plan()).iter().all(|step| step == "WriteStatus"), "the phase speaks for it");
}

#[test]
fn a_guest_started_by_others_is_stopped_unless_s4_holds() {
    let others = |phase| {
        let mut world = World::with_domain(phase, DomainState::Running);
        world.observed.journal.clear();
        world
    };
    assert_eq!(others(Phase::Scheduled).plan().look, Some(Look::Start));
    let kept = others(Phase::Scheduled).looked_to_start().plan();
    assert_eq!(kept.steps, [Step::JournalStart { uid: UID.to_owned(), running: true }]);
    let mut rebooted = World::running().looked_to_start();
    rebooted.observed.journal = vec![JournalFacts {
        start: Some(StartRecord { this_boot: false, settled: true, run_id: Some(7) }),
        ..started()
    }];
    assert_eq!(
        names(&rebooted.plan()),
        ["SetDeadline", "Shutdown"],
        "libvirt-guests started it: its phase is Running, so S4 does not hold"
    );
    let mut again = World::running().looked_to_start();
    again.domain().run_id = Some(8);
    assert_eq!(names(&again.plan()), ["SetDeadline", "Shutdown"], "virsh started it again behind the agent's back");
}

#[test]
fn disks_of_an_earlier_vm_go_before_its_successor_starts() {
    let mut world = ready();
    world.observed.disks.present = Ok(vec![OTHER_UID.to_owned()]);
    assert_eq!(world.plan().steps, [Step::CleanDisks { uid: OTHER_UID.to_owned() }]);
}

/// What the earlier VM has may be the very disk that its successor wants.
#[test]
fn k2_disks_of_an_earlier_vm_go_before_those_of_its_successor_are_prepared() {
    type Change = fn(&mut World);
    let signs: [Change; 2] = [
        |world| world.observed.journal = vec![JournalFacts { vm_uid: OTHER_UID.to_owned(), ..started() }],
        |world| world.observed.disks.ready_for = Some(OTHER_UID.to_owned()),
    ];
    for sign in signs {
        let mut world = World::scheduled();
        sign(&mut world);
        let plan = world.plan();
        assert_eq!((names(&plan), plan.look), (vec![], Some(Look::Start)), "S4 and S5 first: {world:?}");
        let mut world = world.looked_to_start();
        world.observed.disks.present = Ok(vec![OTHER_UID.to_owned()]);
        assert_eq!(world.plan().steps, [Step::CleanDisks { uid: OTHER_UID.to_owned() }]);
        let mut lives = world.clone();
        lives.observed.proc = ProcLook::Hit { pid: 9 };
        assert_eq!(names(&lives.plan()), ["WriteStatus"], "E1: not while its process lives");
        world.observed.disks.present = Ok(Vec::new());
        world.observed.disks.ready_for = None;
        if !world.observed.journal.is_empty() {
            assert_eq!(world.plan().steps, [Step::ForgetJournal { uid: OTHER_UID.to_owned() }]);
            world.observed.journal.clear();
        }
        assert_eq!(names(&world.plan()), ["PrepareDisks"]);
    }
}

//! E1 to E6: how guests end.

use std::time::Duration;

use api::v1alpha1::{Phase, VolumeStatus};

use super::fixture::{OTHER_UID, UID, World, at, events, final_state, names, reason, started, written};
use crate::node::{
    DomainSlot, DomainState, FreshVm, GuestKey, JournalFacts, Look, OrphanFacts, OrphanGuard, OvmView, ProcLook,
    ShutOffReason, Step, plan_orphans,
};

const OFF: DomainState = DomainState::ShutOff(ShutOffReason::Shutdown);

#[test]
fn e3_a_stop_sets_a_deadline_and_presses_the_button() {
    let plan = World::running().deleting().plan();
    assert_eq!(names(&plan), ["SetDeadline", "Shutdown"]);
    assert_eq!(plan.steps[0], Step::SetDeadline { uid: UID.to_owned(), deadline: at(30) });
    assert_eq!(events(&plan), [("ShuttingDown", "Signaled Graceful Shutdown".to_owned())]);
    assert_eq!(plan.requeue, Some(Duration::from_secs(10)));
}

#[test]
fn e3_the_button_is_pressed_every_ten_seconds_until_the_deadline() {
    let stopping = |signal: i64, deadline: i64| {
        let mut world = World::running().deleting();
        world.domain().deadline = Some(at(deadline));
        world.observed.last_signal = Some(at(signal));
        world
    };
    let early = stopping(-4, 20).plan();
    assert_eq!((names(&early), early.requeue), (vec![], Some(Duration::from_secs(6))));
    assert_eq!(stopping(-10, 20).plan().look, Some(Look::End), "each repeat asks for a successor first");
    let due = stopping(-10, 20).looked().plan();
    assert_eq!((names(&due), due.requeue), (vec!["Shutdown".to_owned()], Some(Duration::from_secs(10))));
    assert_eq!(stopping(-4, 3).plan().requeue, Some(Duration::from_secs(3)), "and no later than the deadline");
    assert_eq!(names(&stopping(-4, 0).plan()), ["Destroy"]);
    let mut restarted = stopping(0, 20);
    restarted.observed.last_signal = None;
    assert_eq!(names(&restarted.looked().plan()), ["Shutdown"], "a new agent does not know when");
}

#[test]
fn e3_the_api_being_away_does_not_delay_a_stop_that_has_begun() {
    let mut world = World::running().deleting().api_away();
    world.domain().deadline = Some(at(20));
    assert_eq!(names(&world.plan()), ["Shutdown"]);
    world.domain().deadline = Some(at(0));
    assert_eq!(names(&world.plan()), ["Destroy"]);
}

#[test]
fn a_grace_period_of_zero_powers_off_at_once() {
    let mut world = World::running().deleting();
    world.vm().grace = Duration::ZERO;
    let plan = world.plan();
    assert_eq!(names(&plan), ["SetDeadline", "Destroy"]);
    assert_eq!(events(&plan), [("Deleted", "VM stopping".to_owned())]);
}

#[test]
fn a_clock_set_back_does_not_lengthen_the_grace_period() {
    let mut world = World::running().deleting();
    world.domain().deadline = Some(at(3600));
    assert_eq!(world.plan().steps[0], Step::SetDeadline { uid: UID.to_owned(), deadline: at(30) });
}

#[test]
fn an_end_is_written_before_the_undefine_and_then_the_vm_is_let_go_step_by_step() {
    let mut world = World::with_domain(Phase::Running, OFF).deleting();
    assert_eq!(world.plan().look, Some(Look::End), "E1: /proc again");
    let plan = world.clone().looked().plan();
    assert_eq!(names(&plan), ["WriteStatus", "Undefine"], "E2");
    assert_eq!(events(&plan), [("Stopped", "The VM was shut down.".to_owned())]);

    world.vm().status = written(&plan).unwrap();
    assert_eq!(names(&world.clone().looked().plan()), ["Undefine"], "resumed after the write");
    world.observed.slot = DomainSlot::Free;
    assert_eq!(names(&world.clone().looked().plan()), ["CleanDisks"], "resumed after the undefine");
    world.observed.disks.present = Ok(Vec::new());
    let plan = world.clone().looked().plan();
    assert_eq!(names(&plan), ["DropFinalizer", "ForgetJournal"], "resumed after the cleanup");
    world.vm().has_finalizer = false;
    assert_eq!(names(&world.clone().looked().plan()), [""; 0], "somebody else's finalizer holds it");
    let gone = world.without_vm().with_ovm(UID, "node1", false);
    assert_eq!(names(&gone.plan()), ["ForgetJournal"], "resumed after the finalizer");
}

#[test]
fn an_ended_vm_keeps_its_disks_until_its_object_is_deleted() {
    let mut world = World::with_domain(Phase::Succeeded, OFF).looked();
    assert_eq!(names(&world.plan()), ["Undefine"]);
    world.observed.slot = DomainSlot::Free;
    assert_eq!(names(&world.plan()), [""; 0]);
}

#[test]
fn k2_an_ended_vm_gives_its_volumes_back_once_neither_domain_nor_process_is_left() {
    let mut world = World::with_domain(Phase::Succeeded, OFF);
    world.vm().status.volumes = vec![VolumeStatus::default()];
    assert_eq!(names(&world.clone().looked().plan()), ["Undefine"]);
    let mut theirs = world.clone().looked();
    theirs.observed.slot = DomainSlot::Foreign("whoever's".to_owned());
    assert_eq!(names(&theirs.plan()), [""; 0]);
    world.observed.slot = DomainSlot::Free;
    assert_eq!((names(&world.plan()), world.plan().look), (vec![], Some(Look::End)), "E1: /proc again");
    let mut world = world.looked();
    let mut lives = world.clone();
    lives.observed.proc = ProcLook::Hit { pid: 41 };
    assert_eq!(names(&lives.plan()), ["KillProcess"]);
    assert_eq!(world.plan().steps, [Step::GiveVolumesBack { uid: UID.to_owned() }], "its files stay");
    world.observed.disks.given_back = Some(UID.to_owned());
    assert_eq!((names(&world.plan()), world.plan().look), (vec![], None), "once");
}

/// EMFILE, say: what the VM has here would be nobody's, and its successor be refused it.
#[test]
fn what_cannot_be_listed_is_not_taken_for_gone() {
    let mut ended = World::with_domain(Phase::Succeeded, OFF).deleting().looked();
    let mut gone = World::with_domain(Phase::Succeeded, OFF).without_vm().with_ovm(UID, "node1", false);
    let mut successor = World::with_domain(Phase::Succeeded, OFF).with_successor(Some("node1")).looked_to_start();
    successor.observed.disks.ready_for = None;
    for (world, then) in
        [(&mut ended, "DropFinalizer"), (&mut gone, "ForgetJournal"), (&mut successor, "ForgetJournal")]
    {
        world.observed.slot = DomainSlot::Free;
        world.observed.disks.present = Err("too many open files".to_owned());
        let plan = world.plan();
        assert_eq!((names(&plan), plan.report.state), (vec![], "DisksUnreadable"), "{world:?}");
        assert!(plan.requeue.is_some() && plan.report.because.contains("open files"));
        world.observed.disks.present = Ok(Vec::new());
        assert_eq!(names(&world.plan())[0], then);
    }
}

#[test]
fn e1_a_live_process_that_libvirt_lost_is_a_running_guest() {
    let mut world = World::with_domain(Phase::Running, DomainState::ShutOff(ShutOffReason::Unknown)).looked();
    world.observed.proc = ProcLook::Hit { pid: 41 };
    let plan = world.plan();
    assert_eq!(names(&plan), ["WriteStatus"]);
    let status = written(&plan).unwrap();
    assert_eq!((status.phase, reason(&status, "Ready").as_deref()), (Some(Phase::Running), Some("DomainLost")));
    for mut world in [world.clone().deleting().looked(), world.without_vm()] {
        world.observed.proc = ProcLook::Hit { pid: 41 };
        assert_eq!(names(&world.plan()), ["KillProcess"], "a stop kills it");
    }
}

#[test]
fn e1_nothing_is_final_undefined_or_let_go_before_proc_was_read() {
    let shut_off = World::with_domain(Phase::Running, OFF);
    let mut free = World::with_domain(Phase::Succeeded, OFF).deleting();
    free.observed.slot = DomainSlot::Free;
    for world in [
        shut_off.clone().looked(),
        shut_off.deleting().looked(),
        free.looked(),
        World::with_domain(Phase::Running, OFF).without_vm(),
    ] {
        for proc in [ProcLook::NotLooked, ProcLook::Failed("denied".to_owned())] {
            let mut world = world.clone();
            world.observed.proc = proc;
            assert!(world.plan().steps.iter().all(|step| !step.is_destructive()), "{world:?}");
            assert!(written(&world.plan()).is_none(), "{world:?}");
        }
    }
}

#[test]
fn i3_an_end_goes_to_the_journal_while_the_api_is_away_and_is_reported_later() {
    let mut world = World::with_domain(Phase::Running, OFF).api_away();
    let plan = world.plan();
    assert_eq!(names(&plan), ["JournalEnd"], "and nothing is undefined");
    world.observed.journal = vec![JournalFacts { end: Some(final_state()), ..started() }];
    assert_eq!(names(&world.plan()), [""; 0], "once");
    // libvirtd restarted meanwhile: its reason is lost, the journal's is not.
    world.domain().state = DomainState::ShutOff(ShutOffReason::Unknown);
    let status = written(&world.clone().looked().plan()).unwrap();
    assert_eq!((status.phase, reason(&status, "Ready").as_deref()), (Some(Phase::Succeeded), Some("PoweredOff")));
    world.observed.slot = DomainSlot::Free;
    assert_eq!(written(&world.looked().plan()).unwrap().phase, Some(Phase::Succeeded), "even without its domain");
}

#[test]
fn i3_an_agent_that_starts_while_the_api_is_away_keeps_ends_too() {
    let mut world = World::with_domain(Phase::Running, OFF).api_away();
    world.desired.cached = None;
    assert_eq!(names(&world.plan()), ["JournalEnd"]);
    world.domain().state = DomainState::Running;
    assert_eq!(names(&world.plan()), [""; 0], "I6: nothing is an orphan that the API was not asked about");
}

#[test]
fn a_domain_that_somebody_undefined_is_a_failure_that_says_so() {
    let mut world = World::running();
    world.observed.slot = DomainSlot::Free;
    let status = written(&world.looked().plan()).unwrap();
    assert_eq!((status.phase, reason(&status, "Ready").as_deref()), (Some(Phase::Failed), Some("DomainGone")));
}

#[test]
fn a_vm_deleted_before_its_start_has_no_final_state() {
    let plan = World::scheduled().deleting().looked().plan();
    assert_eq!(names(&plan), ["DropFinalizer", "ForgetJournal"]);
}

#[test]
fn f3_a_guest_whose_vm_was_failed_by_fencing_is_destroyed_at_once() {
    let world = World::with_domain(Phase::Failed, DomainState::Running);
    assert_eq!(world.plan().look, Some(Look::End));
    assert_eq!(names(&world.looked().plan()), ["Destroy"]);
}

#[test]
fn e4_a_placement_is_released_when_its_vm_is_gone_and_nothing_is_left() {
    let gone = || {
        let mut world = World::scheduled().without_vm();
        world.observed.wanted_abi = None;
        world
    };
    let released = gone().with_ovm(UID, "node1", false).plan();
    assert_eq!(
        released.steps,
        [Step::ReleasePlacement { ovm_uid: "ovm".to_owned(), resource_version: "5".to_owned() }]
    );
    let not = |name: &str, world: World| assert_eq!(names(&world.plan()), [""; 0], "{name}");
    not("another node's", gone().with_ovm(UID, "node2", false));
    not("released already", gone().with_ovm(UID, "node1", true));
    not("the VM in it exists", World::scheduled().with_successor(None).with_ovm(OTHER_UID, "node1", false));
    let mut foreign = gone().with_ovm(UID, "node1", false);
    foreign.observed.slot = DomainSlot::Foreign("whoever's".to_owned());
    not("a domain of that name is left", foreign);
    let mut lives = gone().with_ovm(UID, "node1", false);
    lives.observed.proc = ProcLook::Hit { pid: 41 };
    assert_eq!(names(&lives.plan()), ["KillProcess"], "E1: /proc again before a release");
    let unread = gone();
    assert_eq!(unread.desired.ovm, OvmView::Unknown);
    not("unread", unread);
}

#[test]
fn i6_a_guest_that_libvirt_has_as_somebody_elses_domain_is_left_alone() {
    let whose = "domain default_vm of libvirt is in the way: it belongs to node node7".to_owned();
    let displaced = |mut world: World| {
        world.observed.slot = DomainSlot::Foreign(whose.clone());
        world.observed.proc = ProcLook::Hit { pid: 41 };
        world
    };
    // The node was given another name, or another control plane: the journal knows the guest, the API does not.
    let mut renamed = displaced(World::with_domain(Phase::Running, DomainState::Running).without_vm());
    renamed.observed.disks.present = Ok(vec![UID.to_owned()]);
    assert_eq!(renamed.plan().steps, []);
    assert_eq!(renamed.plan().report.state, "NameInUse");
    // Its metadata was changed by hand.
    let running = displaced(World::with_domain(Phase::Running, DomainState::Running).looked());
    assert_eq!(reason(&written(&running.plan()).unwrap(), "Ready").as_deref(), Some("DomainLost"));
    for ending in
        [running.clone().deleting().looked(), displaced(World::with_domain(Phase::Succeeded, OFF).deleting().looked())]
    {
        assert!(names(&ending.plan()).iter().all(|name| *name == "WriteStatus"), "{:?}", ending.plan());
    }
}

#[test]
fn a_vm_that_never_ran_is_let_go_whatever_has_its_name() {
    let mut world = World::scheduled().deleting().looked();
    world.observed.slot = DomainSlot::Foreign("whoever's".to_owned());
    world.observed.proc = ProcLook::Hit { pid: 41 };
    world.observed.journal = vec![crate::node::JournalFacts { vm_uid: OTHER_UID.to_owned(), ..started() }];
    assert_eq!(names(&world.plan()), ["DropFinalizer", "ForgetJournal"]);
}

#[test]
fn e1_a_process_that_this_node_never_started_is_not_killed() {
    let mut stranger = World::scheduled().without_vm();
    stranger.observed.proc = ProcLook::Hit { pid: 41 };
    assert_eq!(names(&stranger.plan()), [""; 0], "an agent beside this one may have started it");
    assert_eq!(names(&stranger.with_ovm(UID, "node1", false).plan()), ["KillProcess"], "promised to this node");
}

#[test]
fn an_orphan_is_stopped_with_its_own_grace_period() {
    let mut world = World::running().without_vm();
    assert_eq!(world.plan().look, Some(Look::Orphans), "E6: all orphans are judged together first");
    world.observed.guard = OrphanGuard::Clear;
    assert_eq!(
        world.plan().steps,
        [Step::SetDeadline { uid: UID.to_owned(), deadline: at(20) }, Step::Shutdown { uid: UID.to_owned() }]
    );
    world.observed.guard = OrphanGuard::Held("ask".to_owned());
    assert_eq!(names(&world.plan()), [""; 0]);
    world.domain().deadline = Some(at(0));
    assert_eq!(names(&world.plan()), ["Destroy"], "a stop that had begun goes on");
}

#[test]
fn i6_only_an_uncached_answer_makes_an_orphan() {
    let mut world = World::running();
    world.desired.cached = None;
    world.observed.guard = OrphanGuard::Clear;
    assert_eq!((names(&world.plan()), world.plan().look), (vec![], Some(Look::End)));
    world.desired.fresh = Some(FreshVm::Unreachable("kind not served".to_owned()));
    assert_eq!(names(&world.plan()), [""; 0]);
}

#[test]
fn e3_an_orphan_with_a_successor_elsewhere_is_destroyed_at_once() {
    assert_eq!(names(&World::running().with_successor(Some("node2")).plan()), ["Destroy"]);
    assert_eq!(
        names(&World::running().with_successor(Some("node1")).plan()),
        ["SetDeadline", "Shutdown"],
        "E5: here it ends first"
    );
    assert_eq!(names(&World::running().with_successor(None).plan()), ["SetDeadline", "Shutdown"]);
}

#[test]
fn an_orphan_that_ended_is_undefined_and_cleaned_up_before_its_successor_starts() {
    let mut world = World::with_domain(Phase::Running, OFF).with_successor(Some("node1"));
    assert_eq!(names(&world.plan()), ["Undefine"]);
    world.observed.slot = DomainSlot::Free;
    world.observed.disks.ready_for = Some(OTHER_UID.to_owned());
    world.desired.start_check = World::scheduled().looked_to_start().desired.start_check;
    assert_eq!(world.plan().steps, [Step::CleanDisks { uid: UID.to_owned() }]);
    world.observed.disks.present = Ok(Vec::new());
    assert_eq!(world.plan().steps, [Step::ForgetJournal { uid: UID.to_owned() }]);
    world.observed.journal.clear();
    assert!(names(&world.plan()).contains(&"Start".to_owned()));
}

#[test]
fn e6_most_of_a_node_never_goes_in_one_pass() {
    let orphan = |i: usize, active, has_successor| OrphanFacts {
        key: GuestKey { namespace: "ns".to_owned(), name: format!("vm{i}") },
        vm_uid: i.to_string(),
        active,
        has_successor,
    };
    let lost = |count| (0..count).map(|i| orphan(i, true, false)).collect::<Vec<_>>();
    for (orphans, running, held) in [(3, 3, 0), (4, 4, 4), (4, 7, 4), (4, 8, 0), (10, 20, 0), (11, 20, 11)] {
        let verdict = plan_orphans(&lost(orphans), running);
        assert_eq!((verdict.held.len(), verdict.message.is_some()), (held, held > 0), "{orphans} of {running}");
        assert_eq!(verdict.clear.len(), orphans - held);
    }
    let mut mixed = lost(4);
    mixed.push(orphan(8, false, false));
    mixed.push(orphan(9, true, true));
    let verdict = plan_orphans(&mixed, 5);
    assert_eq!(
        (verdict.held.len(), verdict.clear.len()),
        (4, 2),
        "a dead definition, or one with a successor, is never held back"
    );
}

#[test]
fn nothing_is_done_while_libvirt_is_away() {
    for mut world in [World::running(), World::running().deleting(), World::scheduled(), World::running().without_vm()]
    {
        world.observed.slot = DomainSlot::Unknown;
        let plan = world.plan();
        assert_eq!(names(&plan), [""; 0]);
        assert!(plan.requeue.is_some_and(|delay| delay < Duration::from_secs(30)), "asked again before the full pass");
    }
}

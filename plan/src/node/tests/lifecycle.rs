//! The lifecycle truth table, row by row: which phase, which reason.

use api::v1alpha1::Phase;

use super::fixture::{World, at, events, names, reason, written};
use crate::node::{DiskFault, DomainState, PausedReason, Resumes, ShutOffReason, Step, plan_guest};

/// What happened, how libvirt puts it, what else is known, and what is reported.
type Row<'a> = (&'a str, ShutOffReason, &'a dyn Fn(&mut World), (Phase, &'a str));

/// What a shut-off domain of a guest with `phase` in the API is reported as.
fn reported(phase: Phase, reason_of_stop: ShutOffReason, adapt: impl Fn(&mut World)) -> Option<(Phase, String)> {
    let mut world = World::with_domain(phase, DomainState::ShutOff(reason_of_stop)).looked();
    adapt(&mut world);
    let status = written(&world.plan())?;
    status.phase.filter(|phase| phase.is_final()).map(|phase| (phase, reason(&status, "Ready").unwrap_or_default()))
}

#[test]
fn each_row_of_the_truth_table_has_its_phase_and_reason() {
    let as_is = |_: &mut World| {};
    let panicked = |world: &mut World| world.observed.panic_seen = true;
    let graceless = |world: &mut World| world.domain().deadline = Some(at(-1));
    let graceful = |world: &mut World| world.domain().deadline = Some(at(10));
    let rows: [Row<'_>; 12] = [
        ("powered off, or SIGTERM to QEMU", ShutOffReason::Shutdown, &as_is, (Phase::Succeeded, "PoweredOff")),
        ("obeyed ACPI within its grace", ShutOffReason::Shutdown, &graceful, (Phase::Succeeded, "PoweredOff")),
        (
            "destroyed by its agent after the grace",
            ShutOffReason::Destroyed,
            &graceless,
            (Phase::Failed, "GracePeriodExceeded"),
        ),
        ("destroyed by somebody", ShutOffReason::Destroyed, &as_is, (Phase::Failed, "Destroyed")),
        ("destroyed by somebody within the grace", ShutOffReason::Destroyed, &graceful, (Phase::Failed, "Destroyed")),
        ("SIGKILL to QEMU", ShutOffReason::Crashed, &as_is, (Phase::Failed, "QemuCrashed")),
        ("panic with a panic device", ShutOffReason::Crashed, &panicked, (Phase::Failed, "GuestPanicked")),
        ("libvirtd restarted once more", ShutOffReason::Unknown, &as_is, (Phase::Failed, "StateLost")),
        ("saved", ShutOffReason::Saved, &as_is, (Phase::Failed, "Saved")),
        ("migrated", ShutOffReason::Migrated, &as_is, (Phase::Failed, "Migrated")),
        ("reverted", ShutOffReason::FromSnapshot, &as_is, (Phase::Failed, "Reverted")),
        ("a reason of a newer libvirt", ShutOffReason::Other(99), &as_is, (Phase::Failed, "ShutOff")),
    ];
    for (name, stop, adapt, (phase, why)) in rows {
        assert_eq!(reported(Phase::Running, stop, adapt), Some((phase, why.to_owned())), "{name}");
    }
}

#[test]
fn unknown_is_never_success() {
    for phase in [Phase::Scheduled, Phase::Running] {
        let reported = reported(phase, ShutOffReason::Unknown, |_| {});
        assert!(reported.is_none_or(|(phase, _)| phase == Phase::Failed));
    }
}

#[test]
fn s6_unknown_with_a_journalled_start_is_failed_and_without_one_it_never_ran() {
    let with = reported(Phase::Scheduled, ShutOffReason::Unknown, |_| {});
    assert_eq!(with, Some((Phase::Failed, "StateLost".to_owned())));
    let mut without =
        World::with_domain(Phase::Scheduled, DomainState::ShutOff(ShutOffReason::Unknown)).looked_to_start();
    without.observed.journal.clear();
    assert!(names(&without.plan()).contains(&"Start".to_owned()), "it never ran: it is started");
}

#[test]
fn a_start_that_was_cut_short_or_failed_is_tried_again() {
    for stop in [ShutOffReason::Daemon, ShutOffReason::Failed] {
        let world = World::with_domain(Phase::Scheduled, DomainState::ShutOff(stop)).looked_to_start();
        assert!(names(&world.plan()).contains(&"Start".to_owned()), "{stop:?}");
    }
}

#[test]
fn a_live_domain_is_running_and_its_readiness_says_how() {
    let rows = [
        (DomainState::Running, "True", "Running"),
        (DomainState::Paused(PausedReason::User), "False", "Paused"),
        (DomainState::Paused(PausedReason::IoError), "False", "PausedOnIoError"),
        (DomainState::Paused(PausedReason::Crashed), "False", "GuestPanicked"),
        (DomainState::Suspended, "False", "Suspended"),
        (DomainState::ShuttingDown, "False", "ShuttingDown"),
        (DomainState::CrashedKept, "False", "GuestPanicked"),
        (DomainState::Other, "Unknown", "UnknownState"),
    ];
    for (state, ready, why) in rows {
        let status = written(&World::with_domain(Phase::Scheduled, state).plan()).unwrap();
        let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!(
            (status.phase, condition.status.as_str(), condition.reason.as_deref()),
            (Some(Phase::Running), ready, Some(why))
        );
    }
}

#[test]
fn a_domain_that_libvirt_is_starting_is_not_running_yet() {
    let mut world = World::with_domain(Phase::Scheduled, DomainState::Paused(PausedReason::StartingUp));
    let plan = world.plan();
    assert_eq!(names(&plan), [""; 0]);
    assert!(plan.requeue.is_some(), "its event may be lost");
    world.observed.trouble = Some(crate::node::Trouble {
        reason: "LibvirtDeadline".to_owned(),
        message: "libvirt did not answer within 60 s".to_owned(),
        at: at(-100),
        failures: 1,
        bringing_up: true,
    });
    let plan = world.plan();
    let status = written(&plan).expect("a start that hangs is told");
    assert_eq!(reason(&status, "Synchronized").as_deref(), Some("LibvirtDeadline"));
    world.vm().status = status;
    assert_eq!((names(&world.plan()), plan.requeue.is_some()), (Vec::new(), true), "once");
}

#[test]
fn a_guest_is_labelled_with_its_node_where_that_fits() {
    for (length, expected) in [(63, 1), (64, 0)] {
        let mut world = World::running();
        world.observed.node_name = "n".repeat(length);
        world.vm().status.node_name = Some("n".repeat(length));
        let labels = names(&world.plan()).iter().filter(|name| *name == "SetNodeLabel").count();
        assert_eq!(labels, expected, "{length}");
    }
}

#[test]
fn an_unchanged_status_is_not_written_again() {
    let mut world = World::running();
    let status = written(&World::with_domain(Phase::Scheduled, DomainState::Running).plan()).unwrap();
    world.vm().status = status;
    assert_eq!(names(&world.plan()), [""; 0]);
}

#[test]
fn success_removes_the_condition_of_a_failure_and_keeps_transition_times() {
    let mut world = World::scheduled();
    world.observed.wanted_abi = Some(Err(crate::node::Trouble {
        reason: "EmulationRefused".to_owned(),
        message: "no KVM".to_owned(),
        at: at(0),
        failures: 1,
        bringing_up: true,
    }));
    let failing = world.plan();
    let status = written(&failing).unwrap();
    assert_eq!(reason(&status, "Synchronized").as_deref(), Some("EmulationRefused"));
    assert!(
        failing.steps.iter().any(
            |step| matches!(step, Step::Record(event) if event.reason == "SyncFailed" && event.message == "no KVM")
        )
    );
    world.vm().status = status.clone();
    assert_eq!(names(&world.plan()), [""; 0], "one event a cause");
    let mut running = World::with_domain(Phase::Scheduled, DomainState::Running);
    running.vm().status.conditions = status.conditions;
    let status = written(&running.plan()).unwrap();
    assert_eq!(reason(&status, "Synchronized"), None);
}

fn full(free_bytes: u64) -> DiskFault {
    let (disk, path) = ("root".to_owned(), "/v/disk.img".to_owned());
    DiskFault { disk, path, no_space: true, free_bytes: Some(free_bytes) }
}

#[test]
fn a_guest_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let mut world = World::with_domain(Phase::Running, DomainState::Paused(PausedReason::IoError));
    world.observed.disk_faults = vec![full(1 << 20)];
    let plan = world.plan();
    assert_eq!(names(&plan), ["WriteStatus"]);
    assert_eq!(events(&plan)[0].0, "DiskFull");
    let status = written(&plan).unwrap();
    assert_eq!(reason(&status, "Ready").as_deref(), Some("DiskFull"));
    let message = status.conditions[0].message.clone().unwrap();
    assert!(message.contains("disk root") && message.contains("file system of /v/disk.img is full"), "{message}");
    assert!(plan.requeue.is_some(), "nobody tells when there is room");

    world.vm().status = status;
    assert_eq!(names(&world.plan()), [""; 0], "it is full still");
    world.observed.disk_faults = vec![full(64 << 20)];
    assert_eq!(names(&world.plan()), ["Resume"]);
    // It stopped again: the next attempt waits.
    world.observed.resumes = Some(Resumes::after(None, at(0)));
    assert_eq!(names(&world.plan()), [""; 0]);
    world.observed.resumes = Some(Resumes::after(None, at(-6)));
    assert_eq!(names(&world.plan()), ["Resume"]);
    world.observed.resumes = Some(Resumes::after(None, at(3600)));
    assert_eq!(names(&world.plan()), ["Resume"], "the clock was set back by an hour: the guest does not wait for it");
}

#[test]
fn a_guest_whose_storage_failed_is_resumed_ever_more_seldom() {
    let mut world = World::with_domain(Phase::Running, DomainState::Paused(PausedReason::IoError));
    world.observed.disk_faults = vec![DiskFault { no_space: false, ..full(64 << 20) }];
    let plan = world.plan();
    assert_eq!(names(&plan), ["WriteStatus"], "it is not resumed at once");
    assert_eq!(events(&plan)[0].0, "PausedOnIoError");
    world.vm().status = written(&plan).unwrap();
    assert_eq!(reason(&world.vm().status, "Ready").as_deref(), Some("PausedOnIoError"));
    let (mut resumes, mut clock) = (None, 0);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let mut waited = 0;
        loop {
            world.observed.resumes = resumes;
            let plan = plan_guest(at(clock), &world.desired, &world.observed);
            if names(&plan) == ["Resume"] {
                break;
            }
            let pause = plan.requeue.unwrap().as_secs();
            waited += pause;
            clock += i64::try_from(pause).unwrap();
        }
        pauses.push(waited);
        resumes = Some(Resumes::after(resumes, at(clock)));
    }
    assert_eq!(pauses, [0, 5, 10, 20, 40, 80, 160, 300, 300]);
    // One that held begins anew.
    assert_eq!(Resumes::after(resumes, at(clock + 3600)).count, 1);
}

#[test]
fn a_paused_guest_that_is_to_stop_is_stopped() {
    let mut world = World::with_domain(Phase::Running, DomainState::Paused(PausedReason::IoError));
    world.observed.disk_faults = vec![full(64 << 20)];
    world.vm().deleting = true;
    assert!(!names(&world.plan()).contains(&"Resume".to_owned()));
}

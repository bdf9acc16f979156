//! What users see: status, conditions, back-off, lost nodes, events.

use api::Quantity;
use api::v1alpha1::{Condition, StartFailure};
use k8s_openapi::api::core::v1::Toleration;

use super::*;

fn printable(observed: &Observed) -> String {
    let observed = settled(observed.clone());
    observed.ovm.as_deref().unwrap().status.clone().unwrap().printable_status.unwrap()
}

fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn settled_status(observed: Observed) -> OfflineVirtualMachineStatus {
    settled(observed).ovm.unwrap().status.clone().unwrap()
}

fn failing(count: u32, uid: &str, retry_in: i64) -> OfflineVirtualMachine {
    let mut ovm = placed(ovm(true), VM_UID, "a", true);
    ovm.status.get_or_insert_default().start_failure = Some(StartFailure {
        consecutive_fail_count: count,
        last_failed_vm_uid: Some(uid.to_owned()),
        retry_after_timestamp: Some(Time(now().wall + jiff::SignedDuration::from_secs(retry_in))),
    });
    ovm
}

#[test]
fn nothing_that_counts_is_written_from_caches() {
    let (stopped, made) = (ovm(false), vm(&ovm(true)));
    let pair = world(Some(ovm(true)), Some(made));
    for observed in [world(Some(stopped), None), pair, world(None, Some(bare_vm()))] {
        assert!(matches!(plan(now(), &observed.with_order(ReadOrder::CACHED)).next, Next::Look(_)));
    }
}

#[test]
fn printable_status_says_what_the_machine_does() {
    let on = placed(ovm(true), VM_UID, "a", false);
    let off = placed(ovm(false), VM_UID, "a", false);
    let vm_in = |phase| bound(vm(&on), "a", phase);
    let mut unschedulable = vm(&on);
    unschedulable.status.get_or_insert_default().conditions.push(Condition {
        type_: "Scheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        ..Condition::default()
    });
    let mut no_image = vm_in(Phase::Scheduled);
    no_image.status.as_mut().unwrap().conditions.push(Condition {
        type_: "Synchronized".to_owned(),
        status: "False".to_owned(),
        reason: Some("ErrImagePull".to_owned()),
        ..Condition::default()
    });
    let mut full = vm_in(Phase::Running);
    full.status.as_mut().unwrap().conditions.push(Condition {
        type_: "Ready".to_owned(),
        status: "False".to_owned(),
        reason: Some("DiskFull".to_owned()),
        ..Condition::default()
    });
    let no_room = Observed { nodes: Vec::new(), ..world(Some(ovm(true)), Some(unschedulable)) };
    let lost = world(Some(on.clone()), Some(vm_in(Phase::Running))).with_home("a", home(expired_lease()));
    let mut lost_and_said = lost.clone();
    lost_and_said.vm = Some(Arc::new(VirtualMachine { status: Some(vm_status(&lost)), ..vm_in(Phase::Running) }));
    let mut told = no_room.clone();
    told.vm =
        Some(Arc::new(VirtualMachine { status: Some(vm_status(&no_room)), ..no_room.vm.as_deref().unwrap().clone() }));
    let cases = [
        ("Stopped", world(Some(ovm(false)), None)),
        ("Starting", world(Some(on.clone()), Some(vm_in(Phase::Scheduled)))),
        ("Running", world(Some(on.clone()), Some(vm_in(Phase::Running)))),
        ("DiskFull", world(Some(on.clone()), Some(full))),
        ("Stopping", world(Some(off), Some(deleting(vm_in(Phase::Running))))),
        ("Stopping", world(Some(on.clone()), Some(deleting(vm_in(Phase::Running))))),
        ("Terminating", world(Some(deleting(on.clone())), Some(deleting(vm_in(Phase::Running))))),
        ("CrashLoopBackOff", world(Some(failing(2, OLD_UID, 15)), None)),
        ("Unschedulable", told),
        ("NodeLost", lost_and_said),
        ("ErrImagePull", world(Some(on), Some(no_image))),
    ];
    for (expected, observed) in cases {
        assert_eq!(printable(&observed), expected, "{:?}", plan(now(), &observed).report);
    }
}

#[test]
fn condition_ready_says_why_the_guest_does_not_run() {
    let on = placed(ovm(true), VM_UID, "a", false);
    let with = |phase, type_: &str, reason: &str, message: &str| {
        let mut vm = bound(vm(&on), "a", phase);
        vm.status.as_mut().unwrap().conditions.push(Condition {
            type_: type_.to_owned(),
            status: "False".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            ..Condition::default()
        });
        world(Some(on.clone()), Some(vm))
    };
    let scheduled = Phase::Scheduled;
    let cases = [
        (world(Some(ovm(false)), None), "spec.running is false"),
        (world(Some(on.clone()), Some(bound(vm(&on), "a", scheduled))), "the guest is being started"),
        (with(scheduled, "Synchronized", "ErrImageNotFound", "image x: there is none"), "image x: there is none"),
        (with(scheduled, "Synchronized", "Pulling", "layer 1, 25%"), "its image is on its way"),
        (with(Phase::Running, "Ready", "DiskFull", "disk root: no space"), "disk root: no space"),
        (world(Some(failing(2, OLD_UID, 15)), None), "the guest did not stay up for 10 s, 2 times in a row, and is"),
        (world(Some(on.clone()), Some(deleting(bound(vm(&on), "a", scheduled)))), "the guest is being stopped"),
        (world(Some(on.clone()), Some(deleting(bound(vm(&on), "a", Phase::Running)))), "the guest is being stopped"),
    ];
    for (observed, expected) in cases {
        let status = settled_status(observed);
        let ready = condition(&status.conditions, "Ready").unwrap();
        assert_eq!(ready.status, "False", "{ready:?}");
        assert!(ready.message.as_deref().unwrap().starts_with(expected), "{expected}: {ready:?}");
    }
}

#[test]
fn created_and_ready_follow_the_vm() {
    let on = placed(ovm(true), VM_UID, "a", false);
    let running = settled_status(world(Some(on.clone()), Some(bound(vm(&on), "a", Phase::Running))));
    assert_eq!((running.created, running.ready, running.observed_generation), (true, true, Some(1)));
    let starting = settled_status(world(Some(on.clone()), Some(bound(vm(&on), "a", Phase::Scheduled))));
    assert_eq!((starting.created, starting.ready), (true, false));
    let none = settled_status(world(Some(ovm(false)), None));
    assert_eq!((none.created, none.ready), (false, false));
}

#[test]
fn an_ended_vm_is_first_said_to_be_not_ready_then_deleted() {
    let mut on = placed(ovm(true), VM_UID, "a", false);
    on.status.as_mut().unwrap().ready = true;
    let ended = entered(entered(bound(vm(&on), "a", Phase::Succeeded), Phase::Running, 60), Phase::Succeeded, 1);
    let observed = world(Some(on), Some(ended));
    assert!(!ovm_status(&observed).ready);
    assert!(matches!(step(&settled(observed)), Step::DeleteVm(_)));
}

#[test]
fn a_start_failure_counts_once_per_vm_and_backs_off() {
    // (ran for, was counted before, count, delay)
    let cases = [
        ("never ran", None, 0, 1, 10),
        ("died at once", Some(3), 0, 1, 10),
        ("again", Some(3), 1, 2, 20),
        ("many times", None, 5, 6, 300),
        ("very many times", None, 900, 901, 300),
    ];
    for (case, ran, before, count, delay) in cases {
        let on = if before == 0 { placed(ovm(true), VM_UID, "a", true) } else { failing(before, OLD_UID, -1) };
        let mut ended = entered(bound(vm(&on), "a", Phase::Failed), Phase::Failed, 1);
        if let Some(seconds) = ran {
            ended = entered(ended, Phase::Running, 1 + seconds);
        }
        let observed = settled(world(Some(on), Some(ended)));
        let failure = observed.ovm.as_ref().unwrap().status.clone().unwrap().start_failure.unwrap();
        assert_eq!(failure.consecutive_fail_count, count, "{case}");
        let retry_in = failure.retry_after_timestamp.unwrap().0.duration_since(now().wall).as_secs();
        assert_eq!(retry_in, delay, "{case}");
        assert!(matches!(step(&observed), Step::DeleteVm(_)), "{case}: counted once, then deleted");
    }
}

#[test]
fn a_guest_that_ran_ten_seconds_ends_the_series() {
    let on = failing(3, OLD_UID, 100);
    let young = entered(bound(vm(&on), "a", Phase::Running), Phase::Running, 4);
    let observed = settled(world(Some(on.clone()), Some(young)));
    assert_eq!(plan(now(), &observed).requeue, Some(Duration::from_secs(6)), "looked at again when it has");
    let old = entered(bound(vm(&on), "a", Phase::Running), Phase::Running, 10);
    assert_eq!(settled_status(world(Some(on.clone()), Some(old))).start_failure, None);
    let ended = entered(entered(bound(vm(&on), "a", Phase::Failed), Phase::Running, 60), Phase::Failed, 0);
    assert_eq!(settled_status(world(Some(on.clone()), Some(ended))).start_failure, None);
    let stopped = OfflineVirtualMachine { spec: ovm(false).spec, ..on };
    assert_eq!(settled_status(world(Some(stopped), None)).start_failure, None, "as does a stop");
}

#[test]
fn a_vm_that_the_user_deletes_is_no_start_failure() {
    let on = placed(ovm(true), VM_UID, "a", true);
    let killed = deleting(entered(bound(vm(&on), "a", Phase::Failed), Phase::Failed, 0));
    assert_eq!(settled_status(world(Some(on), Some(killed))).start_failure, None);
}

#[test]
fn a_crash_loop_waits_and_then_creates() {
    let waiting = settled(world(Some(failing(2, OLD_UID, 15)), None));
    let plan = plan(now(), &waiting);
    assert_eq!((plan.next, plan.requeue), (Next::Rest, Some(Duration::from_secs(15))));
    assert!(matches!(step(&world(Some(failing(2, OLD_UID, 0)), None)), Step::CreateVm(_)));
    let clock_went_back = settled(world(Some(failing(2, OLD_UID, 30)), None));
    assert_eq!(
        super::plan(now(), &clock_went_back).requeue,
        Some(Duration::from_secs(20)),
        "never longer than the delay"
    );
    let went_far_back = world(Some(failing(2, OLD_UID, 86_400)), None);
    assert!(matches!(step(&went_far_back), Step::CreateVm(_)), "it would be the same at each look of a day");
}

#[test]
fn a_failed_create_is_said_retried_and_forgotten() {
    let failure = StepFailure {
        operation: Operation::Create,
        error: "exceeded quota".to_owned(),
        attempts: 3,
        at: ELAPSED,
        generation: Some(1),
    };
    let failed = Observed { failure: Some(failure), ..world(Some(ovm(true)), None) };
    let observed = settled(failed.clone());
    let status = observed.ovm.as_ref().unwrap().status.clone().unwrap();
    let said = condition(&status.conditions, "Failure").unwrap();
    assert_eq!((said.reason.as_deref(), said.message.as_deref()), (Some("FailedCreate"), Some("exceeded quota")));
    assert_eq!(plan(now(), &observed).requeue, Some(Duration::from_secs(1)));
    let later = Now::at(ELAPSED + Duration::from_secs(1));
    assert!(matches!(plan(later, &observed).next, Next::Act(Step::CreateVm(_))));
    let mut changed = observed.clone();
    Arc::make_mut(changed.ovm.as_mut().unwrap()).metadata.generation = Some(2);
    assert!(matches!(step(&changed), Step::CreateVm(_)), "a changed OVM is tried at once");
    let worked = settled(Observed { failure: None, vm: Some(Arc::new(vm(&ovm(true)))), ..observed });
    let status = worked.ovm.unwrap().status.clone().unwrap();
    assert!(condition(&status.conditions, "Failure").is_none(), "gone once it works");
}

#[test]
fn a_failed_delete_is_said() {
    let failure = StepFailure {
        operation: Operation::Delete,
        error: "forbidden".to_owned(),
        attempts: 1,
        at: ELAPSED,
        generation: Some(1),
    };
    let off = placed(ovm(false), VM_UID, "a", false);
    let observed =
        Observed { failure: Some(failure), ..world(Some(off.clone()), Some(bound(vm(&off), "a", Phase::Running))) };
    let status = ovm_status(&observed);
    assert_eq!(condition(&status.conditions, "Failure").unwrap().reason.as_deref(), Some("FailedDelete"));
    assert!(rests(&settled(observed)));
}

#[test]
fn somebody_else_s_vm_is_left_alone_and_said() {
    for (running, reason) in [(true, "FailedCreate"), (false, "FailedDelete")] {
        let ovm = ovm(running);
        let mut foreign = bound(vm(&ovm), "a", Phase::Running);
        foreign.metadata.owner_references = Some(vec![owner("VirtualMachineReplicaSet", "r")]);
        let observed = settled(world(Some(ovm), Some(foreign)));
        let status = observed.ovm.as_ref().unwrap().status.clone().unwrap();
        assert_eq!(condition(&status.conditions, "Failure").unwrap().reason.as_deref(), Some(reason));
        assert!(!status.created);
        assert!(rests(&observed));
    }
}

#[test]
fn restart_required_while_the_running_guest_differs_from_the_template() {
    let memory = |text: &str| {
        let mut on = placed(ovm(true), VM_UID, "a", false);
        let requests = on.spec.template.spec.domain.resources.get_or_insert_default().requests.get_or_insert_default();
        requests.insert("memory".to_owned(), Quantity::from(text));
        on
    };
    let running = bound(vm(&memory("64M")), "a", Phase::Running);
    let required =
        |ovm, vm| condition(&settled_status(world(Some(ovm), Some(vm))).conditions, "RestartRequired").is_some();
    assert!(!required(memory("64M"), running.clone()));
    assert!(!required(memory("64000k"), running.clone()), "the same quantity");
    assert!(required(memory("65M"), running.clone()));
    assert!(!required(memory("65M"), deleting(running.clone())), "a restart is on its way");
    let mut labelled = running.clone();
    labelled.metadata.labels = Some(BTreeMap::from([("kubevirt.io/nodeName".to_owned(), "a".to_owned())]));
    assert!(!required(memory("64M"), labelled), "labels of others do not count");
    let mut template = memory("64M");
    template.spec.template.metadata.get_or_insert_default().labels =
        Some(BTreeMap::from([("l".to_owned(), "1".to_owned())]));
    assert!(required(template, running));
}

#[test]
fn a_lost_node_makes_ready_unknown_and_its_return_takes_that_back() {
    let on = placed(ovm(true), VM_UID, "a", false);
    let running = bound(vm(&on), "a", Phase::Running);
    let stale = ObservedHome { read_after_vm: false, ..home(expired_lease()) };
    let observed = world(Some(on), Some(running.clone())).with_home("a", stale);
    let look = Next::Look(Look { nodes: ["a".to_owned()].into(), revisions: false, keep: false });
    assert_eq!(plan(now(), &observed).next, look, "a controller without API saw no renewal either");
    let observed = observed.with_home("a", home(expired_lease()));
    let status = vm_status(&observed);
    let ready = condition(&status.conditions, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeLost")));
    assert_eq!(status.phase, Some(Phase::Running), "the guest may still run");
    let mut said = observed;
    said.vm = Some(Arc::new(VirtualMachine { status: Some(status), ..running }));
    assert!(rests(&settled(said.clone())));
    let unproven = LeaseFact { renewed: false, ..live_lease() };
    assert!(rests(&settled(said.clone().with_home("a", home(unproven)))), "a controller that has just started waits");
    let back = vm_status(&said.with_home("a", home(live_lease())));
    assert!(condition(&back.conditions, "Ready").is_none(), "the agent says how it is");
}

#[test]
fn an_agent_that_writes_all_but_its_lease_is_not_fought() {
    let on = placed(ovm(true), VM_UID, "a", false);
    let mut running = bound(vm(&on), "a", Phase::Running);
    let ready = Condition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(ago(4))),
        ..Condition::default()
    };
    running.status.as_mut().unwrap().conditions.push(ready);
    let observed = settled(world(Some(on), Some(running)).with_home("a", home(expired_lease())));
    let plan = plan(now(), &observed);
    assert_eq!((plan.next, plan.requeue), (Next::Rest, Some(Duration::from_secs(6))));
}

#[test]
fn an_unschedulable_vm_says_why_and_is_bound_when_there_is_room() {
    let mut observed = world(None, Some(bare_vm()));
    observed.nodes = vec![ObservedNode { guests: Requests { memory_kib: 8 << 20, cpu_millis: 0 }, ..node("a") }];
    let status = vm_status(&observed);
    let said = condition(&status.conditions, "Scheduled").unwrap();
    assert_eq!(said.message.as_deref(), Some("0/1 nodes are available: 1 Insufficient memory."));
    observed.vm = Some(Arc::new(VirtualMachine { status: Some(status), ..bare_vm() }));
    let plan = plan(now(), &observed);
    assert_eq!((plan.next, plan.requeue), (Next::Rest, Some(Duration::from_secs(30))));
    assert_eq!(plan.report.to_string(), "node a: Insufficient memory (139264 KiB missing)");
    observed.nodes = vec![node("a")];
    let status = vm_status(&observed);
    assert_eq!(status.phase, Some(Phase::Scheduled));
    assert!(condition(&status.conditions, "Scheduled").is_none());
}

#[test]
fn events_have_the_contract_s_words() {
    let ovm = ovm(true);
    let observed = world(Some(ovm.clone()), None);
    let create = Step::CreateVm(Box::new(vm(&ovm)));
    let delete = Step::DeleteVm(Version { uid: VM_UID.to_owned(), resource_version: "20".to_owned() });
    let cases = [
        (&create, Ok(()), false, "SuccessfulCreate", "Created virtual machine: vm".to_owned()),
        (&create, Err("quota"), true, "FailedCreate", "Error creating virtual machine: quota".to_owned()),
        (&delete, Ok(()), false, "SuccessfulDelete", format!("Deleted virtual machine: {VM_UID}")),
        (&delete, Err("no"), true, "FailedDelete", "Error deleting virtual machine vm: no".to_owned()),
    ];
    for (step, outcome, warning, reason, message) in cases {
        assert_eq!(event_for(step, &observed, outcome), Some(EventNote { on_vm: false, warning, reason, message }));
    }
}

#[test]
fn retries_slow_down() {
    let delays: Vec<_> = [1, 2, 3, 8, 40].map(|attempts| retry_delay(attempts).as_millis()).into();
    assert_eq!(delays, [250, 500, 1000, 30_000, 30_000]);
}

/// A guest on node a, which has a taint that ends guests.
fn tainted(tolerations: Option<Vec<Toleration>>, home: ObservedHome) -> Observed {
    let mut ovm = ovm(true);
    ovm.spec.template.spec.tolerations = tolerations;
    let vm = entered(bound(vm(&ovm), "a", Phase::Running), Phase::Running, 60);
    settled(world(Some(placed(ovm, VM_UID, "a", false)), Some(vm)).with_home("a", home))
}

fn tainted_home() -> ObservedHome {
    ObservedHome { no_execute: no_execute("hot"), ..home(live_lease()) }
}

#[test]
fn t1_a_taint_that_a_guest_does_not_tolerate_ends_it() {
    let observed = tainted(None, tainted_home());
    let evicted = step(&observed);
    let Step::EvictVm { at, because } = &evicted else { panic!("{evicted:?}") };
    assert_eq!((at.uid.as_str(), because.as_str()), (VM_UID, "node a has taint hot, which it does not tolerate"));
    let event = event_for(&evicted, &observed, Ok(())).unwrap();
    assert_eq!((event.on_vm, event.reason), (false, "TaintEviction"));

    let mut bare = world(None, Some(bound(bare_vm(), "a", Phase::Running))).with_home("a", tainted_home());
    let evicted = step(&bare);
    assert!(matches!(evicted, Step::EvictVm { .. }), "like a pod that nobody controls");
    assert!(event_for(&evicted, &bare, Ok(())).unwrap().on_vm, "nobody else could tell");
    bare.vm = Some(Arc::new(deleting(bare.vm.as_deref().unwrap().clone())));
    assert!(rests(&bare), "once");
}

#[test]
fn t1_a_toleration_keeps_a_guest_for_as_long_as_it_says() {
    let tolerates = |seconds: Option<i64>| {
        let key = Some("hot".to_owned());
        let operator = Some("Exists".to_owned());
        Some(vec![Toleration { key, operator, toleration_seconds: seconds, ..Toleration::default() }])
    };
    assert!(rests(&tainted(tolerates(None), tainted_home())));
    let plan = plan(now(), &tainted(tolerates(Some(90)), tainted_home()));
    assert_eq!((plan.next, plan.requeue), (Next::Rest, Some(Duration::from_secs(30))), "60 of 90 s are over");
    assert!(matches!(step(&tainted(tolerates(Some(60)), tainted_home())), Step::EvictVm { .. }));
}

#[test]
fn t1_a_lost_node_s_guests_and_ended_ones_stay() {
    let silent = ObservedHome { lease: expired_lease(), ..tainted_home() };
    assert!(!matches!(plan(now(), &tainted(None, silent)).next, Next::Act(Step::EvictVm { .. })));
    let unproven = LeaseFact { renewed: false, ..live_lease() };
    assert!(
        rests(&tainted(None, ObservedHome { lease: unproven, ..tainted_home() })),
        "a controller that knows nothing yet"
    );
    let stale = ObservedHome { read_after_vm: false, ..tainted_home() };
    assert_eq!(
        plan(now(), &tainted(None, stale)).next,
        Next::Look(Look { nodes: ["a".to_owned()].into(), revisions: false, keep: false })
    );
}

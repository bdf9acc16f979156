//! One test or more for each rule of the protocol that the controller keeps.

use crate::cluster::identity::firmware_uuid;
use api::names::{ORPHAN_FINALIZER, ORPHANED_BY_ANNOTATION, VM_FINALIZER};

use super::*;

/// A VM that runs on node a, and its OVM with everything in order.
fn running_pair() -> (OfflineVirtualMachine, VirtualMachine) {
    let ovm = placed(ovm(true), VM_UID, "a", false);
    let vm = entered(bound(vm(&ovm), "a", Phase::Running), Phase::Running, 60);
    (ovm, vm)
}

fn orphaning(mut ovm: OfflineVirtualMachine) -> OfflineVirtualMachine {
    ovm.metadata.finalizers.as_mut().unwrap().push(ORPHAN_FINALIZER.to_owned());
    ovm
}

#[test]
fn s1_the_ovm_gets_its_finalizer_before_its_first_vm() {
    let mut bare = ovm(true);
    bare.metadata.finalizers = Some(vec!["other".to_owned()]);
    let Step::EditOvm(at, edit) = step(&world(Some(bare), None)) else { panic!("no edit of the OVM") };
    assert_eq!(at, Version { uid: OVM_UID.to_owned(), resource_version: "10".to_owned() });
    assert_eq!(finalizers(&edit), ["other", OVM_FINALIZER]);
}

#[test]
fn s1_the_vm_is_created_with_its_finalizer_and_owner() {
    let mut template = ovm(true);
    let metadata = template.spec.template.metadata.get_or_insert_default();
    metadata.name = Some("another".to_owned());
    metadata.labels = Some(BTreeMap::from([("l".to_owned(), "1".to_owned())]));
    metadata.annotations = Some(BTreeMap::from([("a".to_owned(), "2".to_owned())]));
    let Step::CreateVm(vm) = step(&world(Some(template), None)) else { panic!("no create") };
    assert_eq!(vm.metadata.finalizers.as_deref(), Some([VM_FINALIZER.to_owned()].as_slice()));
    assert_eq!(vm.metadata.owner_references, Some(vec![owner("OfflineVirtualMachine", OVM_UID)]));
    assert_eq!(vm.metadata.name.as_deref(), Some("vm"), "the template's name is ignored");
    assert_eq!(vm.metadata.labels.unwrap()["l"], "1");
    assert_eq!(vm.metadata.annotations.unwrap()["a"], "2");
}

#[test]
fn s1_every_vm_that_is_not_being_deleted_gets_its_finalizer_back() {
    let (ovm, mut vm) = running_pair();
    vm.metadata.finalizers = None;
    let mut foreign = vm.clone();
    foreign.metadata.owner_references = Some(vec![owner("VirtualMachineReplicaSet", "r")]);
    let mut bare = vm.clone();
    bare.metadata.owner_references = None;
    let worlds =
        [world(Some(ovm.clone()), Some(vm.clone())), world(Some(ovm.clone()), Some(foreign)), world(None, Some(bare))];
    for observed in worlds {
        let Step::EditVm(_, edit) = step(&observed) else { panic!("no edit of the VM") };
        assert_eq!(finalizers(&edit), [VM_FINALIZER]);
    }
    let gone = deleting(vm);
    assert!(
        !matches!(plan(now(), &world(Some(ovm), Some(gone))).next, Next::Act(Step::EditVm(..))),
        "not while it goes"
    );
}

#[test]
fn s2_created_and_placement_are_one_write() {
    let ovm = ovm(true);
    let vm = vm(&ovm);
    let status = ovm_status(&world(Some(ovm), Some(vm)));
    assert!(status.created);
    let placement = status.placement.unwrap();
    assert_eq!((placement.vm_uid.as_str(), placement.released), (VM_UID, false));
}

#[test]
fn s2_status_is_written_only_with_a_vm_read_after_the_ovm() {
    let ovm = ovm(true);
    let vm = vm(&ovm);
    let order = ReadOrder { ovm_after_vm: true, vm_after_ovm: false };
    let next = plan(now(), &world(Some(ovm), Some(vm)).with_order(order)).next;
    assert_eq!(next, Next::Look(Look { revisions: true, ..Look::default() }));
}

#[test]
fn s2_the_create_answer_is_newer_than_the_ovm() {
    let ovm = ovm(true);
    let vm = vm(&ovm);
    let mut observed = world(Some(ovm), None);
    assert!(matches!(step(&observed), Step::CreateVm(_)));
    observed.vm_written(Some(Arc::new(vm)));
    assert!(ovm_status(&observed).placement.is_some(), "no look in between");
}

#[test]
fn s1_a_vm_is_created_from_the_caches_once_the_records_are_listed() {
    let mut observed = world(Some(ovm(true)), None).with_order(ReadOrder::CACHED);
    assert!(matches!(step(&observed), Step::CreateVm(_)));
    observed.revisions = None;
    let look = Look { keep: true, revisions: true, ..Look::default() };
    assert_eq!(plan(now(), &observed).next, Next::Look(look));
}

#[test]
fn s1_after_the_create_the_cached_ovm_is_good_for_a_write_that_it_guards() {
    let ovm = ovm(true);
    let made = vm(&ovm);
    let mut observed = world(Some(ovm), None).with_order(ReadOrder::CACHED);
    observed.vm_written(Some(Arc::new(made)));
    let Step::WriteOvmStatus { at, .. } = step(&observed) else { panic!("no placement") };
    assert_eq!(at.resource_version, "10");
}

#[test]
fn s1_an_ovm_written_from_the_caches_makes_no_vm_of_theirs_good() {
    let mut bare = ovm(true);
    bare.metadata.finalizers = None;
    let mut observed = world(Some(bare), Some(bare_vm())).with_order(ReadOrder::CACHED);
    assert!(matches!(step(&observed), Step::EditOvm(..)));
    observed.ovm_written(Some(Arc::new(ovm(true))));
    assert_eq!(plan(now(), &observed).next, Next::Look(Look::default()), "an adoption needs an uncached look");
}

#[test]
fn s2_a_vm_of_an_old_template_is_deleted_before_it_is_bound() {
    let made = vm(&ovm(true));
    let mut edited = ovm(true);
    edited.spec.template.spec.termination_grace_period_seconds = Some(5);
    let unplaced = world(Some(edited.clone()), Some(made.clone()));
    assert!(matches!(step(&unplaced), Step::DeleteVm(_)));
    let placed_only = world(Some(placed(edited.clone(), VM_UID, "a", false)), Some(made.clone()));
    assert!(
        matches!(step(&placed_only), Step::DeleteVm(_)),
        "it was placed by a template that our watch had cut short"
    );
    let running = world(Some(placed(edited, VM_UID, "a", false)), Some(bound(made.clone(), "a", Phase::Running)));
    assert!(!matches!(plan(now(), &running).next, Next::Act(Step::DeleteVm(_))), "an edit waits for the restart");
    let mut mutated = made;
    mutated.spec.termination_grace_period_seconds = Some(5);
    assert!(ovm_status(&world(Some(ovm(true)), Some(mutated))).placement.is_some(), "the template is the same");
}

#[test]
fn s2_an_unbound_vm_whose_placed_node_is_lost_is_deleted_not_moved() {
    let ovm = placed(ovm(true), VM_UID, "a", false);
    let vm = vm(&ovm);
    let observed = world(Some(ovm), Some(vm)).with_home("a", home(expired_lease()));
    assert!(matches!(step(&observed), Step::DeleteVm(_)));
}

#[test]
fn s2_an_adopted_vm_gets_its_placement_at_once() {
    let ovm = ovm(false);
    let vm = bound(vm(&ovm), "b", Phase::Running);
    let placement = ovm_status(&world(Some(ovm), Some(vm))).placement.unwrap();
    assert_eq!((placement.vm_uid.as_str(), placement.node_name.as_str()), (VM_UID, "b"), "even before it is stopped");
}

#[test]
fn s2_a_bare_vm_is_bound_without_placement() {
    let status = vm_status(&world(None, Some(bare_vm())));
    assert_eq!((status.node_name.as_deref(), status.phase), (Some("a"), Some(Phase::Scheduled)));
}

#[test]
fn s3_binding_is_one_write_with_everything_the_agent_needs() {
    let ovm = placed(ovm(true), VM_UID, "b", false);
    let vm = vm(&ovm);
    let observed = settled(world(Some(ovm), Some(vm)));
    let Step::WriteVmStatus { at, status, .. } = step(&observed) else { panic!("no binding") };
    assert_eq!(at, Version { uid: VM_UID.to_owned(), resource_version: "20".to_owned() });
    assert_eq!((status.node_name.as_deref(), status.phase), (Some("b"), Some(Phase::Scheduled)), "to the placed node");
    assert_eq!((status.network.as_deref(), status.nic_model.as_deref()), (Some("user"), Some("e1000")));
    let uuid = status.abi.unwrap().firmware_uuid.unwrap();
    assert_eq!(uuid, Uuid::new_v5(&CLUSTER, b"ns/vm").to_string());
    assert_eq!(status.phase_transition_timestamps.len(), 1);
}

#[test]
fn i4_firmware_uuid_is_the_template_s_or_the_key_s_or_the_bare_vm_s() {
    let key = ObjectKey { namespace: "ns".to_owned(), name: "vm".to_owned() };
    let other = ObjectKey { namespace: "other".to_owned(), ..key.clone() };
    let by_cluster = world(None, None).installation;
    let mut vm = bare_vm();
    let of_key = firmware_uuid(&by_cluster, &key, &vm, true, None);
    assert_ne!(of_key, firmware_uuid(&by_cluster, &other, &vm, true, None), "two namespaces, one name");
    assert_eq!(firmware_uuid(&by_cluster, &key, &vm, false, None).to_string(), VM_UID);
    vm.metadata.uid = Some(OLD_UID.to_owned());
    assert_eq!(of_key, firmware_uuid(&by_cluster, &key, &vm, true, None), "the same for the next VM");
    let asked = "5D307CA9-B3EF-428C-8861-06E72D69F223";
    vm.spec.domain.firmware.get_or_insert_default().uuid = Some(asked.to_owned());
    assert_eq!(firmware_uuid(&by_cluster, &key, &vm, true, None).to_string(), asked.to_lowercase());
}

#[test]
fn e3_a_vm_that_was_never_bound_is_let_go_by_the_controller() {
    let ovm = ovm(false);
    let vm = deleting(vm(&ovm));
    let Step::EditVm(_, edit) = step(&world(Some(ovm), Some(vm.clone()))) else { panic!("no edit") };
    assert!(finalizers(&edit).is_empty());
    let bound = bound(vm, "a", Phase::Scheduled);
    assert!(!matches!(plan(now(), &world(None, Some(bound))).next, Next::Act(_)), "a bound one by its node's agent");
}

#[test]
fn e3_a_vm_that_was_placed_and_never_bound_is_ended_by_its_node_unless_that_is_lost() {
    let ovm = deleting(placed(ovm(false), VM_UID, "a", false));
    let vm = deleting(vm(&ovm));
    let observed = world(Some(ovm), Some(vm));
    let status = vm_status(&settled(observed.clone()));
    assert_eq!((status.node_name.as_deref(), status.phase), (Some("a"), Some(Phase::Scheduled)));
    let lost = observed.with_home("a", home(expired_lease()));
    let Step::EditVm(_, edit) = step(&lost) else { panic!("not let go") };
    assert!(finalizers(&edit).is_empty());
}

#[test]
fn e5_no_successor_while_the_old_object_exists() {
    let (ovm, vm) = running_pair();
    let gone = deleting(bound(vm, "a", Phase::Succeeded));
    let observed = settled(world(Some(ovm), Some(gone)));
    assert!(rests(&observed), "the agent has to finish first");
}

#[test]
fn e5_an_unreleased_placement_ties_the_successor_to_its_node() {
    let ovm = placed(ovm(true), OLD_UID, "b", false);
    let vm = vm(&ovm);
    let placement = ovm_status(&world(Some(ovm.clone()), Some(vm.clone()))).placement.unwrap();
    assert_eq!((placement.vm_uid.as_str(), placement.node_name.as_str()), (VM_UID, "b"));
    let released = placed(ovm, OLD_UID, "b", true);
    let placement = ovm_status(&world(Some(released), Some(vm))).placement.unwrap();
    assert_eq!(placement.node_name, "a", "a released one leaves it free");
}

#[test]
fn e5_a_successor_waits_unplaced_while_the_node_that_holds_it_is_lost() {
    let ovm = placed(ovm(true), OLD_UID, "b", false);
    let vm = vm(&ovm);
    let mut observed = world(Some(ovm), Some(vm)).with_home("b", home(expired_lease()));
    observed.nodes = vec![node("a"), ObservedNode { lease: expired_lease(), ..node("b") }];
    let status = vm_status(&observed);
    let message = status.conditions[0].message.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Pending));
    assert!(message.contains("must wait until node b has let the old guest go"), "{message}");
}

#[test]
fn f1_a_fence_needs_an_expired_lease_and_a_word_of_the_administrator() {
    let (_, vm) = running_pair();
    let cases = [
        ("tainted, alive", ObservedHome { out_of_service: true, ..home(live_lease()) }, false),
        ("deleted, alive", ObservedHome { exists: false, ..home(live_lease()) }, false),
        ("silent", home(expired_lease()), false),
        ("tainted, silent", fenced_home(), true),
        ("deleted, silent", ObservedHome { exists: false, ..home(expired_lease()) }, true),
    ];
    for (case, home, fenced) in cases {
        let next = plan(now(), &world(None, Some(vm.clone())).with_home("a", home)).next;
        let failed =
            matches!(next, Next::Act(Step::WriteVmStatus { status, .. }) if status.phase == Some(Phase::Failed));
        assert_eq!(failed, fenced, "{case}");
    }
}

#[test]
fn f1_a_lease_is_expired_by_the_controller_s_own_clock_only() {
    let seen = LeaseFact::seen(None, Some("1"), Duration::from_secs(10));
    assert_eq!(
        seen.verdict(Duration::from_secs(49)),
        LeaseVerdict::Unproven,
        "a controller that has just started knows nothing"
    );
    assert_eq!(seen.verdict(Duration::from_secs(50)), LeaseVerdict::Expired);
    let same = LeaseFact::seen(Some(&seen), Some("1"), Duration::from_secs(45));
    assert_eq!(same, seen, "seeing it again renews nothing");
    let renewed = LeaseFact::seen(Some(&same), Some("2"), Duration::from_secs(49));
    assert_eq!(renewed.verdict(Duration::from_secs(88)), LeaseVerdict::Live);
    assert_eq!(renewed.verdict(Duration::from_secs(89)), LeaseVerdict::Expired);
    assert_eq!(renewed.expires_in(Duration::from_secs(50)), Some(Duration::from_secs(39)));
}

#[test]
fn f2_fencing_is_failed_then_finalizer_each_after_its_own_look() {
    let (ovm, vm) = running_pair();
    let stale = ObservedHome { read_after_vm: false, ..fenced_home() };
    let look = Next::Look(Look { nodes: ["a".to_owned()].into(), revisions: false, keep: false });
    // First write: Failed.
    let observed = world(Some(ovm.clone()), Some(vm.clone())).with_home("a", stale.clone());
    assert_eq!(plan(now(), &observed).next, look, "the node was not read after the VM");
    let mut observed = observed.with_home("a", fenced_home());
    let status = vm_status(&observed);
    assert_eq!(status.phase, Some(Phase::Failed));
    assert!(status.conditions.iter().any(|condition| condition.reason.as_deref() == Some("NodeFenced")));
    // The answer makes the look stale, so the second write needs its own.
    let failed = deleting(VirtualMachine { status: Some(status), ..vm });
    observed.vm_written(Some(Arc::new(failed.clone())));
    assert_eq!(plan(now(), &observed).next, look);
    let Step::EditVm(_, edit) = step(&world(Some(ovm), Some(failed)).with_home("a", fenced_home())) else {
        panic!("no second write")
    };
    assert!(finalizers(&edit).is_empty());
}

#[test]
fn f2_a_fenced_vm_that_nobody_deletes_keeps_its_finalizer() {
    let vm = bound(bare_vm(), "a", Phase::Failed);
    assert!(rests(&world(None, Some(vm)).with_home("a", fenced_home())));
}

#[test]
fn f2_after_the_fence_the_placement_is_released_and_the_successor_goes_elsewhere() {
    let mut observed = world(Some(placed(ovm(true), OLD_UID, "b", false)), None).with_home("b", fenced_home());
    let status = ovm_status(&observed);
    assert!(status.placement.as_ref().unwrap().released);
    let ovm = OfflineVirtualMachine { status: Some(status), ..observed.ovm.as_deref().unwrap().clone() };
    observed.ovm = Some(Arc::new(ovm.clone()));
    assert!(matches!(step(&observed), Step::CreateVm(_)));
    let placement = ovm_status(&world(Some(ovm.clone()), Some(vm(&ovm)))).placement.unwrap();
    assert_eq!(placement.node_name, "a");
}

#[test]
fn f2_the_release_needs_its_own_look_at_the_node_and_a_vm_that_is_gone() {
    let ovm = placed(ovm(true), VM_UID, "b", false);
    let stale = ObservedHome { read_after_vm: false, ..fenced_home() };
    let look = Next::Look(Look { nodes: ["b".to_owned()].into(), revisions: false, keep: false });
    assert_eq!(plan(now(), &world(Some(ovm.clone()), None).with_home("b", stale)).next, look);
    let there = world(Some(ovm.clone()), Some(vm(&ovm))).with_home("b", fenced_home());
    assert!(matches!(step(&there), Step::DeleteVm(_)), "the VM that is placed there goes first");
}

#[test]
fn d1_a_delete_needs_an_ovm_read_after_the_vm_and_names_that_vm() {
    let (mut ovm, vm) = running_pair();
    ovm.spec.running = false;
    let order = ReadOrder { ovm_after_vm: false, vm_after_ovm: true };
    let observed = world(Some(ovm), Some(vm));
    assert_eq!(plan(now(), &observed.clone().with_order(order)).next, Next::Look(Look::default()));
    let expected = Version { uid: VM_UID.to_owned(), resource_version: "20".to_owned() };
    assert_eq!(step(&observed), Step::DeleteVm(expected));
}

#[test]
fn d2_a_vm_to_be_orphaned_is_left_and_the_ovm_waits_for_the_collector() {
    let (ovm, vm) = running_pair();
    let going = deleting(orphaning(ovm.clone()));
    let Step::EditVm(_, MetadataEdit::OwnerReferences(owners)) = step(&world(Some(going.clone()), Some(vm.clone())))
    else {
        panic!("a collector that does not know the VM yet would leave it to us, and we would delete it")
    };
    assert!(owners.is_empty(), "{owners:?}");
    let mut left = vm.clone();
    left.metadata.owner_references = None;
    assert!(rests(&settled(world(Some(going), Some(left)))), "the guest is not stopped");
    assert!(matches!(step(&settled(world(Some(deleting(ovm)), Some(vm)))), Step::DeleteVm(_)), "without orphan it is");
}

#[test]
fn d2_a_bound_vm_that_placement_does_not_name_is_left_without_us() {
    for ovm in [ovm(true), placed(ovm(true), OLD_UID, "a", true)] {
        let mut vm = bound(vm(&ovm), "a", Phase::Running);
        vm.metadata.owner_references.as_mut().unwrap().push(OwnerReference { controller: None, ..owner("Other", "x") });
        let Step::EditVm(_, MetadataEdit::OwnerReferences(owners)) = step(&world(Some(deleting(ovm)), Some(vm))) else {
            panic!("no edit of the owners")
        };
        assert_eq!(owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), ["x"]);
    }
}

#[test]
fn d2_a_vm_that_was_never_bound_is_deleted() {
    let ovm = deleting(ovm(true));
    let vm = vm(&ovm);
    assert!(matches!(step(&world(Some(ovm), Some(vm))), Step::DeleteVm(_)));
}

#[test]
fn d3_the_ovm_waits_until_its_vm_is_gone_and_its_placement_released() {
    let ovm = deleting(placed(ovm(true), VM_UID, "a", false));
    let going = deleting(bound(vm(&ovm), "a", Phase::Running));
    assert!(rests(&settled(world(Some(ovm.clone()), Some(going)))), "the VM is there");
    assert!(rests(&settled(world(Some(ovm.clone()), None))), "the node may have the domain");
    let released = placed(ovm.clone(), VM_UID, "a", true);
    for observed in [world(Some(released), None), world(Some(ovm), None).with_home("a", fenced_home())] {
        let Step::EditOvm(_, edit) = step(&observed) else { panic!("not let go") };
        assert!(finalizers(&edit).is_empty());
    }
}

#[test]
fn d3_letting_go_needs_a_vm_read_after_the_ovm() {
    let order = ReadOrder { ovm_after_vm: true, vm_after_ovm: false };
    let (ovm, mut orphan) = running_pair();
    orphan.metadata.owner_references = None;
    orphan.metadata.annotations = Some(BTreeMap::from([(ORPHANED_BY_ANNOTATION.to_owned(), OVM_UID.to_owned())]));
    let gone = placed(ovm.clone(), VM_UID, "a", true);
    for observed in [world(Some(deleting(ovm)), Some(orphan)), world(Some(deleting(gone)), None)] {
        assert_eq!(plan(now(), &observed.clone().with_order(order)).next, Next::Look(Look::default()));
        assert!(matches!(step(&observed), Step::EditOvm(..)));
    }
}

#[test]
fn d3_an_orphaned_vm_is_written_once_before_the_ovm_goes() {
    let (ovm, mut vm) = running_pair();
    vm.metadata.owner_references = None;
    let ovm = deleting(ovm);
    let Step::EditVm(_, MetadataEdit::Annotation { key, value }) = step(&world(Some(ovm.clone()), Some(vm.clone())))
    else {
        panic!("no write to the VM")
    };
    assert_eq!((key, value.as_str()), (ORPHANED_BY_ANNOTATION, OVM_UID));
    vm.metadata.annotations = Some(BTreeMap::from([(key.to_owned(), value)]));
    let Step::EditOvm(_, edit) = step(&world(Some(ovm), Some(vm))) else { panic!("not let go") };
    assert!(finalizers(&edit).is_empty());
}

#[test]
fn d3_another_s_vm_of_the_name_does_not_stand_for_the_one_in_placement() {
    let ovm = deleting(placed(ovm(true), OLD_UID, "a", false));
    let mut vm = bound(vm(&ovm), "b", Phase::Running);
    vm.metadata.owner_references = Some(vec![owner("VirtualMachineReplicaSet", "r")]);
    assert!(rests(&settled(world(Some(ovm), Some(vm)))), "placement names another VM, not released");
}

#[test]
fn d4_adoption_needs_a_fresh_ovm_and_carries_the_vm_s_version() {
    let order = ReadOrder { ovm_after_vm: false, vm_after_ovm: true };
    let observed = world(Some(ovm(true)), Some(bound(bare_vm(), "a", Phase::Running)));
    assert_eq!(plan(now(), &observed.clone().with_order(order)).next, Next::Look(Look::default()));
    let Step::EditVm(at, MetadataEdit::OwnerReferences(owners)) = step(&observed) else { panic!("no adoption") };
    assert_eq!(at.resource_version, "20");
    assert_eq!(owners, [owner("OfflineVirtualMachine", OVM_UID)]);
}

#[test]
fn d4_a_deleting_ovm_adopts_nothing() {
    let observed = world(Some(deleting(ovm(true))), Some(bare_vm()));
    assert!(!matches!(step(&observed), Step::EditVm(_, MetadataEdit::OwnerReferences(_))));
}

#[test]
fn a_vm_whose_ovm_is_gone_is_left_to_the_garbage_collector() {
    let vm = vm(&ovm(true));
    assert!(rests(&world(None, Some(vm.clone()))), "not bound");
    let mut successor = ovm(true);
    successor.metadata.uid = Some("another".to_owned());
    assert!(rests(&settled(world(Some(successor), Some(vm)))), "nor taken over");
}

//! ABI records: copied, written, named, taken over, kept to ten (S3, R1, R2); machine types; UUIDs by KubeVirt's rule.

use std::collections::BTreeSet;

use api::abi::record_name;
use api::names::ABI_RESET_ANNOTATION;
use api::v1alpha1::{AbiDevice, AbiRecord, AbiStatus};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::cluster::objects::condition;

pub(super) fn record(machine_type: &str, disks: &[(&str, &str)]) -> AbiRecord {
    let device = |(alias, address): &(&str, &str)| AbiDevice {
        alias: (*alias).to_owned(),
        address: Some((*address).to_owned()),
        ..AbiDevice::default()
    };
    AbiRecord {
        version: 1,
        firmware_uuid: "11111111-2222-4333-8444-555555555555".to_owned(),
        serial: None,
        machine_type: machine_type.to_owned(),
        cpu_model: None,
        devices: disks.iter().map(device).collect(),
    }
}

fn old() -> AbiRecord {
    record("pc-q35-9.2", &[("ua-disk-a", "pci:0000:03:00.0")])
}

fn new() -> AbiRecord {
    record("pc-q35-9.2", &[("ua-disk-a", "pci:0000:03:00.0"), ("ua-disk-b", "pci:0000:04:00.0")])
}

pub(super) fn revision(number: i64, owner: Option<&str>, record: AbiRecord) -> AbiRevision {
    AbiRevision {
        name: record_name("vm", number),
        version: Version { uid: format!("revision-{number}"), resource_version: "5".to_owned() },
        revision: number,
        owner: owner.map(str::to_owned),
        record: Ok(record),
    }
}

/// A running guest that was bound with record `bound` and published `published`, and these records.
fn published(bound: Option<i64>, published: &AbiRecord, revisions: Vec<AbiRevision>) -> Observed {
    let ovm = placed(ovm(true), VM_UID, "a", false);
    let mut vm = super::bound(vm(&ovm), "a", Phase::Running);
    vm.status.get_or_insert_default().abi = Some(published.to_status(bound));
    let mut observed = world(Some(ovm), Some(vm));
    observed.revisions = Some(revisions);
    observed
}

#[test]
fn s3_no_vm_is_placed_or_bound_before_the_records_are_listed() {
    let look = Next::Look(Look { nodes: BTreeSet::new(), revisions: true, keep: false });
    let unlisted = |ovm, vm| Observed { revisions: None, ..world(Some(ovm), vm) };
    let unplaced = ovm(true);
    let unbound = vm(&unplaced);
    assert_eq!(plan(now(), &unlisted(unplaced, Some(unbound.clone()))).next, look);
    let observed = settled(world(Some(placed(ovm(true), VM_UID, "b", false)), Some(unbound)));
    assert_eq!(plan(now(), &Observed { revisions: None, ..observed }).next, look);
}

#[test]
fn s3_a_vm_is_bound_with_the_newest_record() {
    let ovm = placed(ovm(true), VM_UID, "b", false);
    let unbound = vm(&ovm);
    let owner = ovm.metadata.uid.clone();
    let mut observed = world(Some(ovm), Some(unbound));
    observed.revisions = Some(vec![revision(1, owner.as_deref(), old()), revision(2, owner.as_deref(), new())]);
    let observed = settled(observed);
    assert_eq!(vm_status(&observed).abi, Some(new().to_status(Some(2))));
}

#[test]
fn s2_the_ovm_names_the_newest_record_when_its_vm_is_placed() {
    let ovm = ovm(true);
    let unplaced = vm(&ovm);
    let owner = ovm.metadata.uid.clone();
    let mut observed = world(Some(ovm), Some(unplaced));
    observed.revisions = Some(vec![revision(2, owner.as_deref(), new())]);
    assert_eq!(ovm_status(&observed).abi, Some(new().to_summary(Some(2))));
}

#[test]
fn i4_a_uuid_in_the_template_wins_over_the_record() {
    let mut ovm = placed(ovm(true), VM_UID, "b", false);
    let asked = "5d307ca9-b3ef-428c-8861-06e72d69f223";
    ovm.spec.template.spec.domain.firmware.get_or_insert_default().uuid = Some(asked.to_owned());
    let unbound = vm(&ovm);
    let owner = ovm.metadata.uid.clone();
    let mut observed = world(Some(ovm), Some(unbound));
    observed.revisions = Some(vec![revision(2, owner.as_deref(), new())]);
    let abi = vm_status(&settled(observed)).abi.unwrap();
    assert_eq!((abi.firmware_uuid.as_deref(), abi.revision, abi.devices.len()), (Some(asked), Some(2), 2));
}

#[test]
fn r1_what_was_published_becomes_the_record_after_the_one_that_the_vm_was_bound_with() {
    let first = published(None, &old(), Vec::new());
    let Step::CreateRevision(made) = step(&first) else { panic!("no record") };
    assert_eq!((made.revision, made.metadata.name.as_deref()), (1, Some("vm-abi-1")));
    assert_eq!(made.data.unwrap().0, old().to_data());
    assert_eq!(
        made.metadata.owner_references.unwrap()[0].uid,
        first.ovm.as_ref().unwrap().metadata.uid.clone().unwrap()
    );
    let owner = first.ovm.as_ref().unwrap().metadata.uid.clone();
    let next = published(Some(1), &new(), vec![revision(1, owner.as_deref(), old())]);
    let planned = step(&next);
    let Step::CreateRevision(made) = &planned else { panic!("no record") };
    assert_eq!(made.revision, 2);
    let event = event_for(&planned, &next, Ok(())).unwrap();
    assert_eq!((event.warning, event.reason), (false, "AbiChanged"));
    assert_eq!(event.message, "ABI record 2: ua-disk-b added (pci:0000:04:00.0)");
    assert_eq!(event_for(&step(&first), &first, Ok(())), None, "a first record is no change");
}

#[test]
fn r1_an_unlisted_record_is_looked_for_and_one_that_is_not_due_waits() {
    let mut unlisted = published(None, &old(), Vec::new());
    unlisted.revisions = None;
    assert_eq!(plan(now(), &unlisted).next, Next::Look(Look { nodes: BTreeSet::new(), revisions: true, keep: false }));
    let mut early = published(None, &old(), Vec::new());
    Arc::make_mut(early.vm.as_mut().unwrap()).status.get_or_insert_default().phase = Some(Phase::Scheduled);
    assert!(!matches!(plan(now(), &early).next, Next::Act(Step::CreateRevision(_))), "it goes out with ready");
}

#[test]
fn r1_a_record_of_somebody_else_raises_the_number_first() {
    let owner = ovm(true).metadata.uid;
    let observed =
        published(Some(1), &new(), vec![revision(1, owner.as_deref(), old()), revision(2, owner.as_deref(), old())]);
    assert_eq!(vm_status(&observed).abi.unwrap().revision, Some(2), "under the VM's own version");
}

#[test]
fn r2_the_ovm_names_the_record_in_the_write_of_ready() {
    let owner = ovm(true).metadata.uid;
    let status = ovm_status(&published(None, &old(), vec![revision(1, owner.as_deref(), old())]));
    assert_eq!((status.ready, status.abi), (true, Some(old().to_summary(Some(1)))));
}

#[test]
fn a_record_that_nobody_owns_is_taken_over_and_another_ovm_s_is_not() {
    let orphan = published(Some(1), &old(), vec![revision(1, None, old())]);
    let Step::EditRevision { name, owners, .. } = step(&orphan) else { panic!("not taken over") };
    assert_eq!(
        (name.as_str(), owners[0].uid.as_str()),
        ("vm-abi-1", orphan.ovm.as_ref().unwrap().metadata.uid.as_deref().unwrap())
    );
    let foreign = published(None, &old(), vec![revision(7, Some("an earlier OVM"), new())]);
    let Step::CreateRevision(made) = step(&foreign) else { panic!("no record") };
    assert_eq!(made.revision, 1, "what is about to be collected does not count");
}

#[test]
fn r1_a_number_after_which_none_can_come_is_no_records() {
    let of = |number| {
        let named = ObjectMeta { name: Some(record_name("vm", number)), ..ObjectMeta::default() };
        AbiRevision::from_object("vm", &ControllerRevision { metadata: named, revision: number, data: None })
    };
    assert!(of(7).is_some() && of(i64::MAX).is_none() && of(-1).is_none());
    // Nor does one in a status end the program.
    step(&published(Some(i64::MAX), &old(), Vec::new()));
}

#[test]
fn ten_records_are_kept() {
    let owner = ovm(true).metadata.uid;
    let all: Vec<_> = (5..16).map(|number| revision(number, owner.as_deref(), old())).collect();
    let Step::DeleteRevision { name, at } = step(&published(Some(15), &old(), all.clone())) else { panic!("kept") };
    assert_eq!((name.as_str(), at.uid.as_str()), ("vm-abi-5", "revision-5"));
    assert!(!matches!(step(&published(Some(15), &old(), all[1..].to_vec())), Step::DeleteRevision { .. }));
}

#[test]
fn a_backup_is_not_pruned_and_does_not_count() {
    let mut observed = published(Some(15), &old(), Vec::new());
    let named = reset(observed.ovm.as_deref().cloned().unwrap(), "4");
    let owner = named.metadata.uid.clone();
    observed.ovm = Some(Arc::new(named));
    let mut with_own = |oldest: i64| {
        let backups = (1..5).map(|number| revision(number, None, old()));
        let own = (oldest..16).map(|number| revision(number, owner.as_deref(), old()));
        observed.revisions = Some(backups.chain(own).collect());
        step(&observed)
    };
    assert!(!matches!(with_own(6), Step::DeleteRevision { .. }), "ten of its own");
    let Step::DeleteRevision { name, .. } = with_own(5) else { panic!("kept") };
    assert_eq!(name, "vm-abi-5", "the oldest of its own");
}

/// An OVM whose records were reset up to number `reset`.
fn reset(mut ovm: OfflineVirtualMachine, reset: &str) -> OfflineVirtualMachine {
    ovm.metadata.annotations.get_or_insert_default().insert(ABI_RESET_ANNOTATION.to_owned(), reset.to_owned());
    ovm
}

#[test]
fn a_reset_forgets_the_records_and_a_vm_is_bound_with_none_of_them() {
    let ovm = reset(placed(ovm(true), VM_UID, "b", false), "3");
    let unbound = vm(&ovm);
    let owner = ovm.metadata.uid.clone();
    let mut observed = world(Some(ovm), Some(unbound));
    observed.revisions = Some(vec![revision(2, owner.as_deref(), old()), revision(3, None, old())]);
    let Step::DeleteRevision { name, .. } = step(&observed) else { panic!("kept") };
    assert_eq!(name, "vm-abi-2");
    // What nobody owns is somebody's backup: it stays, and does not count either.
    observed.revisions = Some(vec![revision(3, None, old())]);
    let abi = vm_status(&settled(observed.clone())).abi.unwrap();
    assert_eq!((abi.revision, abi.hash, abi.machine_type), (Some(4), None, None));
    observed.revisions = Some(vec![revision(5, owner.as_deref(), old())]);
    assert_eq!(vm_status(&settled(observed)).abi.unwrap().revision, Some(5), "a record of after the reset counts");
}

#[test]
fn a_guest_that_settles_the_same_after_a_reset_gets_a_record() {
    let mut observed = published(Some(4), &old(), Vec::new());
    let named = reset(observed.ovm.as_deref().cloned().unwrap(), "3");
    let mut named = placed(named, VM_UID, "a", false);
    // As before the reset: number 3, the same content.
    named.status.get_or_insert_default().abi = Some(old().to_summary(Some(3)));
    observed.ovm = Some(Arc::new(named));
    let Step::CreateRevision(made) = step(&observed) else { panic!("no record") };
    assert_eq!(made.revision, 5);
}

#[test]
fn what_runs_during_a_reset_is_recorded_before_it_is_forgotten() {
    let mut observed = published(Some(2), &new(), Vec::new());
    let ovm = reset(observed.ovm.as_deref().cloned().unwrap(), "3");
    let owner = ovm.metadata.uid.clone();
    observed.ovm = Some(Arc::new(ovm));
    observed.revisions = Some(vec![revision(2, owner.as_deref(), old())]);
    let Step::CreateRevision(made) = step(&observed) else { panic!("no record") };
    assert_eq!(made.revision, 3);
    observed.revision_written(AbiRevision::from_object("vm", &made).unwrap());
    let status = ovm_status(&observed);
    assert_eq!(status.abi, Some(new().to_summary(Some(3))), "R2");
    Arc::make_mut(observed.ovm.as_mut().unwrap()).status = Some(status);
    assert!(matches!(step(&observed), Step::DeleteRevision { .. }));
}

#[test]
fn a_reset_that_is_no_number_keeps_the_guest_from_being_bound() {
    let ovm = reset(placed(ovm(true), VM_UID, "b", false), "all");
    let unbound = vm(&ovm);
    let status = vm_status(&world(Some(ovm), Some(unbound)));
    let scheduled = condition(&status.conditions, "Scheduled").unwrap();
    assert_eq!((scheduled.status.as_str(), scheduled.reason.as_deref()), ("False", Some("AbiRecordUnusable")));
    let message = scheduled.message.as_deref().unwrap();
    assert!(message.contains("kubevirt.io/abi-reset") && message.contains("\"all\""), "{message}");
}

#[test]
fn a_record_that_cannot_be_read_keeps_the_guest_from_being_bound() {
    let ovm = placed(ovm(true), VM_UID, "b", false);
    let unbound = vm(&ovm);
    let owner = ovm.metadata.uid.clone();
    let mut observed = world(Some(ovm), Some(unbound));
    let newer = AbiRevision { record: Err("version 2".to_owned()), ..revision(3, owner.as_deref(), old()) };
    observed.revisions = Some(vec![revision(2, owner.as_deref(), old()), newer]);
    let status = vm_status(&observed);
    let scheduled = condition(&status.conditions, "Scheduled").unwrap();
    assert_eq!((scheduled.status.as_str(), scheduled.reason.as_deref()), ("False", Some("AbiRecordUnusable")));
    assert!(scheduled.message.as_ref().unwrap().contains("vm-abi-3"));
}

#[test]
fn a_fenced_vm_is_let_go_once_its_abi_is_recorded() {
    let ovm = placed(ovm(true), VM_UID, "a", false);
    let mut gone = super::bound(vm(&ovm), "a", Phase::Failed);
    gone.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now().wall));
    gone.status.get_or_insert_default().abi = Some(old().to_status(None));
    let owner = ovm.metadata.uid.clone();
    let mut observed = world(Some(ovm), Some(gone)).with_home("a", fenced_home());
    assert!(matches!(step(&observed), Step::CreateRevision(_)), "R3 before F2");
    observed.revisions = Some(vec![revision(1, owner.as_deref(), old())]);
    let observed = settled(observed);
    let Step::EditVm(_, edit) = step(&observed) else { panic!("not let go") };
    assert!(finalizers(&edit).is_empty());
}

#[test]
fn placement_prefers_a_node_that_offers_the_recorded_machine_type() {
    let ovm = ovm(true);
    let unbound = vm(&ovm);
    let owner = ovm.metadata.uid.clone();
    let mut observed = world(Some(ovm), Some(unbound));
    observed.revisions = Some(vec![revision(1, owner.as_deref(), old())]);
    let offers = |observed: &mut Observed, at: usize, machine: &str| {
        Arc::make_mut(&mut observed.nodes[at].facts).machine_types = BTreeSet::from([machine.to_owned()]);
    };
    offers(&mut observed, 0, "pc-q35-10.0");
    offers(&mut observed, 1, "pc-q35-9.2");
    assert_eq!(ovm_status(&observed).placement.unwrap().node_name, "b");
    offers(&mut observed, 1, "pc-q35-11.0");
    assert_eq!(ovm_status(&observed).placement.unwrap().node_name, "a", "rather any node than none");
}

#[test]
fn by_kubevirts_rule_the_second_guest_of_a_name_is_not_started() {
    let ovm = placed(ovm(true), VM_UID, "b", false);
    let unbound = vm(&ovm);
    let mut observed = world(Some(ovm), Some(unbound));
    Arc::make_mut(&mut observed.installation).uuid_rule = UuidRule::KubevirtV0;
    let mut first = observed.clone();
    first = settled(first);
    assert_eq!(vm_status(&first).abi.unwrap().firmware_uuid, Some(kubevirt_v0_uuid("vm").to_string()));
    observed.uuid_holder = Some(ObjectKey { namespace: "other".to_owned(), name: "vm".to_owned() });
    let status = vm_status(&observed);
    let scheduled = condition(&status.conditions, "Scheduled").unwrap();
    assert_eq!(scheduled.reason.as_deref(), Some("FirmwareUuidInUse"));
    assert!(scheduled.message.as_ref().unwrap().contains("other/vm"));
    let with_uuid = Arc::make_mut(observed.vm.as_mut().unwrap());
    with_uuid.spec.domain.firmware.get_or_insert_default().uuid =
        Some("5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned());
    assert_eq!(vm_status(&settled(observed)).phase, Some(Phase::Scheduled), "a UUID of its own is the way out");
}

#[test]
fn a_status_without_a_hash_has_nothing_to_record() {
    let ovm = placed(ovm(true), VM_UID, "a", false);
    let mut vm = super::bound(vm(&ovm), "a", Phase::Failed);
    vm.status.get_or_insert_default().abi =
        Some(AbiStatus { firmware_uuid: Some("u".to_owned()), ..AbiStatus::default() });
    let observed = world(Some(ovm), Some(vm));
    assert!(!matches!(plan(now(), &observed).next, Next::Act(Step::CreateRevision(_))));
}

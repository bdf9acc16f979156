//! What must hold in every world, however odd.

use api::names::{ABI_RESET_ANNOTATION, ORPHAN_FINALIZER, OUT_OF_SERVICE_TAINT, VM_FINALIZER};
use k8s_openapi::api::core::v1::Taint;
use proptest::prelude::*;

use api::v1alpha1::{AbiRecord, AbiStatus};

use super::abi::{record, revision};
use super::*;

fn any_phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(vec![
        Phase::Unset,
        Phase::Pending,
        Phase::Scheduled,
        Phase::Running,
        Phase::Succeeded,
        Phase::Failed,
        Phase::Unknown,
    ])
}

fn any_placement() -> impl Strategy<Value = Option<(&'static str, &'static str, bool)>> {
    let uid = prop::sample::select(vec![VM_UID, OLD_UID]);
    let node = prop::sample::select(vec!["a", "b"]);
    prop::option::of((uid, node, any::<bool>()))
}

fn any_ovm() -> impl Strategy<Value = OfflineVirtualMachine> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let reset = prop::option::of(prop::sample::select(vec!["0", "3", "9", "40", "none"]));
    (flags, any_placement(), reset).prop_map(|((running, going, held, orphan), placement, reset)| {
        let mut made = ovm(running);
        made.metadata.annotations = reset.map(|reset| [(ABI_RESET_ANNOTATION.to_owned(), reset.to_owned())].into());
        if let Some((uid, node, released)) = placement {
            made = placed(made, uid, node, released);
        }
        let mut finalizers = Vec::new();
        finalizers.extend(held.then(|| OVM_FINALIZER.to_owned()));
        finalizers.extend((orphan && going).then(|| ORPHAN_FINALIZER.to_owned()));
        made.metadata.finalizers = Some(finalizers);
        if going { deleting(made) } else { made }
    })
}

fn any_vm() -> impl Strategy<Value = VirtualMachine> {
    let owner_uid = prop::sample::select(vec![None, Some(OVM_UID), Some("stranger")]);
    let node = prop::option::of(prop::sample::select(vec!["a", "b"]));
    (owner_uid, node, any_phase(), any::<bool>(), any::<bool>()).prop_map(|(owner_uid, node, phase, going, held)| {
        let mut made = bare_vm();
        made.metadata.owner_references = owner_uid.map(|uid| vec![owner("OfflineVirtualMachine", uid)]);
        made.metadata.finalizers = held.then(|| vec![VM_FINALIZER.to_owned()]);
        // An unbound VM has not got past the controller.
        made = match node {
            Some(node) => bound(made, node, phase),
            None => made,
        };
        if going { deleting(made) } else { made }
    })
}

/// Two records that differ.
fn any_record() -> impl Strategy<Value = AbiRecord> {
    prop::sample::select(vec!["pc-q35-9.2", "pc-q35-10.0"]).prop_map(|machine| record(machine, &[]))
}

fn any_revisions() -> impl Strategy<Value = Vec<AbiRevision>> {
    let owner = prop::sample::select(vec![None, Some(OVM_UID), Some("stranger")]);
    prop::collection::btree_map(1..15_i64, (owner, any_record()), 0..12)
        .prop_map(|all| all.into_iter().map(|(number, (owner, record))| revision(number, owner, record)).collect())
}

fn any_abi() -> impl Strategy<Value = Option<AbiStatus>> {
    prop::option::of((prop::option::of(1..15_i64), any_record()).prop_map(|(bound, record)| record.to_status(bound)))
}

fn any_home() -> impl Strategy<Value = ObservedHome> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(exists, out_of_service, tainted, live, read_after_vm)| ObservedHome {
            exists,
            out_of_service,
            no_execute: if tainted { no_execute("hot") } else { Vec::new() },
            lease: if live { live_lease() } else { expired_lease() },
            read_after_vm,
        },
    )
}

/// A home as a place for guests.
fn place(name: &str, home: &ObservedHome) -> ObservedNode {
    let mut place = ObservedNode { lease: home.lease.clone(), ..node(name) };
    if home.out_of_service {
        let taint = Taint { key: OUT_OF_SERVICE_TAINT.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        Arc::make_mut(&mut place.facts).taints.push(taint);
    }
    place
}

prop_compose! {
    fn any_world()(
        ovm in prop::option::of(any_ovm()),
        vm in prop::option::of(any_vm()),
        (a, b) in (any_home(), any_home()),
        (ovm_after_vm, vm_after_ovm) in any::<(bool, bool)>(),
        (revisions, published, named) in (any_revisions(), any_abi(), any_abi()),
    ) -> Observed {
        let places = [("a", &a), ("b", &b)].into_iter().filter(|(_, home)| home.exists).map(|(name, home)| place(name, home));
        let nodes = places.collect();
        let order = ReadOrder { ovm_after_vm, vm_after_ovm };
        let (mut ovm, mut vm): (Option<OfflineVirtualMachine>, Option<VirtualMachine>) = (ovm, vm);
        if let Some(status) = vm.as_mut().and_then(|vm| vm.status.as_mut()) {
            status.abi = published;
        }
        if let Some(status) = ovm.as_mut().and_then(|ovm| ovm.status.as_mut()) {
            status.abi = named.map(|abi| AbiStatus { devices: Vec::new(), ..abi });
        }
        Observed { nodes, revisions: Some(revisions), ..world(ovm, vm).with_home("a", a).with_home("b", b).with_order(order) }
    }
}

fn held_by(finalizers: Option<&Vec<String>>, name: &str) -> bool {
    finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == name))
}

/// Checks one step against the rules that no step may break.
fn check(observed: &Observed, step: &Step) -> Result<(), TestCaseError> {
    let (ovm, vm) = (observed.ovm.as_deref(), observed.vm.as_deref());
    let fenced = |node: &str| observed.homes.get(node).is_some_and(|home| home.is_fenced(now()) && home.read_after_vm);
    let may_be_cached = match step {
        Step::CreateVm(_) => observed.revisions.is_some(),
        Step::EditOvm(_, MetadataEdit::Finalizers(left)) => held_by(Some(left), OVM_FINALIZER),
        _ => false,
    };
    prop_assert!(observed.order.is_uncached() || may_be_cached, "a write from caches");
    match step {
        Step::CreateVm(made) => {
            let ovm = ovm.unwrap();
            prop_assert!(vm.is_none() && ovm.spec.running && ovm.metadata.deletion_timestamp.is_none());
            prop_assert!(held_by(ovm.metadata.finalizers.as_ref(), OVM_FINALIZER), "S1");
            prop_assert!(held_by(made.metadata.finalizers.as_ref(), VM_FINALIZER), "S1");
        }
        Step::DeleteVm(at) => {
            let (ovm, vm) = (ovm.unwrap(), vm.unwrap());
            prop_assert!(observed.order.ovm_after_vm, "D1");
            prop_assert_eq!(Some(&at.uid), vm.metadata.uid.as_ref());
            prop_assert!(vm.metadata.deletion_timestamp.is_none(), "one delete per VM");
            let owner = vm.metadata.owner_references.as_ref().unwrap().first().unwrap();
            prop_assert_eq!(owner.uid.as_str(), OVM_UID, "a stranger's VM");
            if held_by(ovm.metadata.finalizers.as_ref(), ORPHAN_FINALIZER) {
                return Err(TestCaseError::fail("D2: deleted while it is being orphaned"));
            }
        }
        Step::EvictVm { at, .. } => {
            let vm = vm.unwrap();
            prop_assert!(observed.order.ovm_after_vm, "D1");
            prop_assert_eq!(Some(&at.uid), vm.metadata.uid.as_ref());
            prop_assert!(vm.metadata.deletion_timestamp.is_none(), "one delete per VM");
            let home = bound_node(vm).and_then(|node| observed.homes.get(node)).unwrap();
            prop_assert!(home.read_after_vm && !home.is_lost(now()), "T1: a lost node's guests stay");
            let orphaned = ovm.is_some_and(|ovm| held_by(ovm.metadata.finalizers.as_ref(), ORPHAN_FINALIZER));
            let ours = vm.metadata.owner_references.iter().flatten().any(|owner| owner.uid == OVM_UID);
            prop_assert!(!(orphaned && ours), "D2: deleted while it is being orphaned");
        }
        Step::EditVm(at, MetadataEdit::Finalizers(left)) if !held_by(Some(left), VM_FINALIZER) => {
            let vm = vm.unwrap();
            prop_assert_eq!(Some(&at.uid), vm.metadata.uid.as_ref());
            prop_assert!(vm.metadata.deletion_timestamp.is_some(), "let go although nobody deletes it");
            let ended = vm.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_final);
            prop_assert!(bound_node(vm).is_none_or(|node| ended && fenced(node)), "F2");
        }
        Step::EditOvm(_, MetadataEdit::Finalizers(left)) if !held_by(Some(left), OVM_FINALIZER) => {
            let ovm = ovm.unwrap();
            prop_assert!(observed.order.vm_after_ovm && ovm.metadata.deletion_timestamp.is_some(), "D3");
            let ours =
                vm.is_some_and(|vm| vm.metadata.owner_references.iter().flatten().any(|owner| owner.uid == OVM_UID));
            prop_assert!(!ours, "D3: let go of while its VM is there");
            let placement = ovm.status.as_ref().and_then(|status| status.placement.as_ref());
            let settled = placement.is_none_or(|placement| {
                let alive = vm.is_some_and(|vm| vm.metadata.uid.as_deref() == Some(&placement.vm_uid));
                alive || placement.released || fenced(&placement.node_name)
            });
            prop_assert!(settled, "D3: a node may hold the domain");
        }
        Step::WriteVmStatus { status, .. } => {
            let before = vm.and_then(|vm| vm.status.clone()).unwrap_or_default();
            prop_assert!(before.node_name.is_none() || before.node_name == status.node_name, "bound once");
            let (was, is) = (before.phase.unwrap_or_default(), status.phase.unwrap_or_default());
            prop_assert!(!was.is_final() || was == is, "I3: a final state was overwritten");
            prop_assert!(was.is_final() || !is.is_final() || fenced(&status.node_name.clone().unwrap()), "F2");
        }
        Step::WriteOvmStatus { status, .. } => {
            prop_assert!(observed.order.vm_after_ovm, "S2");
            let before = ovm.and_then(|ovm| ovm.status.as_ref()?.placement.clone());
            if let (Some(before), Some(after)) = (before, status.placement.as_ref()) {
                let moved = before.vm_uid == after.vm_uid && before.node_name != after.node_name;
                prop_assert!(!moved, "S2: placement changed for one VM");
                let bound_there = vm.and_then(bound_node) == Some(after.node_name.as_str());
                let tied = before.released || bound_there || before.node_name == after.node_name;
                prop_assert!(tied, "E5: the old placement was not released");
            }
        }
        Step::CreateRevision(made) => {
            let vm = vm.unwrap();
            let bound = vm.status.as_ref().and_then(|status| status.abi.as_ref()?.revision).unwrap_or(0);
            prop_assert_eq!(made.revision, bound + 1, "R1");
            let known = observed.revisions.as_ref().expect("R1: listed");
            let is_own = |one: &AbiRevision| one.owner.as_deref().is_none_or(|owner| owner == OVM_UID);
            prop_assert!(
                known.iter().filter(|one| is_own(one)).all(|one| one.revision <= bound),
                "R1: over a newer one"
            );
        }
        Step::EditRevision { owners, .. } => prop_assert_eq!(owners[0].uid.as_str(), OVM_UID),
        Step::DeleteRevision { name, .. } => {
            let known = observed.revisions.as_ref().expect("listed");
            let gone = known.iter().find(|one| one.name == *name).expect("it is there");
            let annotations = ovm.and_then(|ovm| ovm.metadata.annotations.as_ref());
            let reset = annotations.and_then(|all| all.get(ABI_RESET_ANNOTATION)?.parse::<i64>().ok()).unwrap_or(0);
            prop_assert!(known.len() > 10 || (gone.revision <= reset && gone.owner.as_deref() == Some(OVM_UID)));
        }
        Step::EditVm(..) | Step::EditOvm(..) => {}
    }
    Ok(())
}

/// Does what the API server does with a step.
fn carry_out(observed: &mut Observed, step: Step, version: u64) {
    let mut ovm = observed.ovm.as_deref().cloned();
    let mut vm = observed.vm.as_deref().cloned();
    match step {
        Step::CreateVm(mut made) => {
            made.metadata.uid = Some(format!("successor {version}"));
            vm = Some(*made);
        }
        Step::DeleteVm(_) | Step::EvictVm { .. } => vm = vm.map(deleting).filter(|vm| !is_let_go(&vm.metadata)),
        Step::EditVm(_, edit) => vm = edited(vm, &edit, version),
        Step::EditOvm(_, edit) => ovm = edited(ovm, &edit, version),
        Step::WriteVmStatus { status, .. } => vm.as_mut().unwrap().status = Some(*status),
        Step::WriteOvmStatus { status, .. } => ovm.as_mut().unwrap().status = Some(*status),
        Step::CreateRevision(mut made) => {
            made.metadata.uid = Some(format!("revision {version}"));
            observed.revision_written(AbiRevision::from_object("vm", &made).expect("a record of this OVM"));
        }
        Step::EditRevision { name, owners, .. } => {
            for one in observed.revisions.iter_mut().flatten().filter(|one| one.name == name) {
                one.owner = Some(owners[0].uid.clone());
            }
        }
        Step::DeleteRevision { name, .. } => observed.revision_deleted(&name),
    }
    (observed.ovm, observed.vm) = (ovm.map(Arc::new), vm.map(Arc::new));
}

fn edited<K: Object>(object: Option<K>, edit: &MetadataEdit, version: u64) -> Option<K> {
    let mut object = object?;
    let meta = object.meta();
    meta.resource_version = Some(version.to_string());
    match edit {
        MetadataEdit::Finalizers(finalizers) => meta.finalizers = Some(finalizers.clone()),
        MetadataEdit::OwnerReferences(owners) => meta.owner_references = Some(owners.clone()),
        MetadataEdit::Annotation { key, value } => {
            meta.annotations.get_or_insert_default().insert((*key).to_owned(), value.clone());
        }
    }
    (!is_let_go(meta)).then_some(object)
}

fn is_let_go(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
}

fn come_to_rest(mut observed: Observed) -> Result<(), TestCaseError> {
    for turn in 0..40 {
        match plan(now(), &observed).next {
            Next::Rest => return Ok(()),
            Next::Look(look) => {
                if !look.keep {
                    observed.order = ReadOrder::UNCACHED;
                }
                for (name, home) in &mut observed.homes {
                    home.read_after_vm = look.nodes.contains(name);
                }
            }
            Next::Act(step) => {
                check(&observed, &step)?;
                carry_out(&mut observed, step, 100 + turn);
                observed.order = ReadOrder::CACHED;
            }
        }
    }
    Err(TestCaseError::fail(format!("no rest: {:?}", plan(now(), &observed))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_step_breaks_a_rule(observed in any_world()) {
        if let Next::Act(step) = plan(now(), &observed).next {
            check(&observed, &step)?;
        }
    }

    #[test]
    fn plans_are_a_function_of_what_was_observed(observed in any_world()) {
        prop_assert_eq!(plan(now(), &observed), plan(now(), &observed.clone()));
    }

    /// Without anybody else, the controller comes to rest, and breaks no rule on the way.
    #[test]
    fn every_world_comes_to_rest(observed in any_world()) {
        come_to_rest(observed)?;
    }
}

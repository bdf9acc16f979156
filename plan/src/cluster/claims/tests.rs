//! Claims as a VM finds them.

#![expect(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

use serde_json::{Value, json};

use super::*;

fn spec(volume: Value) -> VirtualMachineSpec {
    let mut volume = volume;
    volume["name"] = json!("data");
    let disk = json!({"name": "data", "volumeName": "data", "disk": {"bus": "virtio"}});
    serde_json::from_value(json!({"domain": {"devices": {"disks": [disk]}}, "volumes": [volume]})).unwrap()
}

fn writer() -> VirtualMachineSpec {
    spec(json!({"persistentVolumeClaim": {"claimName": "c"}}))
}

fn bound(modes: &[&str]) -> ObservedClaim {
    let claim = json!({
        "metadata": {"namespace": "ns", "name": "c", "uid": "u1"},
        "spec": {"volumeName": "pv", "accessModes": modes, "storageClassName": "fast"},
        "status": {"phase": "Bound"},
    });
    let volume = json!({
        "metadata": {"name": "pv"},
        "spec": {
            "local": {"path": "/v/pv"},
            "claimRef": {"namespace": "ns", "name": "c", "uid": "u1"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "host", "operator": "In", "values": ["a"]}]}]}},
        },
    });
    ObservedClaim {
        claim: Some(Arc::new(serde_json::from_value(claim).unwrap())),
        volume: Some(Arc::new(serde_json::from_value(volume).unwrap())),
        users: Vec::new(),
    }
}

fn user(writes: bool, shared: bool) -> ClaimUser {
    let vm = ObjectKey { namespace: "ns".to_owned(), name: "other".to_owned() };
    ClaimUser { vm, node: "a".to_owned(), usage: DiskUse { writes, shared } }
}

fn look(spec: &VirtualMachineSpec, claim: ObservedClaim) -> Result<(Vec<VolumeStatus>, VolumeConstraints), Misfit> {
    resolve("ns", spec, &[("c".to_owned(), claim)].into())
}

#[track_caller]
fn refused(spec: &VirtualMachineSpec, claim: ObservedClaim, reason: &str, words: &[&str]) {
    let misfit = look(spec, claim).unwrap_err();
    assert_eq!(misfit.reason(), reason);
    let said = misfit.to_string();
    assert!(said.contains("volume data: PersistentVolumeClaim ns/c"), "{said}");
    for word in words {
        assert!(said.contains(word), "{said} has no {word}");
    }
}

#[test]
fn a_bound_claim_gives_path_and_node() {
    let (volumes, constraints) = look(&writer(), bound(&["ReadWriteOnce"])).unwrap();
    assert_eq!((volumes[0].path.as_str(), volumes[0].persistent_volume_name.as_str()), ("/v/pv", "pv"));
    assert_eq!(constraints.affinities[0].0, "pv");
    assert!(constraints.pinned.is_empty());
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    refused(&writer(), ObservedClaim::default(), "ClaimMissing", &["does not exist", "create it"]);
    let mut pending = bound(&["ReadWriteOnce"]);
    let claim = Arc::make_mut(pending.claim.as_mut().unwrap());
    claim.status = None;
    claim.spec.as_mut().unwrap().volume_name = None;
    refused(&writer(), pending.clone(), "ClaimUnbound", &["class fast", "create a PersistentVolume", "first consumer"]);
    Arc::make_mut(pending.claim.as_mut().unwrap()).spec.as_mut().unwrap().storage_class_name = None;
    refused(&writer(), pending, "ClaimUnbound", &["not bound to a PersistentVolume; create"]);
    let mut lost = bound(&["ReadWriteOnce"]);
    Arc::make_mut(lost.claim.as_mut().unwrap()).status.as_mut().unwrap().phase = Some("Lost".to_owned());
    refused(&writer(), lost, "ClaimLost", &["has lost its PersistentVolume pv"]);
    refused(
        &writer(),
        ObservedClaim { volume: None, ..bound(&["ReadWriteOnce"]) },
        "VolumeMissing",
        &["PersistentVolume pv"],
    );
    let mut nfs = bound(&["ReadWriteOnce"]);
    Arc::make_mut(nfs.volume.as_mut().unwrap()).spec.as_mut().unwrap().local = None;
    refused(&writer(), nfs, "VolumeUnsupported", &["neither hostPath nor local"]);
}

#[test]
fn a_volume_of_another_claim_is_not_given_to_one_that_says_it_is_bound() {
    let words = &["names PersistentVolume pv, which is not bound to it", "spec.claimRef"];
    for foreign in [
        Value::Null,
        json!({"namespace": "ns", "name": "c"}),
        json!({"namespace": "ns", "name": "c", "uid": "u0"}),
        json!({"namespace": "ns", "name": "other", "uid": "u1"}),
        json!({"namespace": "other", "name": "c", "uid": "u1"}),
    ] {
        let mut claim = bound(&["ReadWriteOnce"]);
        let volume = Arc::make_mut(claim.volume.as_mut().unwrap());
        volume.spec.as_mut().unwrap().claim_ref = serde_json::from_value(foreign).unwrap();
        refused(&writer(), claim, "ClaimUnbound", words);
    }
    let mut nameless = bound(&["ReadWriteOnce"]);
    Arc::make_mut(nameless.claim.as_mut().unwrap()).metadata.uid = None;
    refused(&writer(), nameless, "ClaimUnbound", words);
}

#[test]
fn a_claim_that_another_guest_has_is_refused_unless_it_can_be_shared() {
    let reader = spec(json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}));
    let ephemeral = spec(json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}));
    let with = |modes: &[&str], user| ObservedClaim { users: vec![user], ..bound(modes) };
    let words = &["in use by VirtualMachine ns/other on node a", "stop that one"];
    refused(&writer(), with(&["ReadWriteOnce"], user(true, false)), "ClaimInUse", words);
    refused(&writer(), with(&["ReadWriteOnce"], user(false, false)), "ClaimInUse", words);
    refused(&reader, with(&["ReadWriteOnce"], user(true, false)), "ClaimInUse", words);
    refused(&ephemeral, with(&["ReadWriteMany"], user(true, true)), "ClaimInUse", words);
    refused(&reader, with(&["ReadWriteOncePod"], user(false, false)), "ClaimInUse", words);
    look(&writer(), with(&["ReadWriteMany"], user(true, true))).unwrap();
    let (_, constraints) = look(&reader, with(&["ReadWriteOnce"], user(false, false))).unwrap();
    assert_eq!(constraints.pinned, [("a".to_owned(), "ns/c".to_owned())]);
    let (_, constraints) = look(&ephemeral, with(&["ReadOnlyMany"], user(false, false))).unwrap();
    assert!(constraints.pinned.is_empty());
}

#[test]
fn k3_a_vm_whose_spec_newer_rules_refuse_has_its_claim_for_itself() {
    let mut reader = spec(json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}));
    let with = |spec: &VirtualMachineSpec| {
        let vm = VirtualMachine::new("other", spec.clone());
        let usage = use_of_claim(&vm, "c", &["ReadOnlyMany".to_owned()]);
        assert_eq!(use_of_claim(&vm, "other", &[]), None);
        let users = usage.map(|usage| ClaimUser { usage, ..user(true, false) });
        ObservedClaim { users: users.into_iter().collect(), ..bound(&["ReadOnlyMany"]) }
    };
    look(&reader, with(&reader)).unwrap();
    let valid = reader.clone();
    reader.volumes.get_or_insert_default()[0].name = "another".to_owned();
    validate_vm_spec(&reader, "spec").unwrap_err();
    refused(&valid, with(&reader), "ClaimInUse", &["in use by VirtualMachine ns/other"]);
}

#[test]
fn a_claim_that_is_for_readers_only_is_not_written_to() {
    let (volumes, _) = look(&writer(), bound(&["ReadOnlyMany"])).unwrap();
    let valid = validate_vm_spec(&writer(), "spec").unwrap();
    assert!(!DiskUse::of_status(&valid, &volumes)[0].1.writes);
    let (volumes, _) = look(&writer(), bound(&["ReadWriteOnce"])).unwrap();
    assert!(DiskUse::of_status(&valid, &volumes)[0].1.writes);
}

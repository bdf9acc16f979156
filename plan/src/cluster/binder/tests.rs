//! Claims and volumes, played until nothing is left to write.

#![expect(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

use serde_json::{Value, json};

use super::*;

/// Objects of a small API server: writes replace, and count versions.
#[derive(Default)]
struct World {
    claims: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<Arc<PersistentVolume>>,
}

fn volume(name: &str, size: &str, change: Value) -> PersistentVolume {
    let mut object = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"disk": name}},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "hostPath": {"path": format!("/v/{name}")}},
    });
    merge(&mut object["spec"], change);
    serde_json::from_value(object).unwrap()
}

fn claim(name: &str, size: &str, change: Value) -> PersistentVolumeClaim {
    let mut object = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    });
    merge(&mut object["spec"], change);
    serde_json::from_value(object).unwrap()
}

fn merge(into: &mut Value, change: Value) {
    let Value::Object(change) = change else { return };
    change.into_iter().for_each(|(key, value)| into[key] = value);
}

impl World {
    fn new(claims: Vec<PersistentVolumeClaim>, volumes: Vec<PersistentVolume>) -> Self {
        Self {
            claims: claims.into_iter().map(Arc::new).collect(),
            volumes: volumes.into_iter().map(Arc::new).collect(),
        }
    }

    /// Carries out plans until one is empty.
    fn settle(mut self) -> Self {
        for _ in 0..10 {
            let steps = plan_bindings(&self.claims, &self.volumes);
            if steps.is_empty() {
                return self;
            }
            let mut written = BTreeSet::new();
            for step in steps {
                match step {
                    BindStep::Volume(new) | BindStep::VolumeStatus(new) => {
                        assert!(written.insert(new.metadata.uid.clone()), "two writes of one volume in one plan");
                        let slot = self.volumes.iter_mut().find(|old| old.metadata.uid == new.metadata.uid).unwrap();
                        *slot = Arc::new(new);
                    }
                    BindStep::Claim(new) | BindStep::ClaimStatus(new) => {
                        assert!(written.insert(new.metadata.uid.clone()), "two writes of one claim in one plan");
                        let slot = self.claims.iter_mut().find(|old| old.metadata.uid == new.metadata.uid).unwrap();
                        *slot = Arc::new(new);
                    }
                }
            }
        }
        panic!("the plans go in circles");
    }

    /// Phase and volume of each claim, then phase of each volume.
    fn show(&self) -> (Vec<String>, Vec<String>) {
        let claims = self.claims.iter().map(|claim| {
            let phase = claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            format!("{phase} {volume}").trim().to_owned()
        });
        let phase =
            |volume: &Arc<PersistentVolume>| volume.status.clone().and_then(|status| status.phase).unwrap_or_default();
        (claims.collect(), self.volumes.iter().map(phase).collect())
    }
}

#[track_caller]
fn check(claims: Vec<PersistentVolumeClaim>, volumes: Vec<PersistentVolume>, expected: (&[&str], &[&str])) -> World {
    let world = World::new(claims, volumes).settle();
    let (claims, volumes) = world.show();
    assert_eq!(
        (claims, volumes),
        (expected.0.iter().map(|s| (*s).to_owned()).collect(), expected.1.iter().map(|s| (*s).to_owned()).collect())
    );
    world
}

#[test]
fn the_smallest_volume_that_fits_is_bound_and_one_volume_has_one_claim() {
    let volumes =
        vec![volume("big", "10Gi", json!({})), volume("small", "1Gi", json!({})), volume("tiny", "1Mi", json!({}))];
    let claims = vec![claim("a", "500Mi", json!({})), claim("b", "1Gi", json!({})), claim("c", "1Gi", json!({}))];
    let world = check(claims, volumes, (&["Bound small", "Bound big", "Pending"], &["Bound", "Bound", "Available"]));
    let status = world.claims[0].status.clone().unwrap();
    assert_eq!(status.capacity.unwrap()["storage"].0, "1Gi");
    assert_eq!(status.access_modes.unwrap(), ["ReadWriteOnce", "ReadOnlyMany"]);
}

#[test]
fn class_modes_volume_mode_and_selector_are_honoured() {
    for (claim_spec, volume_spec, fits) in [
        (json!({"storageClassName": "fast"}), json!({}), false),
        (json!({"storageClassName": "fast"}), json!({"storageClassName": "fast"}), true),
        (json!({}), json!({"storageClassName": "fast"}), false),
        (json!({"storageClassName": ""}), json!({}), true),
        (json!({"accessModes": ["ReadWriteMany"]}), json!({}), false),
        (json!({"accessModes": ["ReadOnlyMany", "ReadWriteOnce"]}), json!({}), true),
        (json!({"volumeMode": "Block"}), json!({}), false),
        (json!({"volumeMode": "Filesystem"}), json!({}), true),
        (json!({"volumeMode": "Block"}), json!({"volumeMode": "Block"}), true),
        (json!({"selector": {"matchLabels": {"disk": "v"}}}), json!({}), true),
        (json!({"selector": {"matchLabels": {"disk": "other"}}}), json!({}), false),
        (
            json!({"selector": {"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["v"]}]}}),
            json!({}),
            false,
        ),
        (json!({"volumeName": "v"}), json!({}), true),
        (json!({"volumeName": "v"}), json!({"capacity": {"storage": "1Mi"}}), false),
        (json!({"volumeName": "elsewhere"}), json!({}), false),
        (json!({}), json!({"claimRef": {"namespace": "ns", "name": "c"}}), true),
        (json!({}), json!({"claimRef": {"namespace": "ns", "name": "other"}}), false),
        (json!({}), json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "an older one"}}), false),
    ] {
        let shown = format!("{claim_spec} {volume_spec}");
        let world = World::new(vec![claim("c", "1Gi", claim_spec)], vec![volume("v", "1Gi", volume_spec)]).settle();
        let phase = world.claims[0].status.clone().unwrap().phase.unwrap();
        assert_eq!(phase == "Bound", fits, "{shown}");
    }
}

#[test]
fn a_volume_kept_for_a_claim_by_hand_comes_before_a_smaller_one() {
    let kept = volume("kept", "10Gi", json!({"claimRef": {"namespace": "ns", "name": "c"}}));
    check(
        vec![claim("c", "1Gi", json!({}))],
        vec![volume("v", "1Gi", json!({})), kept],
        (&["Bound kept"], &["Available", "Bound"]),
    );
}

#[test]
fn a_released_volume_is_nobodys_until_its_administrator_says_so() {
    let mut world =
        check(vec![claim("c", "1Gi", json!({}))], vec![volume("v", "1Gi", json!({}))], (&["Bound v"], &["Bound"]));
    let mut next = claim("c", "1Gi", json!({}));
    next.metadata.uid = Some("a later one".to_owned());
    world.claims = vec![Arc::new(next)];
    let mut world = world.settle();
    assert_eq!(world.show(), (vec!["Pending".to_owned()], vec!["Released".to_owned()]));
    Arc::make_mut(&mut world.volumes[0]).spec.as_mut().unwrap().claim_ref = None;
    assert_eq!(world.settle().show(), (vec!["Bound v".to_owned()], vec!["Bound".to_owned()]));
}

#[test]
fn a_claim_whose_volume_was_deleted_has_lost_it() {
    let mut world =
        check(vec![claim("c", "1Gi", json!({}))], vec![volume("v", "1Gi", json!({}))], (&["Bound v"], &["Bound"]));
    world.volumes.clear();
    assert_eq!(world.settle().show().0, ["Lost v"]);
}

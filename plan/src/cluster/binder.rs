//! Binds claims to volumes where no kube-controller-manager does: on a host without Kubernetes, with volumes made by hand.
//!
//! ```text
//! volume: Available ──► claimRef written ──► Bound ──► (claim deleted) Released
//! claim:  Pending   ──► volumeName written ──► Bound ──► (volume deleted) Lost
//! ```
//! As Kubernetes does it (<https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding>): the smallest volume that fits, one claim to a
//! volume, and what either names by hand comes first. Nothing is made and nothing is deleted: what is on a released volume is its administrator's. One
//! write for each object and pass; each carries the object's resourceVersion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
    PersistentVolumeSpec, PersistentVolumeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// Annotation of a binding that is complete: a claim that has it and no volume has lost it.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation of a binding that was found, not given by hand.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// What both annotations say.
const YES: &str = "yes";
/// Key of the size among resources.
const STORAGE: &str = "storage";

/// One write. The object carries the resourceVersion that it was decided from.
#[derive(Clone, Debug, PartialEq)]
pub enum BindStep {
    /// PUT of a volume.
    Volume(PersistentVolume),
    /// PUT of a volume's status.
    VolumeStatus(PersistentVolume),
    /// PUT of a claim.
    Claim(PersistentVolumeClaim),
    /// PUT of a claim's status.
    ClaimStatus(PersistentVolumeClaim),
}

/// The next write for each volume and each claim that wants one.
pub fn plan_bindings(claims: &[Arc<PersistentVolumeClaim>], volumes: &[Arc<PersistentVolume>]) -> Vec<BindStep> {
    let mut binder = Binder { claims, volumes, taken: BTreeSet::new(), steps: Vec::new() };
    for volume in volumes {
        binder.plan_volume(volume);
    }
    for claim in claims.iter().filter(|claim| claim.metadata.deletion_timestamp.is_none()) {
        binder.plan_claim(claim);
    }
    binder.steps
}

struct Binder<'a> {
    claims: &'a [Arc<PersistentVolumeClaim>],
    volumes: &'a [Arc<PersistentVolume>],
    /// Volumes that this plan gives away.
    taken: BTreeSet<&'a str>,
    steps: Vec<BindStep>,
}

impl<'a> Binder<'a> {
    /// The phase of a volume, from whether its claim is there.
    fn plan_volume(&mut self, volume: &PersistentVolume) {
        let phase = match claim_ref(volume) {
            None => "Available",
            Some(given) if given.uid.is_none() => "Available",
            Some(bound) => {
                let is_there =
                    self.claims.iter().any(|claim| names(bound, &claim.metadata) && bound.uid == claim.metadata.uid);
                if is_there { "Bound" } else { "Released" }
            }
        };
        let status = volume.status.clone().unwrap_or_default();
        if status.phase.as_deref() != Some(phase) {
            let mut written = volume.clone();
            written.status = Some(PersistentVolumeStatus { phase: Some(phase.to_owned()), ..status });
            self.steps.push(BindStep::VolumeStatus(written));
        }
    }

    fn plan_claim(&mut self, claim: &'a PersistentVolumeClaim) {
        let spec = claim.spec.clone().unwrap_or_default();
        let wanted = spec.volume_name.clone().filter(|name| !name.is_empty());
        let volumes = self.volumes;
        let own = volumes.iter().find(|volume| is_bound_to(volume, claim));
        match (wanted, own) {
            (Some(name), Some(volume)) if volume.metadata.name.as_ref() == Some(&name) => self.complete(claim, volume),
            (None, Some(volume)) => self.write_claim(claim, &spec, volume),
            // The volume that it names is there, and not yet its own.
            (Some(name), _) => {
                let named = volumes.iter().find(|volume| volume.metadata.name.as_ref() == Some(&name));
                match named.filter(|volume| is_free_for(volume, claim) && fits(volume, &spec)) {
                    Some(volume) => self.give(claim, volume, false),
                    None if has_annotation(&claim.metadata, BIND_COMPLETED) => self.write_phase(claim, "Lost"),
                    None => self.write_phase(claim, "Pending"),
                }
            }
            (None, None) => match self.find(claim, &spec) {
                Some(volume) => self.give(claim, volume, true),
                None => self.write_phase(claim, "Pending"),
            },
        }
    }

    /// The volume that was given to the claim by hand, else the smallest that fits.
    fn find(&self, claim: &PersistentVolumeClaim, spec: &PersistentVolumeClaimSpec) -> Option<&'a PersistentVolume> {
        let is_open = |volume: &Arc<PersistentVolume>| {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            is_free_for(volume, claim) && !self.taken.contains(name) && fits(volume, spec) && is_selected(volume, spec)
        };
        let key = |volume: &&Arc<PersistentVolume>| {
            (claim_ref(volume).is_none(), capacity(volume).unwrap_or(u64::MAX), volume.metadata.name.clone())
        };
        let volumes = self.volumes;
        volumes.iter().filter(|volume| is_open(volume)).min_by_key(key).map(|volume| &**volume)
    }

    /// Writes the claim into the volume: from then on it is nobody else's.
    fn give(&mut self, claim: &PersistentVolumeClaim, volume: &'a PersistentVolume, was_found: bool) {
        let mut written = volume.clone();
        let by_hand = claim_ref(volume).is_some();
        written.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: claim.metadata.uid.clone(),
            ..ObjectReference::default()
        });
        if was_found && !by_hand {
            annotate(&mut written.metadata, BOUND_BY_CONTROLLER);
        }
        self.taken.insert(volume.metadata.name.as_deref().unwrap_or_default());
        // One write for each object: what its status should be is seen once this one shows.
        self.steps
            .retain(|step| !matches!(step, BindStep::VolumeStatus(other) if other.metadata.uid == volume.metadata.uid));
        self.steps.push(BindStep::Volume(written));
    }

    fn write_claim(
        &mut self,
        claim: &PersistentVolumeClaim,
        spec: &PersistentVolumeClaimSpec,
        volume: &PersistentVolume,
    ) {
        let mut written = claim.clone();
        written.spec = Some(PersistentVolumeClaimSpec { volume_name: volume.metadata.name.clone(), ..spec.clone() });
        annotate(&mut written.metadata, BIND_COMPLETED);
        annotate(&mut written.metadata, BOUND_BY_CONTROLLER);
        self.steps.push(BindStep::Claim(written));
    }

    /// Both name each other: says so on the claim, with what it has got.
    fn complete(&mut self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) {
        if !has_annotation(&claim.metadata, BIND_COMPLETED) {
            let mut written = claim.clone();
            annotate(&mut written.metadata, BIND_COMPLETED);
            self.steps.push(BindStep::Claim(written));
            return;
        }
        let spec = volume.spec.clone().unwrap_or_default();
        let status = PersistentVolumeClaimStatus {
            phase: Some("Bound".to_owned()),
            access_modes: spec.access_modes,
            capacity: spec.capacity,
            ..claim.status.clone().unwrap_or_default()
        };
        self.write_status(claim, status);
    }

    fn write_phase(&mut self, claim: &PersistentVolumeClaim, phase: &str) {
        let status = claim.status.clone().unwrap_or_default();
        self.write_status(claim, PersistentVolumeClaimStatus { phase: Some(phase.to_owned()), ..status });
    }

    fn write_status(&mut self, claim: &PersistentVolumeClaim, status: PersistentVolumeClaimStatus) {
        if claim.status.as_ref() != Some(&status) {
            let mut written = claim.clone();
            written.status = Some(status);
            self.steps.push(BindStep::ClaimStatus(written));
        }
    }
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a reference is to this namespace and name.
fn names(reference: &ObjectReference, meta: &ObjectMeta) -> bool {
    reference.namespace == meta.namespace && reference.name == meta.name
}

fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = claim_ref(volume);
    reference
        .is_some_and(|bound| names(bound, &claim.metadata) && bound.uid.is_some() && bound.uid == claim.metadata.uid)
}

/// Whether a volume is nobody's, or was kept for this claim by hand.
fn is_free_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let is_open = claim_ref(volume).is_none_or(|given| names(given, &claim.metadata) && given.uid.is_none());
    is_open && volume.metadata.deletion_timestamp.is_none()
}

/// Whether a volume is what a claim asks for: mode, class, access modes, size.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaimSpec) -> bool {
    let empty = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&empty);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let offered = spec.access_modes.as_deref().unwrap_or_default();
    let asked = claim.resources.as_ref().and_then(|resources| size_of(resources.requests.as_ref()?)).unwrap_or(0);
    mode(&spec.volume_mode) == mode(&claim.volume_mode)
        && text(&spec.storage_class_name) == text(&claim.storage_class_name)
        && claim.access_modes.iter().flatten().all(|mode| offered.contains(mode))
        && capacity(volume).is_some_and(|capacity| capacity >= asked)
}

fn capacity(volume: &PersistentVolume) -> Option<u64> {
    size_of(volume.spec.as_ref()?.capacity.as_ref()?)
}

fn size_of(resources: &BTreeMap<String, WireQuantity>) -> Option<u64> {
    Quantity(resources.get(STORAGE)?.0.clone()).to_units().ok()
}

fn is_selected(volume: &PersistentVolume, claim: &PersistentVolumeClaimSpec) -> bool {
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    claim.selector.as_ref().is_none_or(|selector| selects(selector, &labels))
}

/// An operator that we do not know selects nothing.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|rule| {
            let value = labels.get(&rule.key);
            let listed = value.is_some_and(|value| rule.values.iter().flatten().any(|one| one == value));
            match rule.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

fn has_annotation(meta: &ObjectMeta, key: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key))
}

fn annotate(meta: &mut ObjectMeta, key: &str) {
    meta.annotations.get_or_insert_default().insert(key.to_owned(), YES.to_owned());
}

#[cfg(test)]
mod tests;

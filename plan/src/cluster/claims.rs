//! From the claims that a VM names to volumes of a node: what is missing, who else has them, where they are.
//!
//! The controller looks at claims and volumes, and writes what it found into `VM.status` at binding; agents have no right to either kind. A claim
//! that is bound stays bound to its volume, and a volume's place never changes, so what was found once holds for as long as the VM does.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::admission::validate_vm_spec;
use api::v1alpha1::{VirtualMachine, VirtualMachineSpec, VolumeStatus};
use api::validated::{ValidatedSpec, VolumeSource};
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim};

use super::{Misfit, ObjectKey};
use crate::sharing::{DiskUse, READ_ONLY_MANY, READ_WRITE_MANY, READ_WRITE_ONCE, READ_WRITE_ONCE_POD};

/// A claim that a VM names, with its volume, and the other VMs that have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedClaim {
    /// The claim; none if there is none of that name.
    pub claim: Option<Arc<PersistentVolumeClaim>>,
    /// The volume that the claim names; none if it names none, or one that does not exist.
    pub volume: Option<Arc<PersistentVolume>>,
    /// Other VMs that name the claim, and are bound, placed, or promised to a node.
    pub users: Vec<ClaimUser>,
}

/// A VM that has a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUser {
    /// The VM.
    pub vm: ObjectKey,
    /// Its node.
    pub node: String,
    /// What it does with the claim.
    pub usage: DiskUse,
}

/// What a VM's claims ask of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeConstraints {
    /// Node affinity of each volume that has one, by the volume's name.
    pub affinities: Vec<(String, NodeSelector)>,
    /// Nodes that the VM may not leave because another guest has a `ReadWriteOnce` claim there, with the claim.
    pub pinned: Vec<(String, String)>,
}

/// Names of the claims in a spec, with the volume that names each.
pub fn claims_of(spec: &VirtualMachineSpec) -> impl Iterator<Item = &str> {
    spec.volumes.iter().flatten().filter_map(|volume| {
        let ephemeral = volume.ephemeral.as_ref().and_then(|ephemeral| ephemeral.persistent_volume_claim.as_ref());
        volume.persistent_volume_claim.as_ref().or(ephemeral).map(|claim| claim.claim_name.as_str())
    })
}

/// What a VM that has a node does with one claim: all of its volumes on it together. None if it does not name it.
pub fn use_of_claim(vm: &VirtualMachine, claim: &str, access_modes: &[String]) -> Option<DiskUse> {
    let Ok(spec) = validate_vm_spec(&vm.spec, "spec") else {
        // It was started by the rules of another version, and runs: what cannot be told is the most that it may do.
        return claims_of(&vm.spec).any(|name| name == claim).then_some(DiskUse { writes: true, shared: false });
    };
    let uses = named(&spec).filter(|(_, name)| *name == claim);
    uses.filter_map(|(index, _)| DiskUse::of_volume(&spec, index, access_modes))
        .reduce(|one, other| DiskUse { writes: one.writes || other.writes, shared: one.shared && other.shared })
}

/// The volumes under a VM's claims, and what they ask of its node.
///
/// # Errors
/// Why one of them cannot be had now.
pub(super) fn resolve(
    namespace: &str,
    spec: &VirtualMachineSpec,
    claims: &BTreeMap<String, ObservedClaim>,
) -> Result<(Vec<VolumeStatus>, VolumeConstraints), Misfit> {
    if claims_of(spec).next().is_none() {
        return Ok(Default::default());
    }
    // What is wrong with a spec is said by placement.
    let Ok(valid) = validate_vm_spec(spec, "spec") else { return Ok(Default::default()) };
    let missing = ObservedClaim::default();
    let mut constraints = VolumeConstraints::default();
    let mut resolved = Vec::new();
    for (index, name) in named(&valid) {
        let volume = valid.volumes.get(index).map_or("", |volume| volume.name.as_str());
        let found = Named { namespace, volume, name, observed: claims.get(name).unwrap_or(&missing) };
        let status = found.resolve()?;
        let usage = DiskUse::of_volume(&valid, index, &status.access_modes).unwrap_or_default();
        found.check_users(usage, &status.access_modes)?;
        found.constrain(&status, &mut constraints);
        resolved.push(status);
    }
    Ok((resolved, constraints))
}

/// Index of each volume on a claim, and the claim's name.
fn named(spec: &ValidatedSpec) -> impl Iterator<Item = (usize, &str)> {
    spec.volumes.iter().enumerate().filter_map(|(index, volume)| match &volume.source {
        VolumeSource::PersistentVolumeClaim { claim_name, .. } | VolumeSource::Ephemeral { claim_name } => {
            Some((index, claim_name.as_str()))
        }
        VolumeSource::CloudInitNoCloud(_) | VolumeSource::RegistryDisk { .. } | VolumeSource::EmptyDisk { .. } => None,
    })
}

/// A claim as one volume of a VM names it.
struct Named<'a> {
    namespace: &'a str,
    volume: &'a str,
    name: &'a str,
    observed: &'a ObservedClaim,
}

impl Named<'_> {
    fn refuse(&self, reason: &'static str, why: &str) -> Misfit {
        let Self { namespace, volume, name, .. } = self;
        Misfit::Volume { reason, message: format!("volume {volume}: PersistentVolumeClaim {namespace}/{name} {why}") }
    }

    fn resolve(&self) -> Result<VolumeStatus, Misfit> {
        let Some(claim) = &self.observed.claim else {
            return Err(self.refuse("ClaimMissing", "does not exist; create it"));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(self.refuse("ClaimMissing", "is being deleted; create it again when it is gone"));
        }
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        let spec = claim.spec.clone().unwrap_or_default();
        let pv = spec.volume_name.unwrap_or_default();
        match phase {
            "Bound" if !pv.is_empty() => {}
            "Lost" => {
                let why = format!("has lost its PersistentVolume {pv}; create that one, or delete the claim");
                return Err(self.refuse("ClaimLost", &why));
            }
            _ => {
                let class = spec.storage_class_name.unwrap_or_default();
                let fits = "create a PersistentVolume that fits it (class, access modes, capacity, volumeMode), or name one in its spec.volumeName";
                let why = if class.is_empty() {
                    format!("is not bound to a PersistentVolume; {fits}")
                } else {
                    format!(
                        "of class {class} is not bound to a PersistentVolume; {fits}. A class that waits for its first consumer waits for a pod, unless \
                         spec.volumeName is set"
                    )
                };
                return Err(self.refuse("ClaimUnbound", &why));
            }
        }
        let Some(volume) = &self.observed.volume else {
            return Err(
                self.refuse("VolumeMissing", &format!("is bound to PersistentVolume {pv}, which does not exist"))
            );
        };
        // As the kubelet does: a claim says of itself what it likes, and a volume has one claim.
        let claim_ref = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let is_own = claim_ref.is_some_and(|of| {
            of.namespace.as_deref() == Some(self.namespace)
                && of.name.as_deref() == Some(self.name)
                && of.uid.is_some()
                && of.uid == claim.metadata.uid
        });
        if !is_own {
            let why = format!(
                "names PersistentVolume {pv}, which is not bound to it (spec.claimRef of the volume names its claim); create a volume of its own for it"
            );
            return Err(self.refuse("ClaimUnbound", &why));
        }
        let Some(path) = path_of(volume) else {
            let why = format!(
                "is bound to PersistentVolume {pv}, which is neither hostPath nor local: no other kind can hold a guest's disk"
            );
            return Err(self.refuse("VolumeUnsupported", &why));
        };
        Ok(VolumeStatus {
            name: self.volume.to_owned(),
            claim_name: self.name.to_owned(),
            persistent_volume_name: pv,
            path: path.to_owned(),
            access_modes: spec.access_modes.unwrap_or_default(),
        })
    }

    /// Another guest that has the claim and cannot share it.
    fn check_users(&self, usage: DiskUse, modes: &[String]) -> Result<(), Misfit> {
        let for_one = modes.iter().any(|mode| mode == READ_WRITE_ONCE_POD);
        let in_the_way = self.observed.users.iter().find(|user| for_one || usage.conflicts_with(user.usage));
        match in_the_way {
            None => Ok(()),
            Some(user) => {
                let modes = modes.join(", ");
                let why = format!(
                    "({modes}) is in use by VirtualMachine {} on node {}; stop that one, or share the claim: all guests readOnly, or access mode {READ_WRITE_MANY}",
                    user.vm, user.node
                );
                Err(self.refuse("ClaimInUse", &why))
            }
        }
    }

    fn constrain(&self, status: &VolumeStatus, constraints: &mut VolumeConstraints) {
        let affinity = self.observed.volume.as_ref().and_then(|volume| volume.spec.as_ref()?.node_affinity.as_ref());
        if let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) {
            constraints.affinities.push((status.persistent_volume_name.clone(), required.clone()));
        }
        let has = |mode: &str| status.access_modes.iter().any(|one| one == mode);
        if has(READ_WRITE_ONCE) && !has(READ_WRITE_MANY) && !has(READ_ONLY_MANY) {
            let claim = || format!("{}/{}", self.namespace, self.name);
            constraints.pinned.extend(self.observed.users.first().map(|user| (user.node.clone(), claim())));
        }
    }
}

/// Where a volume is on its node; none for a kind that is not on a node.
fn path_of(volume: &PersistentVolume) -> Option<&str> {
    let spec = volume.spec.as_ref()?;
    let host_path = spec.host_path.as_ref().map(|source| source.path.as_str());
    host_path.or(spec.local.as_ref().map(|source| source.path.as_str()))
}

#[cfg(test)]
mod tests;

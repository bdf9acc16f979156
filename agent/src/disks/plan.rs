//! From a VM's checked volumes to what is to be made for them. Pure.

use std::collections::BTreeMap;

use api::v1alpha1::VolumeStatus;
use api::validated::{UserData, ValidatedSpec, ValidatedVolume, VolumeSource};
use plan::sharing::DiskUse;

use crate::images::{ImageName, ImageNameError, VmReference};
use crate::seed::Seed;

/// A volume to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Position of the volume in the VM's spec, from 0: what its file is named by.
    pub ordinal: usize,
    /// Name of the volume.
    pub volume: String,
    /// What is to be in it.
    pub content: VolumeContent,
}

/// What is to be in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeContent {
    /// The image of this name; what the guest writes goes to an overlay of its own.
    Image(ImageName),
    /// A disk that is on a PersistentVolume.
    Claimed(ClaimedVolume),
    /// A seed for cloud-init.
    Seed(Seed),
    /// Nothing yet.
    Empty {
        /// Size in bytes, a multiple of 512.
        capacity_bytes: u64,
    },
}

/// A PersistentVolume, as the controller found it under the guest's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedVolume {
    /// Name of the PersistentVolume.
    pub persistent_volume: String,
    /// Where it is said to be on this node.
    pub path: String,
    /// What the guest does with it.
    pub usage: DiskUse,
    /// Whether the guest writes to a layer of its own above it.
    pub ephemeral: bool,
}

impl VolumePlan {
    /// The image that it stands on, if it does.
    pub fn image(&self) -> Option<&ImageName> {
        match &self.content {
            VolumeContent::Image(name) => Some(name),
            VolumeContent::Seed(_) | VolumeContent::Empty { .. } | VolumeContent::Claimed(_) => None,
        }
    }
}

/// Why a volume cannot be made on this node, whatever is tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumePlanError {
    /// The image's name breaks a rule.
    #[error("volume {volume}")]
    ImageName {
        /// Name of the volume.
        volume: String,
        /// The rule.
        #[source]
        source: ImageNameError,
    },
    /// The Secret is not there, or has no such key.
    #[error(
        "volume {volume}: secret {secret:?} with key userdata is not in the guest's namespace; create it there: kubectl create secret generic {secret} --from-file=userdata=FILE"
    )]
    SecretMissing {
        /// Name of the volume.
        volume: String,
        /// Name of the Secret.
        secret: String,
    },
    /// The VM was bound without a word on the volume's claim: by a controller of an earlier version.
    #[error(
        "volume {volume}: status.volumes does not say where claim {claim} is; update ovm-controller, then delete the VirtualMachine"
    )]
    ClaimUnresolved {
        /// Name of the volume.
        volume: String,
        /// Name of the claim.
        claim: String,
    },
}

impl VolumePlanError {
    /// Stable word for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ImageName { .. } => "InvalidImageName",
            Self::SecretMissing { .. } => "SecretMissing",
            Self::ClaimUnresolved { .. } => "ClaimUnresolved",
        }
    }
}

/// Plans the volumes of `vm`. `user_data` holds, by Secret name, what the caller read from key `userdata` of the Secrets that the volumes name;
/// `resolved` is what the VM's status says of its claims.
///
/// # Errors
/// If a volume cannot be made: the first one.
pub fn plan_volumes(
    vm: &VmReference,
    spec: &ValidatedSpec,
    user_data: &BTreeMap<String, Vec<u8>>,
    resolved: &[VolumeStatus],
) -> Result<Vec<VolumePlan>, VolumePlanError> {
    spec.volumes
        .iter()
        .enumerate()
        .map(|(ordinal, volume)| {
            let content = match plan_claimed(spec, ordinal, volume, resolved) {
                Some(claimed) => VolumeContent::Claimed(claimed?),
                None => plan_content(vm, volume, user_data)?,
            };
            Ok(VolumePlan { ordinal, volume: volume.name.clone(), content })
        })
        .collect()
}

/// A volume on a claim; none for one that is not.
fn plan_claimed(
    spec: &ValidatedSpec,
    ordinal: usize,
    volume: &ValidatedVolume,
    resolved: &[VolumeStatus],
) -> Option<Result<ClaimedVolume, VolumePlanError>> {
    let (claim, ephemeral) = match &volume.source {
        VolumeSource::PersistentVolumeClaim { claim_name, .. } => (claim_name, false),
        VolumeSource::Ephemeral { claim_name } => (claim_name, true),
        VolumeSource::RegistryDisk { .. } | VolumeSource::EmptyDisk { .. } | VolumeSource::CloudInitNoCloud(_) => {
            return None;
        }
    };
    let known = resolved.iter().find(|known| known.name == volume.name && known.claim_name == *claim);
    let usage = known.and_then(|known| DiskUse::of_volume(spec, ordinal, &known.access_modes));
    Some(match known.zip(usage) {
        Some((known, usage)) => Ok(ClaimedVolume {
            persistent_volume: known.persistent_volume_name.clone(),
            path: known.path.clone(),
            usage,
            ephemeral,
        }),
        None => Err(VolumePlanError::ClaimUnresolved { volume: volume.name.clone(), claim: claim.clone() }),
    })
}

fn plan_content(
    vm: &VmReference,
    volume: &ValidatedVolume,
    user_data: &BTreeMap<String, Vec<u8>>,
) -> Result<VolumeContent, VolumePlanError> {
    let seed = |user_data: &Vec<u8>| {
        VolumeContent::Seed(Seed { instance_id: vm.uid, local_hostname: vm.name.clone(), user_data: user_data.clone() })
    };
    match &volume.source {
        VolumeSource::RegistryDisk { image, .. } => image
            .parse()
            .map(VolumeContent::Image)
            .map_err(|source| VolumePlanError::ImageName { volume: volume.name.clone(), source }),
        VolumeSource::EmptyDisk { capacity_bytes } => Ok(VolumeContent::Empty { capacity_bytes: *capacity_bytes }),
        VolumeSource::CloudInitNoCloud(UserData::Inline(bytes)) => Ok(seed(bytes)),
        VolumeSource::CloudInitNoCloud(UserData::Secret { name }) => user_data
            .get(name)
            .map(seed)
            .ok_or_else(|| VolumePlanError::SecretMissing { volume: volume.name.clone(), secret: name.clone() }),
        VolumeSource::PersistentVolumeClaim { claim_name, .. } | VolumeSource::Ephemeral { claim_name } => {
            Err(VolumePlanError::ClaimUnresolved { volume: volume.name.clone(), claim: claim_name.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use api::validated::{DiskBus, DiskDevice, ValidatedDisk};

    use super::*;

    fn volume(name: &str, source: VolumeSource) -> ValidatedVolume {
        ValidatedVolume { name: name.to_owned(), source }
    }

    /// A spec with these volumes, each under a disk that can be written to.
    fn spec(volumes: &[ValidatedVolume]) -> ValidatedSpec {
        let mut spec = api::admission::validate_vm_spec(&api::v1alpha1::VirtualMachineSpec::default(), "spec").unwrap();
        let device = DiskDevice::Disk { bus: DiskBus::Virtio, readonly: false };
        let disk = |(index, volume): (usize, &ValidatedVolume)| ValidatedDisk {
            name: volume.name.clone(),
            volume: index,
            device,
        };
        spec.disks = volumes.iter().enumerate().map(disk).collect();
        spec.volumes = volumes.to_vec();
        spec
    }

    fn vm() -> VmReference {
        VmReference { uid: uuid::Uuid::from_u128(7), namespace: "ns".to_owned(), name: "guest".to_owned() }
    }

    #[test]
    fn each_source_becomes_its_content() {
        let volumes = [
            volume("root", VolumeSource::RegistryDisk { image: "a/b".to_owned(), image_pull_secret: None }),
            volume("inline", VolumeSource::CloudInitNoCloud(UserData::Inline(b"one".to_vec()))),
            volume("secret", VolumeSource::CloudInitNoCloud(UserData::Secret { name: "s".to_owned() })),
            volume("empty", VolumeSource::EmptyDisk { capacity_bytes: 1024 }),
        ];
        let seed = |user_data: &[u8]| {
            VolumeContent::Seed(Seed {
                instance_id: vm().uid,
                local_hostname: "guest".to_owned(),
                user_data: user_data.to_vec(),
            })
        };
        let plans = plan_volumes(&vm(), &spec(&volumes), &[("s".to_owned(), b"two".to_vec())].into(), &[]).unwrap();
        assert_eq!(
            plans.iter().map(|p| (p.ordinal, p.volume.as_str())).collect::<Vec<_>>(),
            [(0, "root"), (1, "inline"), (2, "secret"), (3, "empty")]
        );
        assert_eq!(
            plans.into_iter().map(|p| p.content).collect::<Vec<_>>(),
            [
                VolumeContent::Image("docker.io/a/b:latest".parse().unwrap()),
                seed(b"one"),
                seed(b"two"),
                VolumeContent::Empty { capacity_bytes: 1024 },
            ]
        );
    }

    #[test]
    fn claims_are_where_the_status_says() {
        let claim = |read_only| VolumeSource::PersistentVolumeClaim { claim_name: "c".to_owned(), read_only };
        let ephemeral = VolumeSource::Ephemeral { claim_name: "c".to_owned() };
        let spec = spec(&[volume("writes", claim(false)), volume("reads", claim(true)), volume("layer", ephemeral)]);
        let resolved = |name: &str| VolumeStatus {
            name: name.to_owned(),
            claim_name: "c".to_owned(),
            persistent_volume_name: "pv".to_owned(),
            path: "/v/pv".to_owned(),
            access_modes: vec!["ReadWriteOnce".to_owned()],
        };
        let all = ["writes", "reads", "layer"].map(resolved);
        let plans = plan_volumes(&vm(), &spec, &BTreeMap::new(), &all).unwrap();
        let expected = |writes, ephemeral| {
            VolumeContent::Claimed(ClaimedVolume {
                persistent_volume: "pv".to_owned(),
                path: "/v/pv".to_owned(),
                usage: DiskUse { writes, shared: false },
                ephemeral,
            })
        };
        let contents: Vec<_> = plans.into_iter().map(|plan| plan.content).collect();
        assert_eq!(contents, [expected(true, false), expected(false, false), expected(false, true)]);
        let other = VolumeStatus { claim_name: "another".to_owned(), ..resolved("writes") };
        let error = plan_volumes(&vm(), &spec, &BTreeMap::new(), &[other]).unwrap_err();
        assert_eq!(error.reason(), "ClaimUnresolved");
    }

    #[test]
    fn what_cannot_be_made_says_so() {
        let claim = "c".to_owned();
        for (source, reason) in [
            (VolumeSource::RegistryDisk { image: "A B".to_owned(), image_pull_secret: None }, "InvalidImageName"),
            (VolumeSource::CloudInitNoCloud(UserData::Secret { name: "none".to_owned() }), "SecretMissing"),
            (VolumeSource::PersistentVolumeClaim { claim_name: claim.clone(), read_only: false }, "ClaimUnresolved"),
            (VolumeSource::Ephemeral { claim_name: claim.clone() }, "ClaimUnresolved"),
        ] {
            let error = plan_volumes(&vm(), &spec(&[volume("v", source)]), &BTreeMap::new(), &[]).unwrap_err();
            assert_eq!(error.reason(), reason);
        }
    }
}

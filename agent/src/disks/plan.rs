//! From a VM's checked volumes to what is to be made for them. Pure.

use std::collections::BTreeMap;

use api::validated::{UserData, ValidatedVolume, VolumeSource};

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
    /// A seed for cloud-init.
    Seed(Seed),
    /// Nothing yet.
    Empty {
        /// Size in bytes, a multiple of 512.
        capacity_bytes: u64,
    },
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
    #[error("volume {volume}: secret {secret:?} with key userdata is not in the guest's namespace")]
    SecretMissing {
        /// Name of the volume.
        volume: String,
        /// Name of the Secret.
        secret: String,
    },
    /// A kind of volume that this version does not make.
    #[error("volume {volume}: {kind} volumes are not supported")]
    Unsupported {
        /// Name of the volume.
        volume: String,
        /// The field of the spec.
        kind: &'static str,
    },
}

impl VolumePlanError {
    /// Stable word for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ImageName { .. } => "InvalidImageName",
            Self::SecretMissing { .. } => "SecretMissing",
            Self::Unsupported { .. } => "UnsupportedVolume",
        }
    }
}

/// Plans the volumes of `vm`. `user_data` holds, by Secret name, what the caller read from key `userdata` of the Secrets that the volumes name.
///
/// # Errors
/// If a volume cannot be made: the first one.
pub fn plan_volumes(
    vm: &VmReference,
    volumes: &[ValidatedVolume],
    user_data: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<VolumePlan>, VolumePlanError> {
    volumes
        .iter()
        .enumerate()
        .map(|(ordinal, volume)| {
            let content = plan_content(vm, volume, user_data)?;
            Ok(VolumePlan { ordinal, volume: volume.name.clone(), content })
        })
        .collect()
}

fn plan_content(
    vm: &VmReference,
    volume: &ValidatedVolume,
    user_data: &BTreeMap<String, Vec<u8>>,
) -> Result<VolumeContent, VolumePlanError> {
    let unsupported = |kind| VolumePlanError::Unsupported { volume: volume.name.clone(), kind };
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
        VolumeSource::PersistentVolumeClaim { .. } => Err(unsupported("persistentVolumeClaim")),
        VolumeSource::Ephemeral { .. } => Err(unsupported("ephemeral")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, source: VolumeSource) -> ValidatedVolume {
        ValidatedVolume { name: name.to_owned(), source }
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
        let plans = plan_volumes(&vm(), &volumes, &[("s".to_owned(), b"two".to_vec())].into()).unwrap();
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
    fn what_cannot_be_made_says_so() {
        let claim = "c".to_owned();
        for (source, reason) in [
            (VolumeSource::RegistryDisk { image: "A B".to_owned(), image_pull_secret: None }, "InvalidImageName"),
            (VolumeSource::CloudInitNoCloud(UserData::Secret { name: "none".to_owned() }), "SecretMissing"),
            (VolumeSource::PersistentVolumeClaim { claim_name: claim.clone(), read_only: false }, "UnsupportedVolume"),
            (VolumeSource::Ephemeral { claim_name: claim.clone() }, "UnsupportedVolume"),
        ] {
            let error = plan_volumes(&vm(), &[volume("v", source)], &BTreeMap::new()).unwrap_err();
            assert_eq!(error.reason(), reason);
        }
    }
}

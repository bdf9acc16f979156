//! Which VM stands on which disk file: one small file a VM, named by its UID, from before its first overlay is made until its last is gone.
//!
//! Claims are the store's reference counts, kept as facts: nothing is counted up or down, so no crash can make them wrong.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::StoreError;
use super::index::{Blob, Digest};
use super::name::ImageName;
use crate::hostfs::Directory;

const SUFFIX: &str = ".json";
/// A claim has at most 256 volumes of a few hundred bytes.
const MAX_CLAIM_BYTES: u64 = 1 << 20;

/// A VirtualMachine, as disks and images know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmReference {
    /// UID of the VirtualMachine object.
    pub uid: Uuid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for VmReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The first `shown` of `vms`, and how many more there are.
pub fn name_some(vms: &[VmReference], shown: usize) -> String {
    let names = vms.iter().take(shown).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match vms.len().saturating_sub(shown) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// The disk file that one volume of a VM stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedImage {
    /// Position of the volume in the VM's spec, from 0.
    pub ordinal: usize,
    /// Full name of the image when it was claimed.
    pub full_name: String,
    /// Digest of its manifest at its registry; none for an imported file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The disk file.
    #[serde(flatten)]
    pub blob: Blob,
}

/// All disk files of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claim {
    pub(super) vm: VmReference,
    pub(super) images: Vec<ClaimedImage>,
}

impl Claim {
    /// Whether this claim is for exactly these volumes and names.
    pub(super) fn is_for(&self, wanted: &[(usize, ImageName)]) -> bool {
        self.images.iter().map(|i| (i.ordinal, i.full_name.as_str())).eq(wanted.iter().map(|(o, n)| (*o, n.full())))
    }
}

/// The directory of claims.
#[derive(Debug)]
pub(super) struct Claims {
    directory: Directory,
}

impl Claims {
    pub(super) fn new(directory: Directory) -> Self {
        Self { directory }
    }

    pub(super) fn get(&self, uid: Uuid) -> Result<Option<Claim>, StoreError> {
        let file = file_name(uid);
        let Some(bytes) = self.directory.read_if_exists(&file, MAX_CLAIM_BYTES)? else { return Ok(None) };
        let claim = serde_json::from_slice(&bytes)
            .map_err(|source| StoreError::DamagedClaim { path: self.directory.path_of(&file), source })?;
        Ok(Some(claim))
    }

    pub(super) fn put(&self, claim: &Claim) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(claim).expect("strings and numbers always serialise");
        self.directory.write_atomically(&file_name(claim.vm.uid), &bytes)?;
        Ok(self.directory.sync()?)
    }

    pub(super) fn remove_if_exists(&self, uid: Uuid) -> Result<bool, StoreError> {
        Ok(self.directory.remove_file_if_exists(&file_name(uid))?)
    }

    /// The VMs that have a claim. Files that are not ours are left out.
    pub(super) fn uids(&self) -> Result<Vec<Uuid>, StoreError> {
        let names = self.directory.names()?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect())
    }

    pub(super) fn all(&self) -> Result<Vec<Claim>, StoreError> {
        let mut claims = Vec::new();
        for uid in self.uids()? {
            claims.extend(self.get(uid)?);
        }
        Ok(claims)
    }

    /// The directory itself, for sweeping.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }
}

fn file_name(uid: Uuid) -> String {
    format!("{uid}{SUFFIX}")
}

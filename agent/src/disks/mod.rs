//! The disks of the VMs on this node: made before a guest starts, deleted after its domain is undefined.
//!
//! ```text
//! <data-dir>/vms/<VM UID>/
//!   disk-0.qcow2     overlay on an image of the store; its header names exactly the disk file that the VM has claimed
//!   seed-1.iso       cloud-init seed
//!   empty-2.qcow2    empty disk
//! ```
//!
//! Files are named by kind and position of the volume, never by a string from the object. A file gets its name when it is complete and on
//! disk, so a name that is there is a disk that a guest may have written to: it is checked and used, never made again. Order: claim the
//! images, make the files; at the end delete the files, give up the claim. Nothing here knows domains.

mod error;
mod finder;
mod fresh;
mod make;
mod plan;
mod qemu_img;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::plan::sharing::DiskUse;
use domain_xml::{DiskAccess, DiskLayer, DiskSource, LayerKind};
use futures::StreamExt;

use uuid::Uuid;

use crate::blocking::blocking;
use crate::hostfs::Directory;
use crate::images::{ClaimedImage, DiskFormat, ImageStore, StoreError, VmReference};
use crate::volumes::{Holders, VolumeDisk, VolumeRoots, WantedDisk};
use finder::Finder;
use fresh::FreshDisks;
use make::{Qcow2Disk, make_qcow2_if_needed, write_seed_if_needed};

pub use self::plan::{ClaimedVolume, VolumeContent, VolumePlan, VolumePlanError, plan_volumes};
pub use error::{CleanError, PrepareError, VolumeError};
use qemu_img::BackingFile;
pub use qemu_img::QemuImgError;

const VMS_DIRECTORY: &str = "vms";
/// A disk has a whole number of sectors.
const SECTOR_BYTES: u64 = 512;
/// Volumes of one VM that are made at a time.
const PARALLEL: usize = 4;

/// The disks of the VMs on this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    images: Arc<ImageStore>,
    vms: Directory,
    roots: Finder,
    holders: Holders,
    fresh: Arc<FreshDisks>,
}

/// What the volumes of one VM are made from.
struct Ready {
    /// Its own directory.
    directory: Arc<Directory>,
    /// Its images.
    claimed: Vec<ClaimedImage>,
    /// Its disks of PersistentVolumes, by place of the volume.
    found: BTreeMap<usize, VolumeDisk>,
}

/// A volume that is ready for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedDisk {
    /// Position of the volume in the VM's spec, from 0.
    pub ordinal: usize,
    /// Name of the volume.
    pub volume: String,
    /// Its file, and what that stands on: what the domain names.
    pub source: DiskSource,
    /// The image that it stands on, if it does.
    pub image: Option<ClaimedImage>,
}

impl DiskStore {
    /// Opens the disks below `data_dir`, and the image store there; makes the directories if they are missing. Disks of PersistentVolumes are looked for
    /// below `roots`, and taken with `holders`.
    ///
    /// # Errors
    /// If they cannot be made or opened, or `data_dir` is not UTF-8.
    pub fn open(data_dir: &Path, roots: VolumeRoots, holders: Holders) -> Result<Self, StoreError> {
        Self::open_with_limit(data_dir, None, roots, holders)
    }

    /// The same, with an image store that holds at most so many bytes.
    ///
    /// # Errors
    /// As [`DiskStore::open`].
    pub fn open_with_limit(
        data_dir: &Path,
        limit_bytes: Option<u64>,
        roots: VolumeRoots,
        holders: Holders,
    ) -> Result<Self, StoreError> {
        let images = Arc::new(ImageStore::open(data_dir)?.with_limit(limit_bytes));
        let vms = Directory::open_root(data_dir)?.subdirectory_or_create(VMS_DIRECTORY)?;
        let roots = Finder::new(roots, finder::DEADLINE);
        Ok(Self { inner: Arc::new(Inner { images, vms, roots, holders, fresh: Arc::default() }) })
    }

    /// The image store that overlays stand on. Its calls wait for files: not for async code.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.inner.images
    }

    /// The directory that holds all disks of VMs, absolute: with the image store's, all that a domain of ours may name.
    pub fn path(&self) -> &Path {
        self.inner.vms.path()
    }

    /// The volume roots, with links resolved: where else disks of VMs may be. Those that are there, and whose file systems answer.
    pub async fn volume_roots(&self) -> Vec<PathBuf> {
        self.inner.roots.resolved().await
    }

    /// Makes the volumes of `vm` that are not there yet, checks the ones that are, and says where they all are, in the order of `volumes`.
    /// Repeatable, and safe to repeat after a crash: a disk that is there is never made again. A seed with other user data is replaced.
    ///
    /// # Errors
    /// If an image is not in the store, a volume cannot be made, or one that is there is not the recorded one.
    /// Volumes that were made stay until [`DiskStore::clean`].
    pub async fn prepare(&self, vm: &VmReference, volumes: &[VolumePlan]) -> Result<Vec<PreparedDisk>, PrepareError> {
        let prepared = self.prepare_all(vm, volumes).await;
        prepared.map_err(|error| match error.full_directory(self.path()).map(Path::to_owned) {
            Some(directory) => PrepareError::Full { directory, source: Box::new(error) },
            None => error,
        })
    }

    /// Deletes the disks of the VM with this UID, and gives back its images and the disks of PersistentVolumes. Only for a VM whose domain is undefined. Repeatable.
    ///
    /// # Errors
    /// If something cannot be deleted. The claim stays while a disk is left.
    pub async fn clean(&self, uid: Uuid) -> Result<(), CleanError> {
        let inner = self.inner.clone();
        blocking(move || {
            if inner.vms.remove_directory_if_exists(&uid.to_string())? {
                inner.vms.sync()?;
            }
            inner.images.release(uid)?;
            Ok(inner.holders.release(uid)?)
        })
        .await
    }

    /// Gives back the disks of PersistentVolumes that the VM with this UID has; its own files stay. Only for a VM that has ended, and whose domain is undefined. Repeatable.
    ///
    /// # Errors
    /// If what is taken cannot be read or written.
    pub async fn give_volumes_back(&self, uid: Uuid) -> Result<(), CleanError> {
        let inner = self.inner.clone();
        blocking(move || Ok(inner.holders.release(uid)?)).await
    }

    /// UIDs of the VMs that have disks, images or disks of PersistentVolumes here, sorted: what a search for garbage starts from.
    ///
    /// # Errors
    /// If the directories cannot be read.
    pub async fn list(&self) -> Result<Vec<Uuid>, CleanError> {
        let inner = self.inner.clone();
        blocking(move || {
            let mut uids = inner.images.claimants()?;
            uids.extend(inner.holders.uids()?);
            uids.extend(inner.vms.names()?.iter().filter_map(|name| name.parse::<Uuid>().ok()));
            uids.sort();
            uids.dedup();
            Ok(uids)
        })
        .await
    }

    async fn prepare_all(&self, vm: &VmReference, volumes: &[VolumePlan]) -> Result<Vec<PreparedDisk>, PrepareError> {
        let images: Vec<_> =
            volumes.iter().filter_map(|volume| volume.image().map(|name| (volume.ordinal, name.clone()))).collect();
        let (found, wanted) = self.find_volumes(volumes).await?;
        let (inner, vm) = (self.inner.clone(), vm.clone());
        let (claimed, directory) = blocking(move || {
            let claimed = inner.images.claim(&vm, &images)?;
            inner.holders.take(&vm, &wanted)?;
            let directory = inner.vms.subdirectory_or_create(&vm.uid.to_string())?;
            Ok::<_, PrepareError>((claimed, Arc::new(directory)))
        })
        .await?;
        let ready = Ready { directory, claimed, found };
        // All are awaited, also after one has failed: each takes away what it leaves half-made.
        // Collected first: the compiler cannot see that a stream over a borrowing closure is Send.
        let preparations: Vec<_> = volumes.iter().map(|volume| self.prepare_volume(&ready, volume)).collect();
        let prepared: Vec<_> = futures::stream::iter(preparations).buffered(PARALLEL).collect().await;
        let prepared = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
        blocking(move || ready.directory.sync()).await?;
        Ok(prepared)
    }

    /// Finds the disks of PersistentVolumes, by place of the volume, and says what is to be taken of them.
    async fn find_volumes(
        &self,
        volumes: &[VolumePlan],
    ) -> Result<(BTreeMap<usize, VolumeDisk>, Vec<WantedDisk>), PrepareError> {
        let mut found = BTreeMap::new();
        let mut wanted = Vec::new();
        for plan in volumes {
            let VolumeContent::Claimed(claimed) = &plan.content else { continue };
            let disk = self.inner.roots.find(&claimed.path).await.map_err(|source| PrepareError::Volume {
                volume: plan.volume.clone(),
                source: VolumeError::Find { persistent_volume: claimed.persistent_volume.clone(), source },
            })?;
            wanted.push(WantedDisk {
                volume: plan.volume.clone(),
                path: disk.path.clone(),
                identity: disk.identity.clone(),
                usage: claimed.usage,
            });
            found.insert(plan.ordinal, disk);
        }
        Ok((found, wanted))
    }

    async fn prepare_volume(&self, ready: &Ready, plan: &VolumePlan) -> Result<PreparedDisk, PrepareError> {
        let (ordinal, directory, fresh) = (plan.ordinal, &ready.directory, &self.inner.fresh);
        let failed = |source| PrepareError::Volume { volume: plan.volume.clone(), source };
        let made = match &plan.content {
            VolumeContent::Claimed(claimed) => {
                let disk = ready.found.get(&ordinal).cloned().ok_or_else(|| failed(VolumeError::NotFound))?;
                let kind = if disk.is_block { LayerKind::Block } else { LayerKind::File };
                if !claimed.ephemeral {
                    let access = match claimed.usage {
                        DiskUse { writes: true, shared: false } => DiskAccess::Exclusive,
                        DiskUse { writes: false, shared: false } => DiskAccess::ReadOnly,
                        DiskUse { writes: true, shared: true } => DiskAccess::Shared,
                        DiskUse { writes: false, shared: true } => DiskAccess::SharedReadOnly,
                    };
                    let top = DiskLayer { kind, path: disk.path, format: domain_xml::DiskFormat::Raw };
                    let source = DiskSource { top, backing: Vec::new(), access };
                    return Ok(PreparedDisk { ordinal, volume: plan.volume.clone(), source, image: None });
                }
                let backing = BackingFile { path: disk.path, format: DiskFormat::Raw, kind };
                let name = format!("disk-{ordinal}.qcow2");
                // As `qemu-img` rounds it up.
                let virtual_bytes = disk.bytes.next_multiple_of(SECTOR_BYTES);
                let overlay = Qcow2Disk { name, virtual_bytes, backing: Some(backing) };
                make_qcow2_if_needed(directory, fresh, overlay).await
            }
            VolumeContent::Image(name) => {
                let image = ready.claimed.iter().find(|image| image.ordinal == ordinal);
                let blob = &image.ok_or_else(|| StoreError::NotFound(name.clone()))?.blob;
                let backing =
                    BackingFile { path: self.inner.images.path_of(blob), format: blob.format, kind: LayerKind::File };
                let name = format!("disk-{ordinal}.qcow2");
                make_qcow2_if_needed(
                    directory,
                    fresh,
                    Qcow2Disk { name, virtual_bytes: blob.virtual_bytes, backing: Some(backing) },
                )
                .await
            }
            VolumeContent::Empty { capacity_bytes } => {
                let name = format!("empty-{ordinal}.qcow2");
                make_qcow2_if_needed(
                    directory,
                    fresh,
                    Qcow2Disk { name, virtual_bytes: *capacity_bytes, backing: None },
                )
                .await
            }
            VolumeContent::Seed(seed) => {
                write_seed_if_needed(directory, format!("seed-{ordinal}.iso"), seed.clone()).await
            }
        };
        let made = made.map_err(failed)?;
        Ok(PreparedDisk {
            ordinal,
            volume: plan.volume.clone(),
            source: DiskSource {
                top: layer(LayerKind::File, directory.path_of(&made.name), made.format),
                backing: made.backing.map(|one| layer(one.kind, one.path, one.format)).into_iter().collect(),
                access: DiskAccess::Exclusive,
            },
            image: ready.claimed.iter().find(|image| image.ordinal == ordinal).cloned(),
        })
    }
}

fn layer(kind: LayerKind, path: PathBuf, format: DiskFormat) -> DiskLayer {
    let format = match format {
        DiskFormat::Raw => domain_xml::DiskFormat::Raw,
        DiskFormat::Qcow2 => domain_xml::DiskFormat::Qcow2,
    };
    DiskLayer { kind, path, format }
}

#[cfg(test)]
mod tests;

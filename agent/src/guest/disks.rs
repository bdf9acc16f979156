//! What a guest needs of the node's disks: made from its spec, user data read where the spec only names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::v1alpha1::{ImageStatus, VolumeStatus};
use api::validated::{UserData, ValidatedSpec, VolumeSource};
use domain_xml::{AllowedPaths, DiskSource};
use futures::FutureExt;
use futures::future::BoxFuture;
use plan::node::{GuestKey, needs_registries};
use tokio::sync::Notify;
use uuid::Uuid;

use super::fetch::{Fetch, SecretsOfVm, wanted_images};
use crate::blocking::blocking;
use crate::disks::{DiskStore, PrepareError, PreparedDisk, VolumePlan, plan_volumes};
use crate::images::{ImageName, Puller, StoreError, VmReference, named_image};
use crate::objects::UserDataSource;
use api::chain;

/// Name of the copy of a guest's serial output, in the directory of its disks.
const CONSOLE_LOG: &str = "console.log";

/// Why the disks are not as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskTrouble {
    /// One CamelCase word, for conditions.
    pub reason: &'static str,
    /// For people. Never holds user data.
    pub message: String,
}

/// What became of the making of disks.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepared {
    /// All are there.
    Ready(ReadyVolumes),
    /// A registry has to be asked first.
    NeedsImages,
}

/// Disks that are there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadyVolumes {
    /// The source of each volume, by its name.
    pub sources: BTreeMap<String, DiskSource>,
    /// The images that they stand on.
    pub images: Vec<ImageStatus>,
}

/// The disks of the guests of this node.
pub trait GuestDisks: Send + Sync + 'static {
    /// Makes what is missing of a VM's disks. Repeatable. `resolved` is what the VM's status says of its claims. `fetched`: the registries were just
    /// asked, and what the node has now is good.
    fn prepare<'a>(
        &'a self,
        key: &'a GuestKey,
        uid: Uuid,
        spec: &'a ValidatedSpec,
        resolved: &'a [VolumeStatus],
        fetched: bool,
    ) -> BoxFuture<'a, Result<Prepared, DiskTrouble>>;

    /// Begins to ask the registries of a VM's images, and to pull what is missing. `wake` is rung whenever there is something new to see.
    fn fetch(&self, key: &GuestKey, uid: Uuid, spec: &ValidatedSpec, wake: Arc<Notify>) -> Fetch;

    /// Removes a VM's disks. Repeatable.
    fn clean(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>>;

    /// Gives back the disks of PersistentVolumes that a VM has; its own files stay. Repeatable.
    fn give_volumes_back(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>>;

    /// The VMs that have disks here.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Uuid>, DiskTrouble>>;

    /// Where the disks and logs of a domain may lie.
    fn allowed_paths<'a>(&'a self, emulator: &'a Path, with_volumes: bool) -> BoxFuture<'a, AllowedPaths>;

    /// Where a VM's serial output is copied to.
    fn console_log(&self, uid: Uuid) -> PathBuf;
}

/// Disks in the node's store.
pub struct NodeDisks {
    store: DiskStore,
    user_data: Arc<dyn UserDataSource>,
    puller: Arc<Puller>,
}

impl NodeDisks {
    /// Disks in `store`, on images that `puller` pulls into it, with user data and pull secrets from `user_data`.
    pub fn new(store: DiskStore, user_data: Arc<dyn UserDataSource>, puller: Arc<Puller>) -> Self {
        Self { store, user_data, puller }
    }

    /// Whether a registry has to be asked before these volumes can be made.
    async fn needs_images(&self, vm: &VmReference, volumes: &[VolumePlan]) -> Result<bool, StoreError> {
        let names: Vec<ImageName> = volumes.iter().filter_map(VolumePlan::image).cloned().collect();
        let (images, vm) = (Arc::clone(self.store.images()), vm.clone());
        blocking(move || {
            let look = |name| Ok(named_image(name, images.find(name)?.as_ref()));
            let named = names.iter().map(look).collect::<Result<Vec<_>, StoreError>>()?;
            Ok(needs_registries(images.has_claim(&vm)?, named))
        })
        .await
    }

    /// The user data of every Secret that the spec names. One that is missing is left out: the planning of volumes says so.
    async fn read_user_data(
        &self,
        key: &GuestKey,
        uid: Uuid,
        spec: &ValidatedSpec,
    ) -> Result<BTreeMap<String, Vec<u8>>, DiskTrouble> {
        let needs_it = spec.volumes.iter().find_map(|volume| match &volume.source {
            VolumeSource::CloudInitNoCloud(UserData::Secret { name }) => Some((&volume.name, name)),
            _ => None,
        });
        let Some((volume, secret)) = needs_it else { return Ok(BTreeMap::new()) };
        self.user_data.read_user_data(key, uid).await.map_err(|error| DiskTrouble {
            reason: error.reason(),
            message: format!("volume {volume}: secret {secret:?}: {}", chain(&error)),
        })
    }
}

impl GuestDisks for NodeDisks {
    fn prepare<'a>(
        &'a self,
        key: &'a GuestKey,
        uid: Uuid,
        spec: &'a ValidatedSpec,
        resolved: &'a [VolumeStatus],
        fetched: bool,
    ) -> BoxFuture<'a, Result<Prepared, DiskTrouble>> {
        let vm = VmReference { uid, namespace: key.namespace.clone(), name: key.name.clone() };
        async move {
            let user_data = self.read_user_data(key, uid, spec).await?;
            let volumes = plan_volumes(&vm, spec, &user_data, resolved)
                .map_err(|error| DiskTrouble { reason: error.reason(), message: chain(&error) })?;
            let trouble = |error: PrepareError| DiskTrouble { reason: error.reason(), message: chain(&error) };
            if !fetched && self.needs_images(&vm, &volumes).await.map_err(|error| trouble(error.into()))? {
                return Ok(Prepared::NeedsImages);
            }
            let prepared = self.store.prepare(&vm, &volumes).await.map_err(trouble)?;
            let images = prepared.iter().filter_map(image_status).collect();
            let sources = prepared.into_iter().map(|disk| (disk.volume, disk.source)).collect();
            Ok(Prepared::Ready(ReadyVolumes { sources, images }))
        }
        .boxed()
    }

    fn fetch(&self, key: &GuestKey, uid: Uuid, spec: &ValidatedSpec, wake: Arc<Notify>) -> Fetch {
        let source = SecretsOfVm { source: Arc::clone(&self.user_data), key: key.clone(), uid };
        Fetch::begin(Arc::clone(&self.puller), source, wanted_images(spec), wake)
    }

    fn clean(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>> {
        async move {
            let cleaned = self.store.clean(uid).await;
            cleaned.map_err(|error| DiskTrouble { reason: "CleanupFailed", message: chain(&error) })
        }
        .boxed()
    }

    fn give_volumes_back(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>> {
        async move {
            let given = self.store.give_volumes_back(uid).await;
            given.map_err(|error| DiskTrouble { reason: "CleanupFailed", message: chain(&error) })
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Uuid>, DiskTrouble>> {
        async move {
            let listed = self.store.list().await;
            listed.map_err(|error| DiskTrouble { reason: "DisksUnreadable", message: chain(&error) })
        }
        .boxed()
    }

    fn allowed_paths<'a>(&'a self, emulator: &'a Path, with_volumes: bool) -> BoxFuture<'a, AllowedPaths> {
        async move {
            let roots = if with_volumes { self.store.volume_roots().await } else { Vec::new() };
            let mut disk_dirs = vec![self.store.path().to_owned(), self.store.images().path().to_owned()];
            disk_dirs.extend(roots.iter().cloned());
            AllowedPaths {
                disk_dirs,
                block_devices: roots,
                log_dirs: vec![self.store.path().to_owned()],
                emulator: emulator.to_owned(),
            }
        }
        .boxed()
    }

    fn console_log(&self, uid: Uuid) -> PathBuf {
        self.store.path().join(uid.to_string()).join(CONSOLE_LOG)
    }
}

fn image_status(disk: &PreparedDisk) -> Option<ImageStatus> {
    let image = disk.image.as_ref()?;
    Some(ImageStatus {
        volume_name: disk.volume.clone(),
        image: image.full_name.clone(),
        digest: image.manifest.as_ref().map(ToString::to_string),
        disk_digest: image.blob.digest.to_string(),
    })
}

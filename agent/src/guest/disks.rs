//! What a guest needs of the node's disks: made from its spec, user data read where the spec only names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::v1alpha1::VolumeStatus;
use api::validated::{UserData, ValidatedSpec, VolumeSource};
use domain_xml::{AllowedPaths, DiskSource};
use futures::FutureExt;
use futures::future::BoxFuture;
use plan::node::GuestKey;
use uuid::Uuid;

use crate::disks::{DiskStore, plan_volumes};
use crate::images::VmReference;
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

/// The disks of the guests of this node.
pub trait GuestDisks: Send + Sync + 'static {
    /// Makes what is missing of a VM's disks; returns the source of each volume, by its name. `resolved` is what the VM's status says of its claims.
    /// Repeatable.
    fn prepare<'a>(
        &'a self,
        key: &'a GuestKey,
        uid: Uuid,
        spec: &'a ValidatedSpec,
        resolved: &'a [VolumeStatus],
    ) -> BoxFuture<'a, Result<BTreeMap<String, DiskSource>, DiskTrouble>>;

    /// Removes a VM's disks. Repeatable.
    fn clean(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>>;

    /// The VMs that have disks here.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Uuid>, DiskTrouble>>;

    /// Where the disks and logs of a domain may lie.
    fn allowed_paths(&self, emulator: &Path) -> AllowedPaths;

    /// Where a VM's serial output is copied to.
    fn console_log(&self, uid: Uuid) -> PathBuf;
}

/// Disks in the node's store.
pub struct NodeDisks {
    store: DiskStore,
    user_data: Arc<dyn UserDataSource>,
}

impl NodeDisks {
    /// Disks in `store`, with user data from `user_data`.
    pub fn new(store: DiskStore, user_data: Arc<dyn UserDataSource>) -> Self {
        Self { store, user_data }
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
    ) -> BoxFuture<'a, Result<BTreeMap<String, DiskSource>, DiskTrouble>> {
        let vm = VmReference { uid, namespace: key.namespace.clone(), name: key.name.clone() };
        async move {
            let user_data = self.read_user_data(key, uid, spec).await?;
            let volumes = plan_volumes(&vm, spec, &user_data, resolved)
                .map_err(|error| DiskTrouble { reason: error.reason(), message: chain(&error) })?;
            let prepared = self.store.prepare(&vm, &volumes).await;
            let prepared = prepared.map_err(|error| DiskTrouble { reason: error.reason(), message: chain(&error) })?;
            Ok(prepared.into_iter().map(|disk| (disk.volume, disk.source)).collect())
        }
        .boxed()
    }

    fn clean(&self, uid: Uuid) -> BoxFuture<'_, Result<(), DiskTrouble>> {
        async move {
            let cleaned = self.store.clean(uid).await;
            cleaned.map_err(|error| DiskTrouble { reason: "CleanupFailed", message: chain(&error) })
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

    fn allowed_paths(&self, emulator: &Path) -> AllowedPaths {
        let roots = self.store.volume_roots();
        let mut disk_dirs = vec![self.store.path().to_owned(), self.store.images().path().to_owned()];
        disk_dirs.extend(roots.iter().cloned());
        AllowedPaths {
            disk_dirs,
            block_devices: roots,
            log_dirs: vec![self.store.path().to_owned()],
            emulator: emulator.to_owned(),
        }
    }

    fn console_log(&self, uid: Uuid) -> PathBuf {
        self.store.path().join(uid.to_string()).join(CONSOLE_LOG)
    }
}

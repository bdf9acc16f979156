//! The API server of the simulated world: two kinds, their ABI records, Nodes and Leases, with resource versions, preconditions, finalizers, deletion and
//! owner references as the real one has them. It keeps every version, so that a cache can be as stale as it likes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::names;
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::cluster::{AbiRevision, Now, ObjectKey};

/// Finalizer by which the garbage collector holds an object until its dependents are gone.
const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    NotFound,
    AlreadyExists,
    Conflict,
}

/// How an object's dependents are dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// A Node, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeObject {
    pub(super) uid: String,
    pub(super) version: u64,
    pub(super) out_of_service: bool,
    pub(super) cordoned: bool,
    /// It has a NoExecute taint of the administrator's.
    pub(super) tainted: bool,
    /// It has the NoExecute taint of a node whose kubelet is silent.
    pub(super) kubelet_silent: bool,
    pub(super) schedulable: bool,
}

/// Everything stored, at one resource version.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) version: u64,
    pub(super) ovms: BTreeMap<ObjectKey, Arc<OfflineVirtualMachine>>,
    pub(super) vms: BTreeMap<ObjectKey, Arc<VirtualMachine>>,
    /// ABI records, by their own names.
    pub(super) revisions: BTreeMap<ObjectKey, Arc<ControllerRevision>>,
    pub(super) nodes: BTreeMap<String, NodeObject>,
    /// resourceVersion of each node's Lease.
    pub(super) leases: BTreeMap<String, u64>,
}

/// The store, with its history.
#[derive(Clone, Debug, Default)]
pub(super) struct Api {
    pub(super) now: Duration,
    pub(super) state: Snapshot,
    /// When each node's Lease was last renewed.
    pub(super) renewed: BTreeMap<String, Duration>,
    /// Writes so far that changed anything but a Lease.
    pub(super) changes: u64,
    history: Vec<Arc<Snapshot>>,
    uids: u64,
}

/// The parts that both kinds have.
pub(super) trait Stored: Clone {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    fn table(state: &mut Snapshot) -> &mut BTreeMap<ObjectKey, Arc<Self>>;
}

impl Stored for OfflineVirtualMachine {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn table(state: &mut Snapshot) -> &mut BTreeMap<ObjectKey, Arc<Self>> {
        &mut state.ovms
    }
}

impl Stored for VirtualMachine {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn table(state: &mut Snapshot) -> &mut BTreeMap<ObjectKey, Arc<Self>> {
        &mut state.vms
    }
}

impl Stored for ControllerRevision {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn table(state: &mut Snapshot) -> &mut BTreeMap<ObjectKey, Arc<Self>> {
        &mut state.revisions
    }
}

impl Snapshot {
    /// The ABI records of an OVM of this name, by number.
    pub(super) fn records_of(&self, key: &ObjectKey) -> Vec<AbiRevision> {
        let all = self.revisions.values().filter(|one| one.metadata.namespace.as_ref() == Some(&key.namespace));
        let mut found: Vec<_> = all.filter_map(|object| AbiRevision::from_object(&key.name, object)).collect();
        found.sort_by_key(|one| one.revision);
        found
    }
}

impl Api {
    /// The state as of the newest version that is not newer than `version`.
    pub(super) fn at(&self, version: u64) -> Arc<Snapshot> {
        let end = self.history.partition_point(|snapshot| snapshot.version <= version);
        end.checked_sub(1).and_then(|index| self.history.get(index)).cloned().unwrap_or_default()
    }

    /// The newest state.
    pub(super) fn newest(&self) -> Arc<Snapshot> {
        self.history.last().cloned().unwrap_or_default()
    }

    /// Every state since `version`, oldest first, with the one at `version` before them.
    pub(super) fn since(&self, version: u64) -> &[Arc<Snapshot>] {
        let end = self.history.partition_point(|snapshot| snapshot.version <= version);
        self.history.get(end.saturating_sub(1)..).unwrap_or_default()
    }

    pub(super) fn version(&self) -> u64 {
        self.state.version
    }

    fn wall(&self) -> Time {
        Time(Now::at(self.now).wall)
    }

    /// Ends a write: everything that it changed is one new version.
    fn commit(&mut self) {
        self.changes += 1;
        self.history.push(Arc::new(self.state.clone()));
    }

    fn bump(&mut self) -> String {
        self.state.version += 1;
        self.state.version.to_string()
    }

    /// POST.
    pub(super) fn create<T: Stored>(&mut self, key: &ObjectKey, mut object: T) -> Result<Arc<T>, ApiError> {
        if T::table(&mut self.state).contains_key(key) {
            return Err(ApiError::AlreadyExists);
        }
        self.uids += 1;
        let (uid, version, wall) = (format!("uid-{}", self.uids), self.bump(), self.wall());
        let meta = object.meta_mut();
        meta.uid = Some(uid);
        meta.name = Some(key.name.clone());
        meta.namespace = Some(key.namespace.clone());
        meta.resource_version = Some(version);
        meta.generation = Some(1);
        meta.creation_timestamp = Some(wall);
        let object = Arc::new(object);
        T::table(&mut self.state).insert(key.clone(), Arc::clone(&object));
        self.commit();
        Ok(object)
    }

    /// PUT or PATCH: changes the object, if it is still the one that was read (`uid`, `version`; none: whichever there is). An object that is
    /// being deleted and has lost its last finalizer goes.
    pub(super) fn update<T: Stored>(
        &mut self,
        key: &ObjectKey,
        uid: Option<&str>,
        version: Option<&str>,
        change: impl FnOnce(&mut T),
    ) -> Result<Arc<T>, ApiError> {
        let old = T::table(&mut self.state).get(key).cloned().ok_or(ApiError::NotFound)?;
        let differs =
            |expected: Option<&str>, actual: &Option<String>| expected.is_some() && expected != actual.as_deref();
        if differs(uid, &old.meta().uid) || differs(version, &old.meta().resource_version) {
            return Err(ApiError::Conflict);
        }
        let mut new = (*old).clone();
        change(&mut new);
        new.meta_mut().resource_version = Some(self.bump());
        let gone = new.meta().deletion_timestamp.is_some() && new.meta().finalizers.iter().flatten().next().is_none();
        let new = Arc::new(new);
        if gone {
            T::table(&mut self.state).remove(key);
        } else {
            T::table(&mut self.state).insert(key.clone(), Arc::clone(&new));
        }
        self.commit();
        Ok(new)
    }

    /// DELETE. An object without finalizers goes at once, any other is marked.
    pub(super) fn delete<T: Stored>(
        &mut self,
        key: &ObjectKey,
        uid: Option<&str>,
        version: Option<&str>,
        propagation: Propagation,
    ) -> Result<(), ApiError> {
        let wall = self.wall();
        self.update::<T>(key, uid, version, |object| {
            let meta = object.meta_mut();
            let collector = match propagation {
                Propagation::Background => None,
                Propagation::Foreground => Some(FOREGROUND_FINALIZER),
                Propagation::Orphan => Some(names::ORPHAN_FINALIZER),
            };
            if let Some(finalizer) = collector
                && meta.deletion_timestamp.is_none()
            {
                meta.finalizers.get_or_insert_default().push(finalizer.to_owned());
            }
            meta.deletion_timestamp.get_or_insert(wall);
        })
        .map(|_| ())
    }

    /// One step of the garbage collector over a view of the world that may be stale; true if it did something. Writes carry the
    /// UID, as the real one's do.
    pub(super) fn collect_garbage(&mut self, view: &Snapshot) -> bool {
        let vms: Vec<_> = view.vms.iter().map(|(key, vm)| (key.clone(), Arc::clone(vm))).collect();
        let ovms: Vec<_> = view.ovms.iter().map(|(key, ovm)| (key.clone(), Arc::clone(ovm))).collect();
        for (key, vm) in vms {
            let Some(owner) = owner(&vm) else { continue };
            // Like the real collector, it asks the server before it believes that an owner is gone.
            let exists = self.state.ovms.get(&key).is_some_and(|ovm| ovm.metadata.uid.as_ref() == Some(&owner.uid));
            let marked = vm.metadata.deletion_timestamp.is_some();
            if !exists && !marked && self.still(&key, &vm) {
                let uid = vm.metadata.uid.clone();
                return self.delete::<VirtualMachine>(&key, uid.as_deref(), None, Propagation::Background).is_ok();
            }
        }
        let revisions: Vec<_> = view.revisions.iter().map(|(key, one)| (key.clone(), Arc::clone(one))).collect();
        for (key, revision) in &revisions {
            let Some(owner) = revision.metadata.owner_references.iter().flatten().next() else { continue };
            let exists = self.state.ovms.values().any(|ovm| ovm.metadata.uid.as_ref() == Some(&owner.uid));
            let uid = revision.metadata.uid.as_deref();
            if !exists && self.state.revisions.contains_key(key) {
                return self.delete::<ControllerRevision>(key, uid, None, Propagation::Background).is_ok();
            }
        }
        for (key, ovm) in ovms {
            let record = revisions.iter().find(|(_, revision)| {
                let mut owners = revision.metadata.owner_references.iter().flatten();
                owners.any(|owner| Some(&owner.uid) == ovm.metadata.uid.as_ref())
            });
            let has = |finalizer: &str| ovm.metadata.finalizers.iter().flatten().any(|f| f == finalizer);
            let dependent =
                view.vms.get(&key).filter(|vm| owner(vm).is_some_and(|o| Some(&o.uid) == ovm.metadata.uid.as_ref()));
            let uid = ovm.metadata.uid.as_deref();
            if has(names::ORPHAN_FINALIZER) {
                if let Some((name, record)) = record {
                    let uid = record.metadata.uid.as_deref();
                    return self
                        .update::<ControllerRevision>(name, uid, None, |record| record.metadata.owner_references = None)
                        .is_ok();
                }
                return match dependent {
                    Some(vm) => {
                        let owned_by = ovm.metadata.uid.clone();
                        self.update::<VirtualMachine>(&key, vm.metadata.uid.as_deref(), None, |vm| {
                            vm.metadata.owner_references.iter_mut().for_each(|refs| {
                                refs.retain(|reference| Some(&reference.uid) != owned_by.as_ref());
                            });
                        })
                        .is_ok()
                    }
                    None => self.drop_finalizer(&key, uid, names::ORPHAN_FINALIZER),
                };
            }
            if has(FOREGROUND_FINALIZER) {
                return match dependent {
                    Some(vm) if vm.metadata.deletion_timestamp.is_none() => self
                        .delete::<VirtualMachine>(&key, vm.metadata.uid.as_deref(), None, Propagation::Background)
                        .is_ok(),
                    Some(_) => false,
                    None => self.drop_finalizer(&key, uid, FOREGROUND_FINALIZER),
                };
            }
        }
        false
    }

    fn still(&self, key: &ObjectKey, vm: &VirtualMachine) -> bool {
        self.state.vms.get(key).is_some_and(|now| {
            now.metadata.uid == vm.metadata.uid && owner(now).map(|o| &o.uid) == owner(vm).map(|o| &o.uid)
        })
    }

    fn drop_finalizer(&mut self, key: &ObjectKey, uid: Option<&str>, finalizer: &str) -> bool {
        let held = self.state.ovms.get(key).is_some_and(|ovm| {
            ovm.metadata.uid.as_deref() == uid && ovm.metadata.finalizers.iter().flatten().any(|f| f == finalizer)
        });
        held && self
            .update::<OfflineVirtualMachine>(key, uid, None, |ovm| {
                ovm.metadata.finalizers.iter_mut().for_each(|list| list.retain(|f| f != finalizer));
            })
            .is_ok()
    }

    /// Renews a Lease, or makes it.
    pub(super) fn renew_lease(&mut self, node: &str) {
        let version = self.bump();
        self.renewed.insert(node.to_owned(), self.now);
        self.state.leases.insert(node.to_owned(), version.parse().unwrap_or_default());
        self.history.push(Arc::new(self.state.clone()));
    }

    /// Makes a Node, or changes it.
    pub(super) fn change_node(&mut self, name: &str, change: impl FnOnce(&mut NodeObject)) {
        self.bump();
        let version = self.state.version;
        let uids = &mut self.uids;
        let node = self.state.nodes.entry(name.to_owned()).or_insert_with(|| {
            *uids += 1;
            NodeObject { uid: format!("node-{uids}"), schedulable: true, ..NodeObject::default() }
        });
        change(node);
        node.version = version;
        self.commit();
    }

    /// All objects of both kinds are lost: a CustomResourceDefinition was deleted, an old backup restored.
    pub(super) fn lose_objects(&mut self) {
        self.bump();
        self.state.ovms.clear();
        self.state.vms.clear();
        self.commit();
    }

    /// Deletes a Node.
    pub(super) fn delete_node(&mut self, name: &str) {
        if self.state.nodes.remove(name).is_some() {
            self.bump();
            self.commit();
        }
    }
}

/// The owner that the collector goes by.
fn owner(vm: &VirtualMachine) -> Option<&OwnerReference> {
    vm.metadata.owner_references.iter().flatten().next()
}

//! The VirtualMachines of this node, as the watch delivers them. The only copy that the agent keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::v1alpha1::{Phase, VirtualMachine};
use kube::ResourceExt;
use plan::node::GuestKey;

/// The objects by guest. Cheap to clone; all clones share the objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct VmCache {
    objects: Arc<RwLock<BTreeMap<GuestKey, Arc<VirtualMachine>>>>,
}

impl VmCache {
    /// The VM of a guest.
    pub(crate) fn get(&self, key: &GuestKey) -> Option<Arc<VirtualMachine>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// The guests that have a VM.
    pub(crate) fn keys(&self) -> Vec<GuestKey> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The phase of each VM.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.values().map(|vm| vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default()).collect()
    }

    /// UIDs of all VMs.
    pub(crate) fn uids(&self) -> Vec<String> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).values().filter_map(|vm| vm.uid()).collect()
    }

    /// Takes up an object; returns its guest.
    pub(crate) fn insert(&self, vm: VirtualMachine) -> GuestKey {
        let key = key_of(&vm);
        self.objects.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Arc::new(vm));
        key
    }

    /// Drops an object, unless another one has taken its name; returns its guest.
    pub(crate) fn remove(&self, vm: &VirtualMachine) -> GuestKey {
        let key = key_of(vm);
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        if objects.get(&key).is_some_and(|known| known.uid() == vm.uid()) {
            objects.remove(&key);
        }
        key
    }

    /// Replaces everything; returns the guests that were or are there.
    pub(crate) fn replace(&self, vms: Vec<VirtualMachine>) -> Vec<GuestKey> {
        let new: BTreeMap<_, _> = vms.into_iter().map(|vm| (key_of(&vm), Arc::new(vm))).collect();
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Vec<GuestKey> = objects.keys().chain(new.keys()).cloned().collect();
        *objects = new;
        keys.sort();
        keys.dedup();
        keys
    }
}

fn key_of(vm: &VirtualMachine) -> GuestKey {
    GuestKey { namespace: vm.namespace().unwrap_or_default(), name: vm.name_any() }
}

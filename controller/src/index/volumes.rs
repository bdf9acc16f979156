//! PersistentVolumeClaims and PersistentVolumes, and which guests have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v1alpha1::VirtualMachine;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::runtime::watcher::Event;
use plan::cluster::{ClaimUser, ObjectKey, ObservedClaim, claims_of, use_of_claim};
use tokio::sync::Notify;

use super::cache::Put;
use super::{Index, Wakes};

impl Index {
    /// Takes in a watch event of a claim: VMs without a node may wait for it.
    pub(crate) fn on_claim(&mut self, event: Event<PersistentVolumeClaim>) -> Wakes {
        match event {
            Event::Init => self.persistent_claims.begin_list(),
            Event::Apply(mut claim) | Event::InitApply(mut claim) => {
                claim.metadata.managed_fields = None; // most of it, and nobody here reads it
                let meta = claim.metadata.clone();
                if let Put::Noted(_) = self.persistent_claims.put(&meta, Arc::new(claim)) {
                    self.storage_changed.notify_one();
                    return self.waiting().collect();
                }
            }
            Event::Delete(claim) => {
                self.persistent_claims.remove(&claim.metadata);
                self.storage_changed.notify_one();
            }
            Event::InitDone => {
                self.persistent_claims.end_list();
                self.storage_changed.notify_one();
            }
        }
        Wakes::new()
    }

    /// Takes in a watch event of a volume.
    pub(crate) fn on_volume(&mut self, event: Event<PersistentVolume>) -> Wakes {
        match event {
            Event::Init => self.volumes.begin_list(),
            Event::Apply(mut volume) | Event::InitApply(mut volume) => {
                volume.metadata.managed_fields = None;
                let meta = volume.metadata.clone();
                if let Put::Noted(_) = self.volumes.put(&meta, Arc::new(volume)) {
                    self.storage_changed.notify_one();
                    return self.waiting().collect();
                }
            }
            Event::Delete(volume) => {
                self.volumes.remove(&volume.metadata);
                self.storage_changed.notify_one();
            }
            Event::InitDone => {
                self.volumes.end_list();
                self.storage_changed.notify_one();
            }
        }
        Wakes::new()
    }

    /// Every claim and every volume: what bindings are decided from.
    pub(crate) fn storage(&self) -> (Vec<Arc<PersistentVolumeClaim>>, Vec<Arc<PersistentVolume>>) {
        let claims = self.persistent_claims.iter().map(|(_, claim)| Arc::clone(claim));
        (claims.collect(), self.volumes.iter().map(|(_, volume)| Arc::clone(volume)).collect())
    }

    /// Rung when a claim or a volume has changed: for one listener.
    pub(crate) fn storage_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.storage_changed)
    }

    /// The claims that a VM names, and who else has them.
    pub(crate) fn claims_for(&self, key: &ObjectKey, vm: &VirtualMachine) -> BTreeMap<String, ObservedClaim> {
        claims_of(&vm.spec).map(|name| (name.to_owned(), self.observe_claim(key, name))).collect()
    }

    fn observe_claim(&self, key: &ObjectKey, name: &str) -> ObservedClaim {
        let own = ObjectKey { namespace: key.namespace.clone(), name: name.to_owned() };
        let Some(claim) = self.persistent_claims.get(&own) else { return ObservedClaim::default() };
        let spec = claim.spec.as_ref();
        let volume = spec
            .and_then(|spec| spec.volume_name.clone())
            .and_then(|name| self.volumes.get(&ObjectKey { namespace: String::new(), name }).cloned());
        let modes = spec.and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
        ObservedClaim { claim: Some(Arc::clone(claim)), volume, users: self.users_of(key, name, modes) }
    }

    /// Other guests of the namespace that name the claim, and have a node or were promised one.
    fn users_of(&self, key: &ObjectKey, claim: &str, modes: &[String]) -> Vec<ClaimUser> {
        let others = self.vms.iter().filter(|(other, guest)| {
            other.namespace == key.namespace
                && *other != key
                && !guest.phase.is_final()
                && guest.claims.iter().any(|name| **name == *claim)
        });
        let user = |(other, guest): (&ObjectKey, &super::Guest)| {
            let node = guest.counted.node.as_deref()?.to_owned();
            let usage = use_of_claim(&guest.vm.unpack(), claim, modes)?;
            Some(ClaimUser { vm: other.clone(), node, usage })
        };
        others.filter_map(user).collect()
    }
}

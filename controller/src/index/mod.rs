//! What the watches have shown, reduced to what the planner looks at. Answers the question which keys a change concerns. No I/O, no clock.

mod cache;
mod ledger;
mod names;
mod packed;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::names::LEADER_LEASE;
use api::v1alpha1::{AbiStatus, OfflineVirtualMachine, Phase, VirtualMachine};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;
use plan::cluster::{
    Claim, LeaseFact, LeaseVerdict, NodeFacts, ObjectKey, ObservedHome, ObservedNode, Requests, SeenTaint, bound_node,
    claims_of, guest_requests, kubevirt_v0_uuid, pod_requests,
};
use tokio::sync::Notify;

use crate::lean::Kind;
use crate::seen::Seen;
use cache::{Cache, Put, key_of};
use ledger::{Entry, Ledger};
use names::Names;
use packed::Packed;

/// The caches.
#[derive(Debug, Default)]
pub(crate) struct Index {
    ovms: Cache<Wish>,
    vms: Cache<Guest>,
    nodes: Cache<Arc<NodeFacts>>,
    pods: Cache<Entry>,
    persistent_claims: Cache<Arc<PersistentVolumeClaim>>,
    volumes: Cache<Arc<PersistentVolume>>,
    /// Rung when a claim or a volume has changed.
    storage_changed: Arc<Notify>,
    /// What guests take from each node: those bound, those placed, and those promised room.
    taken_by_guests: Ledger,
    taken_by_pods: Ledger,
    /// VMs that wait for a node.
    unbound: BTreeSet<ObjectKey>,
    /// Versions of Leases; what they mean is in `leases`.
    lease_versions: Cache<()>,
    leases: BTreeMap<String, LeaseFact>,
    /// Each node's taints that may end guests, and since when this process has seen them.
    taints: BTreeMap<String, Vec<SeenTaint>>,
    /// Room that was promised to VMs by decisions of this process, by VM UID.
    claims: BTreeMap<String, Claim>,
    /// Counts claims. A decision that was made before the last of them is made again.
    claim_count: u64,
    /// Words that many objects have in common.
    names: Names,
}

/// An OVM, and what of it is asked for without reading all of it.
#[derive(Clone, Debug)]
struct Wish {
    ovm: Packed<OfflineVirtualMachine>,
    /// UID of the VM in placement, and its node.
    placed: Option<(Box<str>, Arc<str>)>,
    /// `status.printableStatus`.
    word: Arc<str>,
}

/// A VM, what of it is asked for without reading all of it, and what it takes from its node.
#[derive(Clone, Debug)]
struct Guest {
    vm: Packed<VirtualMachine>,
    uid: Box<str>,
    bound: Option<Arc<str>>,
    phase: Phase,
    /// Names of the PersistentVolumeClaims in its spec.
    claims: Box<[Box<str>]>,
    requests: Requests,
    /// What is counted for it.
    counted: Entry,
}

/// Keys to look at because something changed.
pub(crate) type Wakes = BTreeSet<ObjectKey>;

impl Index {
    /// Takes in a watch event of an OVM.
    pub(crate) fn on_ovm(&mut self, event: Event<Seen<OfflineVirtualMachine>>) -> Wakes {
        match event {
            Event::Init => self.ovms.begin_list(),
            Event::Apply(seen) | Event::InitApply(seen) => {
                if self.ovms.knows(&seen.metadata) {
                    return Wakes::new();
                }
                let Some(ovm) = read(seen) else { return Wakes::new() };
                self.put_ovm(&ovm);
                return Wakes::from([key_of(&ovm.metadata)]);
            }
            Event::Delete(seen) => {
                let key = key_of(&seen.metadata);
                self.ovms.remove(&seen.metadata);
                self.recount(&key);
                return Wakes::from([key]);
            }
            Event::InitDone => {
                let gone: Wakes = self.ovms.end_list().into_iter().map(|(key, _)| key).collect();
                for key in &gone {
                    self.recount(key);
                }
                return gone;
            }
        }
        Wakes::new()
    }

    /// Takes in a watch event of a VM.
    pub(crate) fn on_vm(&mut self, event: Event<Seen<VirtualMachine>>) -> Wakes {
        match event {
            Event::Init => self.vms.begin_list(),
            Event::Apply(seen) | Event::InitApply(seen) => {
                if self.vms.knows(&seen.metadata) {
                    return Wakes::new();
                }
                let Some(vm) = read(seen) else { return Wakes::new() };
                self.put_vm(&vm);
                let mut keys = Wakes::from([key_of(&vm.metadata)]);
                if phase_of(&vm).is_final() {
                    keys.extend(self.waiting());
                }
                return keys;
            }
            Event::Delete(seen) => {
                let key = key_of(&seen.metadata);
                if let Some(guest) = self.vms.remove(&seen.metadata) {
                    self.forget(&key, &guest);
                }
                self.claims.remove(seen.metadata.uid.as_deref().unwrap_or_default());
                return self.waiting().chain([key]).collect();
            }
            Event::InitDone => {
                let gone = self.vms.end_list();
                for (key, guest) in &gone {
                    self.forget(key, guest);
                }
                return gone.into_iter().map(|(key, _)| key).chain(self.waiting()).collect();
            }
        }
        Wakes::new()
    }

    /// Takes in a watch event of a Node. Heartbeats change nothing that matters.
    pub(crate) fn on_node(&mut self, event: Event<Node>, monotonic: Duration) -> Wakes {
        match event {
            Event::Init => self.nodes.begin_list(),
            Event::Apply(node) | Event::InitApply(node) => {
                let facts = Arc::new(NodeFacts::from_object(&node));
                if let Put::Noted(before) = self.nodes.put(&node.metadata, Arc::clone(&facts))
                    && before.is_none_or(|before| !before.is_same_place(&facts))
                {
                    let before = self.taints.remove(&facts.name).unwrap_or_default();
                    self.taints.insert(facts.name.clone(), SeenTaint::of_node(&facts.taints, &before, monotonic));
                    return self.homed(&facts.name).chain(self.waiting()).collect();
                }
            }
            Event::Delete(node) => {
                self.nodes.remove(&node.metadata);
                let name = node.metadata.name.as_deref().unwrap_or_default();
                self.taints.remove(name);
                self.names.forget_unused();
                return self.homed(name).collect();
            }
            Event::InitDone => {
                let gone = self.nodes.end_list();
                self.taints.retain(|name, _| !gone.iter().any(|(key, _)| key.name == *name));
                return gone.iter().flat_map(|(key, _)| self.homed(&key.name)).collect();
            }
        }
        Wakes::new()
    }

    /// Takes in a watch event of one of our Leases. A renewal matters only where it changes the verdict.
    pub(crate) fn on_lease(&mut self, event: Event<Lease>, monotonic: Duration) -> Wakes {
        match event {
            Event::Init => self.lease_versions.begin_list(),
            Event::Apply(lease) | Event::InitApply(lease) => return self.lease_seen(&lease.metadata, monotonic),
            Event::Delete(lease) => {
                if self.lease_versions.remove(&lease.metadata).is_some() {
                    self.lease_gone(lease.metadata.name.as_deref().unwrap_or_default(), monotonic);
                }
            }
            Event::InitDone => {
                for (key, ()) in self.lease_versions.end_list() {
                    self.lease_gone(&key.name, monotonic);
                }
            }
        }
        Wakes::new()
    }

    /// Takes in a watch event of a pod.
    pub(crate) fn on_pod(&mut self, event: Event<Pod>) -> Wakes {
        match event {
            Event::Init => self.pods.begin_list(),
            Event::Apply(pod) | Event::InitApply(pod) => {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                let node = node.map(|node| self.names.get(node));
                let entry = Entry { node, requests: pod_requests(&pod) };
                let Put::Noted(before) = self.pods.put(&pod.metadata, entry.clone()) else { return Wakes::new() };
                self.taken_by_pods.replace(before.as_ref().unwrap_or(&Entry::default()), &entry);
                let freed = before.is_some_and(|before| before.requests != entry.requests);
                return if freed { self.waiting().collect() } else { Wakes::new() };
            }
            Event::Delete(pod) => {
                if let Some(entry) = self.pods.remove(&pod.metadata) {
                    self.taken_by_pods.remove(&entry);
                }
                return self.waiting().collect();
            }
            Event::InitDone => {
                for (_, entry) in self.pods.end_list() {
                    self.taken_by_pods.remove(&entry);
                }
            }
        }
        Wakes::new()
    }

    /// Notes an OVM, unless this version of it, or a newer one, is known.
    pub(crate) fn put_ovm(&mut self, ovm: &OfflineVirtualMachine) {
        let meta = &ovm.metadata;
        if self.ovms.knows(meta) {
            return;
        }
        let placement = ovm.status.as_ref().and_then(|status| status.placement.as_ref());
        let placed =
            placement.map(|placement| (placement.vm_uid.as_str().into(), self.names.get(&placement.node_name)));
        let word = ovm.status.as_ref().and_then(|status| status.printable_status.as_deref()).unwrap_or_default();
        let word = self.names.get(word);
        self.ovms.put(meta, Wish { ovm: Packed::of(ovm), placed, word });
        self.recount(&key_of(meta));
    }

    /// Notes a VM, unless this version of it, or a newer one, is known.
    pub(crate) fn put_vm(&mut self, vm: &VirtualMachine) {
        let meta = &vm.metadata;
        if self.vms.knows(meta) {
            return;
        }
        let phase = phase_of(vm);
        let guest = Guest {
            vm: pack_vm(vm),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            bound: bound_node(vm).map(|node| self.names.get(node)),
            phase,
            claims: claims_of(&vm.spec).map(Box::from).collect(),
            requests: if phase.is_final() { Requests::default() } else { guest_requests(&vm.spec) },
            counted: Entry::default(),
        };
        let key = key_of(meta);
        if let Put::Noted(Some(before)) = self.vms.put(meta, guest) {
            self.forget(&key, &before);
        }
        self.recount(&key);
    }

    pub(crate) fn ovm(&self, key: &ObjectKey) -> Option<Arc<OfflineVirtualMachine>> {
        self.ovms.get(key).map(|wish| Arc::new(wish.ovm.unpack()))
    }

    pub(crate) fn vm(&self, key: &ObjectKey) -> Option<Arc<VirtualMachine>> {
        self.vms.get(key).map(|guest| Arc::new(guest.vm.unpack()))
    }

    /// A node as a guest's home, from the caches.
    pub(crate) fn home(&mut self, node: &str, monotonic: Duration) -> ObservedHome {
        let lease =
            self.leases.entry(node.to_owned()).or_insert_with(|| LeaseFact::seen(None, None, monotonic)).clone();
        let facts = self.node(node);
        ObservedHome {
            exists: facts.is_some(),
            out_of_service: facts.is_some_and(|facts| facts.is_out_of_service()),
            no_execute: self.taints.get(node).cloned().unwrap_or_default(),
            lease,
            read_after_vm: false,
        }
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Arc<NodeFacts>> {
        self.nodes.get(&ObjectKey { namespace: String::new(), name: name.to_owned() })
    }

    /// Notes what an uncached read of a Node gave.
    pub(crate) fn node_read(&mut self, name: &str, node: Option<Node>, monotonic: Duration) -> Wakes {
        if let Some(node) = node {
            return self.on_node(Event::Apply(node), monotonic);
        }
        let Some(facts) = self.node(name) else { return Wakes::new() };
        let (name, uid) = (Some(name.to_owned()), Some(facts.version.uid.clone()));
        let metadata = ObjectMeta { name, uid, ..ObjectMeta::default() };
        self.on_node(Event::Delete(Node { metadata, ..Node::default() }), monotonic)
    }

    /// Every node as a place for guests, and the count of claims that this knows of.
    pub(crate) fn places(&self) -> (Vec<ObservedNode>, u64) {
        let nodes = self.nodes.iter().map(|(_, facts)| ObservedNode {
            facts: Arc::clone(facts),
            lease: self.leases.get(&facts.name).cloned().unwrap_or_default(),
            guests: self.taken_by_guests.taken_from(&facts.name),
            pods: self.taken_by_pods.taken_from(&facts.name),
        });
        (nodes.collect(), self.claim_count)
    }

    /// Brings the sums up to date with what is known of one key.
    fn recount(&mut self, key: &ObjectKey) {
        let Some(guest) = self.vms.get_mut(key) else { return };
        let placed = self.ovms.get(key).and_then(|wish| wish.placed.as_ref());
        let placed = placed.filter(|(uid, _)| *uid == guest.uid).map(|(_, node)| node);
        let shown = guest.bound.as_ref().or(placed);
        if shown.is_some() {
            // A promise is kept until the objects show it.
            self.claims.remove(&*guest.uid);
        }
        let node = shown.cloned().or_else(|| self.claims.get(&*guest.uid).map(|claim| self.names.get(&claim.node)));
        let entry = Entry { node, requests: guest.requests };
        self.taken_by_guests.replace(&guest.counted, &entry);
        guest.counted = entry;
        if guest.bound.is_none() && !guest.phase.is_final() {
            self.unbound.insert(key.clone());
        } else {
            self.unbound.remove(key);
        }
    }

    /// Every key that there is an object of.
    pub(crate) fn keys(&self) -> Wakes {
        self.ovms.iter().map(|(key, _)| key).chain(self.vms.iter().map(|(key, _)| key)).cloned().collect()
    }

    /// Objects for the metrics: the word of each OVM, the phase of each VM.
    pub(crate) fn objects(&self) -> (impl Iterator<Item = &str>, impl Iterator<Item = Phase>) {
        (self.ovms.iter().map(|(_, wish)| &*wish.word), self.vms.iter().map(|(_, guest)| guest.phase))
    }

    /// Forgets what was promised: whoever acted meanwhile has decided otherwise.
    pub(crate) fn forget_claims(&mut self) {
        self.claims.clear();
        let keys: Vec<_> = self.unbound.iter().cloned().collect();
        for key in &keys {
            self.recount(key);
        }
    }

    /// With UUIDs made of names: another guest of this name that has the UUID. One that runs has it; so has one whose UUID is on record, before one whose
    /// is not.
    pub(crate) fn uuid_holder(&self, key: &ObjectKey) -> Option<ObjectKey> {
        let uuid = kubevirt_v0_uuid(&key.name).to_string();
        let has = |abi: Option<&AbiStatus>| abi.and_then(|abi| abi.firmware_uuid.as_ref()) == Some(&uuid);
        let is_on_record = |key: &ObjectKey| {
            self.ovm(key).is_some_and(|ovm| has(ovm.status.as_ref().and_then(|status| status.abi.as_ref())))
        };
        let runs = |key: &ObjectKey| {
            let Some(vm) = self.vm(key) else { return false };
            let is_promised = self.claims.contains_key(vm.metadata.uid.as_deref().unwrap_or_default());
            let has_another = given_uuid(&vm).is_some_and(|given| given != uuid);
            has(vm.status.as_ref().and_then(|status| status.abi.as_ref())) || (is_promised && !has_another)
        };
        let own = is_on_record(key);
        let others = self.ovms.iter().map(|(other, _)| other).chain(self.vms.iter().map(|(other, _)| other));
        let mut others = others.filter(|other| other.name == key.name && *other != key);
        others.find(|other| runs(other) || (!own && is_on_record(other))).cloned()
    }

    /// Takes out of the sums what was counted for a VM that is gone, or known anew.
    fn forget(&mut self, key: &ObjectKey, guest: &Guest) {
        self.taken_by_guests.remove(&guest.counted);
        self.unbound.remove(key);
    }

    /// Promises room to the VM of a key, if nothing was promised since `known`.
    pub(crate) fn claim(&mut self, key: &ObjectKey, claim: Claim, known: u64) -> bool {
        if self.claim_count != known {
            return false;
        }
        self.claim_count += 1;
        self.claims.insert(claim.vm_uid.clone(), claim);
        self.recount(key);
        true
    }

    /// Takes a promise back, after a write that failed.
    pub(crate) fn unclaim(&mut self, key: &ObjectKey, vm_uid: &str) {
        self.claims.remove(vm_uid);
        self.recount(key);
    }

    /// Notes a version of a Lease, from the watch or a read.
    pub(crate) fn lease_seen(&mut self, meta: &ObjectMeta, monotonic: Duration) -> Wakes {
        // No node's: an agent refuses to be of that name.
        if meta.name.as_deref() == Some(LEADER_LEASE) {
            return Wakes::new();
        }
        if self.lease_versions.put(meta, ()) == Put::Known {
            return Wakes::new();
        }
        let name = meta.name.clone().unwrap_or_default();
        let before = self.leases.get(&name);
        let was_live = before.is_some_and(|fact| fact.verdict(monotonic) == LeaseVerdict::Live);
        let fact = LeaseFact::seen(before, meta.resource_version.as_deref(), monotonic);
        self.leases.insert(name.clone(), fact);
        if was_live { Wakes::new() } else { self.homed(&name).chain(self.waiting()).collect() }
    }

    /// Notes that a Lease does not exist.
    pub(crate) fn lease_gone(&mut self, node: &str, monotonic: Duration) {
        let fact = LeaseFact::seen(self.leases.get(node), None, monotonic);
        self.leases.insert(node.to_owned(), fact);
    }

    pub(crate) fn lease(&self, node: &str) -> Option<&LeaseFact> {
        self.leases.get(node)
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = (&String, &LeaseFact)> {
        self.leases.iter()
    }

    /// Keys whose guest is on a node, or was placed there.
    pub(crate) fn homed<'a>(&'a self, node: &'a str) -> impl Iterator<Item = ObjectKey> + 'a {
        let bound = self.vms.iter().filter(move |(_, guest)| guest.bound.as_deref() == Some(node));
        let placed =
            self.ovms.iter().filter(move |(_, wish)| wish.placed.as_ref().is_some_and(|(_, on)| **on == *node));
        bound.map(|(key, _)| key.clone()).chain(placed.map(|(key, _)| key.clone()))
    }

    /// Keys whose VM waits for a node.
    fn waiting(&self) -> impl Iterator<Item = ObjectKey> + '_ {
        self.unbound.iter().cloned()
    }
}

/// An object that cannot be read is left as it was known, and the others are seen all the same. Whatever is written from what was known fails.
fn read<K: Kind>(seen: Seen<K>) -> Option<K> {
    let key = key_of(&seen.metadata);
    let read = seen.read();
    if let Err(error) = &read {
        let (kind, namespace, name) = (K::kind(&()), key.namespace, key.name);
        tracing::error!(%kind, namespace, name, %error, "an object is not what its definition says, and is not looked at");
    }
    read.ok()
}

/// Nothing is written to a VM from the caches, and what is planned from them asks for no device: most of a running VM's size.
fn pack_vm(vm: &VirtualMachine) -> Packed<VirtualMachine> {
    let has_devices =
        vm.status.as_ref().and_then(|status| status.abi.as_ref()).is_some_and(|abi| !abi.devices.is_empty());
    if !has_devices {
        return Packed::of(vm);
    }
    let mut vm = vm.clone();
    if let Some(abi) = vm.status.as_mut().and_then(|status| status.abi.as_mut()) {
        abi.devices = Vec::new();
    }
    Packed::of(&vm)
}

fn given_uuid(vm: &VirtualMachine) -> Option<String> {
    vm.spec.domain.firmware.as_ref().and_then(|firmware| firmware.uuid.as_ref()).map(|uuid| uuid.to_lowercase())
}

fn phase_of(vm: &VirtualMachine) -> Phase {
    vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

//! Reads, and nothing else: from the caches, or uncached in the one order that the planner asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::abi::record_label;
use api::names::{ABI_OF_LABEL, SYSTEM_NAMESPACE};
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use plan::cluster::{AbiRevision, Look, NodeFacts, ObjectKey, Observed, ReadOrder, UuidRule, bound_node};

use crate::context::Context;
use crate::lean::Lean;

/// How often a look starts over because the VM changed while it was made. Then the key is tried again later.
const LOOKS: u32 = 5;

/// An observation, and what it knows of promised room.
pub(crate) struct Observation {
    pub(crate) observed: Observed,
    /// Count of claims when the nodes were looked at.
    pub(crate) claims: u64,
}

impl Observation {
    /// Takes the nodes and the guest's claims from the caches again, with what is promised by now.
    pub(crate) fn look_at_places(&mut self, context: &Context) {
        let index = context.index();
        (self.observed.nodes, self.claims) = index.places();
        if let Some(vm) = &self.observed.vm {
            self.observed.claims = index.claims_for(&self.observed.key, vm);
        }
    }
}

/// What keeps a look from being made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// A read failed.
    #[error("read {what} {name}")]
    Read {
        /// The kind.
        what: &'static str,
        /// The object's name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The VM changed during each try.
    #[error("VirtualMachine {0} changes faster than it can be read")]
    Restless(ObjectKey),
}

/// From the caches.
pub(crate) fn observe_cached(context: &Context, key: &ObjectKey) -> Observation {
    let (ovm, vm) = {
        let index = context.index();
        (index.ovm(key), index.vm(key))
    };
    observe(context, key, ovm, vm, ReadOrder::CACHED)
}

/// VM, OVM, VM again; then each node's Lease and Node; then the records. Or the records alone, beside what was observed.
pub(crate) async fn observe_look(
    context: &Context,
    key: &ObjectKey,
    look: &Look,
    mut before: Observation,
) -> Result<Observation, LookError> {
    if look.keep {
        before.observed.revisions = Some(list_revisions(context, key).await?);
        return Ok(before);
    }
    let (ovm, vm) = read_pair(context, key).await?;
    {
        let mut index = context.index();
        if let Some(vm) = &vm {
            index.put_vm(vm);
        }
        if let Some(ovm) = &ovm {
            index.put_ovm(ovm);
        }
    }
    for node in &look.nodes {
        read_home(context, node).await?;
    }
    let revisions = if look.revisions { Some(list_revisions(context, key).await?) } else { None };
    let mut observation = observe(context, key, ovm, vm, ReadOrder::UNCACHED);
    observation.observed.revisions = revisions;
    for node in &look.nodes {
        if let Some(home) = observation.observed.homes.get_mut(node) {
            home.read_after_vm = true;
        }
    }
    Ok(observation)
}

fn observe(
    context: &Context,
    key: &ObjectKey,
    ovm: Option<Arc<OfflineVirtualMachine>>,
    vm: Option<Arc<VirtualMachine>>,
    order: ReadOrder,
) -> Observation {
    let monotonic = context.now().monotonic;
    let mut index = context.index();
    let placement = ovm.as_ref().and_then(|ovm| ovm.status.as_ref()?.placement.as_ref());
    let names =
        vm.as_deref().and_then(bound_node).into_iter().chain(placement.map(|placement| placement.node_name.as_str()));
    let homes: BTreeMap<_, _> = names.map(|node| (node.to_owned(), index.home(node, monotonic))).collect();
    // Nodes matter only to a VM that has none. One that is created looks at them then.
    let unbound = vm.as_deref().filter(|vm| bound_node(vm).is_none());
    let (nodes, claims) = unbound.map(|_| index.places()).unwrap_or_default();
    let volumes = unbound.map(|vm| index.claims_for(key, vm)).unwrap_or_default();
    let is_by_name = context.installation.uuid_rule == UuidRule::KubevirtV0;
    let uuid_holder = if is_by_name { index.uuid_holder(key) } else { None };
    drop(index);
    let failure = context.troubles().get(key).and_then(|trouble| trouble.step.clone());
    let installation = Arc::clone(&context.installation);
    let observed = Observed {
        key: key.clone(),
        ovm,
        vm,
        revisions: None,
        uuid_holder,
        order,
        homes,
        nodes,
        claims: volumes,
        installation,
        failure,
    };
    Observation { observed, claims }
}

/// S3: the OVM's ABI records, uncached, by number.
async fn list_revisions(context: &Context, key: &ObjectKey) -> Result<Vec<AbiRevision>, LookError> {
    let revisions = Api::<ControllerRevision>::namespaced(context.client.clone(), &key.namespace);
    let ours = ListParams::default().labels(&format!("{ABI_OF_LABEL}={}", record_label(&key.name)));
    let listed = revisions.list(&ours).await.map_err(|source| LookError::Read {
        what: "ControllerRevisions of",
        name: key.to_string(),
        source,
    })?;
    let mut all: Vec<_> =
        listed.items.iter().filter_map(|object| AbiRevision::from_object(&key.name, object)).collect();
    all.sort_by_key(|one| one.revision);
    Ok(all)
}

type Pair = (Option<Arc<OfflineVirtualMachine>>, Option<Arc<VirtualMachine>>);

/// Both objects, each read after the other: the VM is the same before and after the OVM was read.
async fn read_pair(context: &Context, key: &ObjectKey) -> Result<Pair, LookError> {
    let vms = Api::<Lean<VirtualMachine>>::namespaced(context.client.clone(), &key.namespace);
    let ovms = Api::<Lean<OfflineVirtualMachine>>::namespaced(context.client.clone(), &key.namespace);
    let read_vm = || async {
        vms.get_opt(&key.name).await.map_err(|source| LookError::Read {
            what: "VirtualMachine",
            name: key.to_string(),
            source,
        })
    };
    let mut before = read_vm().await?;
    for _ in 0..LOOKS {
        let ovm = ovms.get_opt(&key.name).await.map_err(|source| LookError::Read {
            what: "OfflineVirtualMachine",
            name: key.to_string(),
            source,
        })?;
        let after = read_vm().await?;
        let version = |vm: &Option<Lean<VirtualMachine>>| {
            vm.as_ref().map(|Lean(vm)| (vm.metadata.uid.clone(), vm.metadata.resource_version.clone()))
        };
        if version(&before) == version(&after) {
            return Ok((ovm.map(|Lean(ovm)| Arc::new(ovm)), after.map(|Lean(vm)| Arc::new(vm))));
        }
        before = after;
    }
    Err(LookError::Restless(key.clone()))
}

/// F2: the Lease, then the Node, into the index.
pub(crate) async fn read_home(context: &Context, node: &str) -> Result<Option<NodeFacts>, LookError> {
    let leases = Api::<Lease>::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    let lease = leases.get_opt(node).await.map_err(|source| LookError::Read {
        what: "Lease",
        name: node.to_owned(),
        source,
    })?;
    let monotonic = context.now().monotonic;
    match lease {
        Some(lease) => {
            let wakes = context.index().lease_seen(&lease.metadata, monotonic);
            context.wake_all(wakes);
        }
        None => context.index().lease_gone(node, monotonic),
    }
    let nodes = Api::<Node>::all(context.client.clone());
    let object =
        nodes.get_opt(node).await.map_err(|source| LookError::Read { what: "Node", name: node.to_owned(), source })?;
    let facts = object.as_ref().map(NodeFacts::from_object);
    let monotonic = context.now().monotonic;
    let wakes = context.index().node_read(node, object, monotonic);
    context.wake_all(wakes);
    Ok(facts)
}

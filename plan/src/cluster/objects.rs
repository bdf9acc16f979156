//! Questions that the rules ask of an object's metadata and status.

use api::names;
use api::v1alpha1::{Condition, OfflineVirtualMachine, Phase, VirtualMachine};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::Version;

/// Whose a VM is, seen from the OVM of its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ownership<'a> {
    /// This OVM is its controller.
    Ours,
    /// It has no controller.
    Free,
    /// Something else is its controller.
    Foreign(&'a OwnerReference),
}

pub(super) fn version_of(meta: &ObjectMeta) -> Version {
    Version { uid: uid_of(meta).to_owned(), resource_version: meta.resource_version.clone().unwrap_or_default() }
}

pub(super) fn uid_of(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

pub(super) fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

pub(super) fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

/// The finalizers with `name` among them.
pub(super) fn finalizers_with(meta: &ObjectMeta, name: &str) -> Vec<String> {
    let mut all = finalizers_without(meta, name);
    all.push(name.to_owned());
    all
}

/// The finalizers without `name`.
pub(super) fn finalizers_without(meta: &ObjectMeta, name: &str) -> Vec<String> {
    meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != name).cloned().collect()
}

pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether any owner reference, controlling or not, names this UID.
pub(super) fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

pub(super) fn ownership<'a>(ovm: &OfflineVirtualMachine, vm: &'a VirtualMachine) -> Ownership<'a> {
    match controller_of(&vm.metadata) {
        None => Ownership::Free,
        Some(owner) if Some(&owner.uid) == ovm.metadata.uid.as_ref() => Ownership::Ours,
        Some(owner) => Ownership::Foreign(owner),
    }
}

/// Whether the owner is an OVM, of whatever UID.
pub(super) fn is_ovm(owner: &OwnerReference) -> bool {
    owner.kind == "OfflineVirtualMachine" && owner.api_version.split('/').next() == Some(names::GROUP)
}

/// The node that the VM is bound to. `status.nodeName` alone says so (S3).
pub fn bound_node(vm: &VirtualMachine) -> Option<&str> {
    vm.status.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

pub(super) fn phase_of(vm: &VirtualMachine) -> Phase {
    vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

/// When the VM entered a phase first.
pub(super) fn entered(vm: &VirtualMachine, phase: Phase) -> Option<Timestamp> {
    let stamps = &vm.status.as_ref()?.phase_transition_timestamps;
    stamps.iter().find(|stamp| stamp.phase == phase).map(|stamp| stamp.phase_transition_timestamp.0)
}

pub(super) fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Puts a condition in place of the one of its type. `lastTransitionTime` moves only with `status`; without any difference nothing changes.
pub(super) fn set_condition(
    conditions: &mut Vec<Condition>,
    now: Timestamp,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
) {
    let old = condition(conditions, type_);
    let same_status = old.filter(|old| old.status == status);
    let new = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        last_probe_time: None,
        last_transition_time: same_status.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

pub(super) fn remove_condition(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

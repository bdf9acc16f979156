//! The guest's firmware UUID (I4): the same for a namespace and name at every start, and nothing of it written into a spec.

use api::v1alpha1::VirtualMachine;
use uuid::Uuid;

use super::ObjectKey;
use super::objects::uid_of;

/// The firmware UUID of a VM at binding: the template's; else, with an OVM, UUIDv5 of the cluster's UID over `<namespace>/<name>`; else
/// the VM's own UID. Each kind of guest thus has one that is unique in the cluster.
pub fn firmware_uuid(cluster_uid: Uuid, key: &ObjectKey, vm: &VirtualMachine, has_ovm: bool) -> Uuid {
    let asked = vm.spec.domain.firmware.as_ref().and_then(|firmware| firmware.uuid.as_deref());
    if let Some(uuid) = asked.and_then(|text| Uuid::parse_str(text).ok()) {
        return uuid;
    }
    let own = Uuid::parse_str(uid_of(&vm.metadata)).ok().filter(|_| !has_ovm);
    own.unwrap_or_else(|| Uuid::new_v5(&cluster_uid, key.to_string().as_bytes()))
}

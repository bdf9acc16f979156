//! The guest's firmware UUID at binding (I4): the same for a namespace and name at every start, and nothing of it written into a spec.

use api::v1alpha1::VirtualMachine;
use uuid::Uuid;

use super::ObjectKey;
use super::objects::uid_of;
use crate::node::{FirmwareFacts, GuestKey, firmware_uuid as rule};

/// The firmware UUID that a VM is bound with. The agent follows the same rule, should it find none.
pub fn firmware_uuid(cluster_uid: Uuid, key: &ObjectKey, vm: &VirtualMachine, has_ovm: bool) -> Uuid {
    let given = vm.spec.domain.firmware.as_ref().and_then(|firmware| firmware.uuid.as_deref());
    rule(&FirmwareFacts {
        cluster_uid,
        key: &GuestKey { namespace: key.namespace.clone(), name: key.name.clone() },
        vm_uid: uid_of(&vm.metadata),
        has_controller: has_ovm,
        given: given.and_then(|text| Uuid::parse_str(text).ok()),
        recorded: None,
    })
}

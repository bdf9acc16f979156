//! The guest's firmware UUID at binding (I4): the same for a namespace and name at every start, and nothing of it written into a spec.

use api::v1alpha1::{VirtualMachine, VirtualMachineSpec};
use uuid::Uuid;

use super::objects::uid_of;
use super::{Installation, ObjectKey};
use crate::node::{FirmwareFacts, GuestKey, firmware_uuid as rule};

/// The namespace of KubeVirt's rule: a constant of its controller since v0.5.0, "randomly generated", and never changed.
pub const KUBEVIRT_V0_NAMESPACE: Uuid = Uuid::from_u128(0x6a1a_24a1_4061_4607_8bf4_a396_3d0c_5895);

/// How the firmware UUID of an OVM's guest follows from its name, where neither the user nor a record says one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UuidRule {
    /// UUIDv5 of the cluster's UID over namespace and name: unique.
    #[default]
    Cluster,
    /// As KubeVirt v0.5.0 made it, from the name alone: for guests that come from there. The same name in two namespaces gives the same UUID.
    KubevirtV0,
}

/// The firmware UUID of a guest of this name by KubeVirt's rule.
pub fn kubevirt_v0_uuid(name: &str) -> Uuid {
    Uuid::new_v5(&KUBEVIRT_V0_NAMESPACE, name.as_bytes())
}

/// The UUID that the user gives.
pub(super) fn given_uuid(spec: &VirtualMachineSpec) -> Option<Uuid> {
    let given = spec.domain.firmware.as_ref().and_then(|firmware| firmware.uuid.as_deref());
    given.and_then(|text| Uuid::parse_str(text).ok())
}

/// The firmware UUID that a VM is bound with. The agent follows the same rule, should it find none.
pub(super) fn firmware_uuid(
    installation: &Installation,
    key: &ObjectKey,
    vm: &VirtualMachine,
    has_ovm: bool,
    recorded: Option<&str>,
) -> Uuid {
    let given = given_uuid(&vm.spec);
    if installation.uuid_rule == UuidRule::KubevirtV0 && has_ovm && given.is_none() && recorded.is_none() {
        return kubevirt_v0_uuid(&key.name);
    }
    rule(&FirmwareFacts {
        cluster_uid: installation.cluster_uid,
        key: &GuestKey { namespace: key.namespace.clone(), name: key.name.clone() },
        vm_uid: uid_of(&vm.metadata),
        has_controller: has_ovm,
        given,
        recorded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first three as guests of KubeVirt had them in listings, boot logs and bug reports that were published; the others by its rule with another program,
    /// `uuid.NewSHA1(uuid.Parse("6a1a24a1-..."), []byte(name))`. KubeVirt itself publishes the constant and no vectors.
    #[test]
    fn kubevirts_rule_gives_kubevirts_uuids() {
        for (name, uuid) in [
            ("testvm", "5a9fc181-957e-5c32-9e5a-2de5e9673531"),
            ("vm-cirros", "0d2a2043-41c0-59c3-9b17-025022203668"),
            ("fedora", "98f07cdd-96da-5880-b6c7-1a5700b73dc4"),
            ("testvmi", "f8918e71-270a-598e-a2a4-1afac39e1394"),
            ("ovm-cirros", "8769fdbe-d957-5567-bd71-114ba0eb4811"),
            ("vm-fedora", "c9dc132f-1bb1-5f88-9891-deed35a6d803"),
        ] {
            assert_eq!(kubevirt_v0_uuid(name).to_string(), uuid, "{name}");
        }
        assert_eq!(KUBEVIRT_V0_NAMESPACE.to_string(), "6a1a24a1-4061-4607-8bf4-a3963d0c5895");
    }
}

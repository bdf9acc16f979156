//! From a VirtualMachine and this node's facts to domain XML.

use std::collections::BTreeMap;
use std::path::Path;

use api::admission::validate_vm_spec;
use api::v1alpha1::{AbiStatus, VirtualMachine};
use api::validated::ValidatedSpec;
use domain_xml::{DEFAULT_NIC_MODEL, DiskSource, DomainInput, Metadata, Network, check_allowed, render};
use kube::ResourceExt;
use plan::node::{FirmwareFacts, GuestKey, firmware_uuid};
use uuid::Uuid;

use crate::hypervisor::Machine;
use crate::node::{NodeContext, NodeIdentity};
use api::chain;

/// Reason and message for a condition.
pub(super) type Refusal = (&'static str, String);

/// A VM as it would be rendered on this node.
#[derive(Clone, Debug)]
pub(super) struct GuestSpec {
    pub(super) spec: ValidatedSpec,
    pub(super) firmware_uuid: Uuid,
    pub(super) machine: Machine,
    network: Network,
    nic_model: String,
}

impl GuestSpec {
    /// Checks the spec and resolves what only the node knows.
    pub(super) async fn resolve(context: &NodeContext, key: &GuestKey, vm: &VirtualMachine) -> Result<Self, Refusal> {
        let spec = validate_vm_spec(&vm.spec, "spec").map_err(|causes| {
            let messages: Vec<_> = causes.into_iter().map(|cause| cause.message).collect();
            ("InvalidSpec", messages.join("; "))
        })?;
        let status = vm.status.clone().unwrap_or_default();
        let recorded = status.abi.as_ref().and_then(|abi| abi.machine_type.as_deref());
        let machine = context.capabilities.machine(recorded.or(spec.machine_type.as_deref())).await;
        let machine = machine.map_err(|error| (error.reason(), chain(&error)))?;
        let network = status.network.as_deref().map_or(Ok(Network::User), str::parse);
        Ok(Self {
            firmware_uuid: firmware_uuid_of(&context.identity, key, vm),
            machine,
            network: network.map_err(|error| ("InvalidNetwork", error.to_string()))?,
            nic_model: status.nic_model.unwrap_or_else(|| DEFAULT_NIC_MODEL.to_owned()),
            spec,
        })
    }

    /// The ABI that the domain will have, unless libvirt settles another.
    pub(super) fn abi(&self) -> AbiStatus {
        AbiStatus {
            firmware_uuid: Some(self.firmware_uuid.to_string()),
            machine_type: Some(self.machine.machine_type.clone()),
            ..AbiStatus::default()
        }
    }

    /// The domain's XML, checked against the allow-list.
    pub(super) fn render(
        &self,
        context: &NodeContext,
        metadata: &Metadata,
        sources: &BTreeMap<String, DiskSource>,
        console_log: &Path,
    ) -> Result<String, Refusal> {
        let xml = render(&DomainInput {
            spec: &self.spec,
            metadata,
            firmware_uuid: self.firmware_uuid,
            machine_type: &self.machine.machine_type,
            acceleration: self.machine.acceleration,
            emulator: &self.machine.emulator,
            disk_sources: sources,
            network: &self.network,
            nic_model: &self.nic_model,
            abi: None,
            console_log,
        })
        .map_err(|error| (error.reason(), chain(&error)))?;
        let allowed = context.disks.allowed_paths(&self.machine.emulator);
        check_allowed(&xml, &allowed).map_err(|error| (error.reason(), chain(&error)))?;
        Ok(xml)
    }
}

/// The guest's firmware UUID, by what decides it.
pub(super) fn firmware_uuid_of(identity: &NodeIdentity, key: &GuestKey, vm: &VirtualMachine) -> Uuid {
    let given = vm.spec.domain.firmware.as_ref().and_then(|firmware| firmware.uuid.as_deref());
    let recorded =
        vm.status.as_ref().and_then(|status| status.abi.as_ref()).and_then(|abi| abi.firmware_uuid.as_deref());
    firmware_uuid(&FirmwareFacts {
        cluster_uid: identity.cluster_uid,
        key,
        vm_uid: &vm.uid().unwrap_or_default(),
        has_controller: vm.owner_references().iter().any(|owner| owner.controller == Some(true)),
        given: given.and_then(|text| Uuid::parse_str(text).ok()),
        recorded,
    })
}

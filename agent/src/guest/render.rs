//! From a VirtualMachine and this node's facts to domain XML.

use std::collections::BTreeMap;
use std::path::Path;

use api::admission::validate_vm_spec;
use api::v1alpha1::{AbiRecord, AbiStatus, VirtualMachine, VolumeStatus};
use api::validated::ValidatedSpec;
use domain_xml::{DEFAULT_NIC_MODEL, DiskSource, DomainInput, GuestAbi, Metadata, Network, check_allowed, render};
use kube::ResourceExt;
use plan::node::{FirmwareFacts, GuestKey, choose_machine_type, firmware_uuid, machine_type_gone};
use uuid::Uuid;

use crate::hypervisor::{Machine, MachineError};
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
    /// What the controller found under the guest's claims.
    pub(super) volumes: Vec<VolumeStatus>,
    /// The ABI that the VM was bound with, or that was published since.
    record: Option<AbiRecord>,
    abi: Option<GuestAbi>,
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
        let bound = status.abi.clone().unwrap_or_default();
        let record = bound.to_record();
        let abi = record.as_ref().map(GuestAbi::check).transpose();
        let machine = resolve_machine(context, key, spec.machine_type.as_deref(), &bound).await?;
        let network = status.network.as_deref().map_or(Ok(Network::User), str::parse);
        Ok(Self {
            firmware_uuid: firmware_uuid_of(&context.identity, key, vm),
            machine,
            record,
            abi: abi.map_err(|error| (error.reason(), chain(&error)))?,
            network: network.map_err(|error| ("InvalidNetwork", error.to_string()))?,
            nic_model: status.nic_model.unwrap_or_else(|| DEFAULT_NIC_MODEL.to_owned()),
            volumes: status.volumes,
            spec,
        })
    }

    /// The ABI that the domain will have if nothing of the guest is new.
    pub(super) fn abi(&self) -> AbiStatus {
        let firmware_uuid = self.firmware_uuid.to_string();
        let machine_type = self.machine.machine_type.clone();
        match &self.record {
            Some(record) => AbiRecord { firmware_uuid, machine_type, ..record.clone() }.to_status(None),
            None => AbiStatus {
                firmware_uuid: Some(firmware_uuid),
                machine_type: Some(machine_type),
                ..AbiStatus::default()
            },
        }
    }

    /// The domain's XML, checked against the allow-list.
    pub(super) async fn render(
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
            abi: self.abi.as_ref(),
            console_log,
        })
        .map_err(|error| (error.reason(), chain(&error)))?;
        // Volume roots may be on a file system that does not answer; a guest without volumes does not wait for it.
        let allowed = context.disks.allowed_paths(&self.machine.emulator, !self.volumes.is_empty()).await;
        check_allowed(&xml, &allowed).map_err(|error| (error.reason(), chain(&error)))?;
        Ok(xml)
    }
}

/// The machine that the guest runs on here.
async fn resolve_machine(
    context: &NodeContext,
    key: &GuestKey,
    template: Option<&str>,
    bound: &AbiStatus,
) -> Result<Machine, Refusal> {
    let recorded = bound.machine_type.as_deref();
    let resolved = match (template, recorded) {
        (Some(named), Some(_)) => match context.capabilities.machine(Some(named)).await {
            Ok(machine) => Some(machine),
            Err(MachineError::NoMachine { .. }) => None,
            // Without an answer an alias cannot be told from a version that the user asks for: it would give the guest the newest.
            Err(error) => return Err((error.reason(), chain(&error))),
        },
        _ => None,
    };
    let resolved = resolved.as_ref().map(|machine| machine.machine_type.as_str());
    let chosen = choose_machine_type(template, resolved, recorded);
    context.capabilities.machine(chosen).await.map_err(|error| match &error {
        MachineError::NoMachine { why, .. } if chosen == recorded && recorded.is_some() => {
            ("MachineTypeGone", machine_type_gone(key, &context.node, bound, why))
        }
        _ => (error.reason(), chain(&error)),
    })
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

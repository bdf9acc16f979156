//! VirtualMachine: one run of a guest, from its creation to its final state.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeAffinity, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AbiStatus, DomainSpec, Volume};

/// One run of a guest on one node. Its spec never changes once it is bound; deleting it stops the guest.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevirt.io",
    version = "v1alpha1",
    kind = "VirtualMachine",
    plural = "virtualmachines",
    singular = "virtualmachine",
    shortname = "vm",
    shortname = "vms",
    category = "all",
    namespaced,
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One run of a guest on one node. Its spec never changes once it is bound; deleting it stops the guest.",
    selectable = ".status.nodeName",
    selectable = ".status.phase",
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase","description":"Where in its life the guest is."}"#,
    printcolumn = r#"{"name":"IP","type":"string","jsonPath":".status.interfaces[0].ipAddress","description":"The guest's first address that others can reach."}"#,
    printcolumn = r#"{"name":"NodeName","type":"string","jsonPath":".status.nodeName","description":"The node that runs the guest."}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status","description":"Whether the guest runs."}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// The guest's machine: memory, CPU, firmware, devices.
    pub domain: DomainSpec,
    /// Where the disks' content comes from. Each disk names one of these by `volumeName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub volumes: Option<Vec<Volume>>,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Which nodes the guest may run on, and which it prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints of nodes that the guest tolerates, as for pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Option<Vec<Toleration>>,
    /// Seconds that the guest has for an orderly shutdown before it is powered off. 30 if unset; 0 powers it off at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub termination_grace_period_seconds: Option<i64>,
}

/// Constraints on where a guest may run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Rules over nodes, as for pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

/// What is known of the guest. Up to phase Scheduled the controller writes it, from there on its node's agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// The node that the guest is bound to. Set once, never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Where in its life the guest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// `Synchronized` is False while the agent fails to bring the guest about; `Ready` says whether it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The guest's network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub interfaces: Vec<InterfaceStatus>,
    /// The images that the guest's registryDisks stand on, written before it is started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["volumeName"]))]
    pub images: Vec<ImageStatus>,
    /// When each phase was entered first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["phase"]))]
    pub phase_transition_timestamps: Vec<PhaseTransitionTimestamp>,
    /// The network that the installation gives its guests, written at binding: `user`, `none`, `libvirt:NAME` or `bridge:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The model of the guest's network card, written at binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic_model: Option<String>,
    /// The guest ABI: at binding from the record, then as libvirt settled it, before the guest is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abi: Option<AbiStatus>,
    /// What each volume on a claim stands on, written at binding: agents read no claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<VolumeStatus>,
}

/// The PersistentVolume under a volume that names a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Name of the volume in the spec.
    pub name: String,
    /// Name of the PersistentVolumeClaim.
    pub claim_name: String,
    /// Name of the PersistentVolume that the claim is bound to.
    pub persistent_volume_name: String,
    /// Path of the volume on the node: a directory that holds `disk.img`, or a block device.
    pub path: String,
    /// Access modes of the claim, such as `ReadWriteOnce`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub access_modes: Vec<String>,
}

/// Where in its life a guest is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not looked at yet.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// Known, without a node.
    Pending,
    /// A node is being chosen.
    Scheduling,
    /// Bound to a node; the agent starts it.
    Scheduled,
    /// The guest runs.
    Running,
    /// The guest ended in order. Final.
    Succeeded,
    /// The guest crashed, was killed, or never started. Final.
    Failed,
    /// The node cannot be asked.
    Unknown,
}

impl Phase {
    /// Whether the guest has ended and will never run again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "",
            Self::Pending => "Pending",
            Self::Scheduling => "Scheduling",
            Self::Scheduled => "Scheduled",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }
}

/// One aspect of an object's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// When it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Time>,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// One word for the cause, in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The cause for people, with what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One network interface of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// Address at which others reach the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// The image that a registryDisk stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Name of the volume.
    pub volume_name: String,
    /// The image in full: HOST/PATH:TAG or HOST/PATH@DIGEST.
    pub image: String,
    /// Digest of its manifest at the registry: HOST/PATH@DIGEST means this image for ever. Absent for an image that was imported from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// SHA-256 of the disk file.
    pub disk_digest: String,
}

/// When a phase was entered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTransitionTimestamp {
    /// The phase.
    pub phase: Phase,
    /// When it was entered.
    pub phase_transition_timestamp: Time,
}

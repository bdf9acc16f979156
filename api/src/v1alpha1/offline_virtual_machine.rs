//! OfflineVirtualMachine: the wish that a virtual machine of the same name runs, or does not.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{AbiStatus, Condition, VirtualMachineSpec};

/// Keeps one VirtualMachine of the same name running while `spec.running` is true, with a guest ABI that stays the same at every start.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevirt.io",
    version = "v1alpha1",
    kind = "OfflineVirtualMachine",
    plural = "offlinevirtualmachines",
    singular = "offlinevirtualmachine",
    shortname = "ovm",
    shortname = "ovms",
    category = "all",
    namespaced,
    status = "OfflineVirtualMachineStatus",
    derive = "PartialEq",
    doc = "Keeps one VirtualMachine of the same name running while `spec.running` is true, with a guest ABI that stays the same at every start.",
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Running","type":"boolean","jsonPath":".spec.running","description":"Whether the virtual machine should run."}"#,
    printcolumn = r#"{"name":"Created","type":"boolean","jsonPath":".status.created","description":"Whether its VirtualMachine exists."}"#,
    printcolumn = r#"{"name":"Ready","type":"boolean","jsonPath":".status.ready","description":"Whether its VirtualMachine runs."}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.printableStatus","description":"What the virtual machine is doing."}"#
)]
#[serde(rename_all = "camelCase")]
pub struct OfflineVirtualMachineSpec {
    /// Whether the virtual machine should run. Changing it starts or stops the virtual machine.
    pub running: bool,
    /// What the VirtualMachine is made from at each start. A change takes effect at the next start.
    pub template: VirtualMachineTemplate,
}

/// What a VirtualMachine is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineTemplate {
    /// Labels and annotations that the VirtualMachine gets. Its name is always the OfflineVirtualMachine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// What the guest is.
    pub spec: VirtualMachineSpec,
}

/// The part of a template's metadata that is used. Other properties are accepted and ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Ignored: the VirtualMachine is named after its OfflineVirtualMachine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
    /// Ignored: the VirtualMachine is in its OfflineVirtualMachine's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Ignored. Clients of old write null here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// Labels of the VirtualMachine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the VirtualMachine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl VirtualMachineTemplate {
    /// Sixteen hex digits that stand for this template: the same for equal ones.
    pub fn fingerprint(&self) -> String {
        let text = serde_json::to_vec(self).expect("a template is made of what JSON has words for");
        crate::abi::hex(&Sha256::digest(text)[..8])
    }
}

/// What the controller observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfflineVirtualMachineStatus {
    /// Whether the VirtualMachine exists and is ours.
    #[serde(default)]
    pub created: bool,
    /// Whether the VirtualMachine's phase is Running.
    #[serde(default)]
    pub ready: bool,
    /// The `metadata.generation` that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for what the virtual machine is doing, for people: Stopped, Starting, Running, Stopping, Terminating, CrashLoopBackOff,
    /// Unschedulable, NodeLost, ErrImagePull and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printable_status: Option<String>,
    /// `Failure` while a create or delete fails, `RestartRequired` while the running guest differs from the template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where the current VirtualMachine was placed. It stays until a successor is placed, so that two guests never run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How often in a row the guest failed to start, and when it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_failure: Option<StartFailure>,
    /// The guest ABI on record: which ControllerRevision counts, and the part of it that people ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abi: Option<AbiStatus>,
}

/// Which VirtualMachine is where, and whether that node has let it go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// UID of the VirtualMachine. For one UID the node never changes.
    #[serde(rename = "vmUID")]
    pub vm_uid: String,
    /// Name of its Node.
    pub node_name: String,
    /// Set by the node's agent once no domain is left (E4), or by the controller once the node is fenced (F2). A released placement no longer
    /// ties the successor to the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}

/// Back-off between starts that fail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartFailure {
    /// Starts in a row that never reached Running, or died within ten seconds.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub consecutive_fail_count: u32,
    /// UID of the last VirtualMachine that counted, so that none counts twice.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "lastFailedVMUID")]
    pub last_failed_vm_uid: Option<String>,
    /// No start before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_timestamp: Option<Time>,
}

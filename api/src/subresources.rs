//! What `subresources.kubevirt.io/v1alpha1` answers with, where that is no stream; and its paths.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use crate::names::{SUBRESOURCE_GROUP, VERSION};

/// The subresources of a VirtualMachine.
pub const SUBRESOURCES: [&str; 4] = ["console", "vnc", "test", "userdata"];
/// What a connection from controller to agent is upgraded to: the bytes of the guest's channel, both ways, until either end closes.
pub const AGENT_STREAM_PROTOCOL: &str = "ovm-stream";
/// Kind of [`VirtualMachineUserData`].
const USER_DATA_KIND: &str = "VirtualMachineUserData";

/// Which version of this project answers: what clients need of KubeVirt's `version.Info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// Such as `v0.1.0`.
    pub git_version: String,
}

/// The path of the API's discovery document.
pub fn group_path() -> String {
    format!("/apis/{SUBRESOURCE_GROUP}/{VERSION}")
}

/// The path of [`VersionInfo`], where KubeVirt's clients look for it.
pub fn version_path() -> String {
    format!("{}/version", group_path())
}

/// The path of a VM's subresource.
pub fn path(namespace: &str, name: &str, subresource: &str) -> String {
    format!("{}/namespaces/{namespace}/virtualmachines/{name}/{subresource}", group_path())
}

/// The path at which an agent serves a channel (`console` or `vnc`) of the guest of one VM object.
pub fn agent_path(namespace: &str, name: &str, uid: &str, channel: &str) -> String {
    format!("/guests/{namespace}/{name}/{uid}/{channel}")
}

/// What a VM names only by the Secret that it is in: answered to the agent of the VM's node, and to nobody else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineUserData {
    /// `subresources.kubevirt.io/v1alpha1`.
    pub api_version: String,
    /// `VirtualMachineUserData`.
    pub kind: String,
    /// UID of the VM that this is for. One of another UID must not get it.
    pub vm_uid: String,
    /// Key `userdata` of each Secret that a volume of the VM names, by the Secret's name. A Secret that is missing, or has no such key, is left out.
    pub user_data: BTreeMap<String, ByteString>,
    /// Key `.dockerconfigjson` of each Secret that a registryDisk of the VM names to pull its image with, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pull_secrets: BTreeMap<String, ByteString>,
}

impl VersionInfo {
    /// That of the program which was built with this crate.
    pub fn own() -> Self {
        Self { git_version: format!("v{}", env!("CARGO_PKG_VERSION")) }
    }
}

impl VirtualMachineUserData {
    /// The answer for one VM.
    pub fn new(
        vm_uid: String,
        user_data: BTreeMap<String, ByteString>,
        pull_secrets: BTreeMap<String, ByteString>,
    ) -> Self {
        Self {
            api_version: format!("{SUBRESOURCE_GROUP}/{VERSION}"),
            kind: USER_DATA_KIND.to_owned(),
            vm_uid,
            user_data,
            pull_secrets,
        }
    }
}

/// User data may hold passwords and keys, pull secrets hold passwords: only their lengths are shown.
impl fmt::Debug for VirtualMachineUserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = |secrets: &BTreeMap<String, ByteString>| -> BTreeMap<String, String> {
            secrets.iter().map(|(name, bytes)| (name.clone(), format!("{} bytes", bytes.0.len()))).collect()
        };
        f.debug_struct(USER_DATA_KIND)
            .field("vm_uid", &self.vm_uid)
            .field("user_data", &lengths(&self.user_data))
            .field("pull_secrets", &lengths(&self.pull_secrets))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_the_answer_survives_the_wire_and_hides_its_content_in_logs() {
        let secret = ByteString(b"password: hunter2".to_vec());
        let pull = ByteString(b"hunter2".to_vec());
        let answer = VirtualMachineUserData::new(
            "uid".to_owned(),
            [("seed".to_owned(), secret)].into(),
            [("pull".to_owned(), pull)].into(),
        );
        let wire = serde_json::to_value(&answer).unwrap();
        assert_eq!(wire["userData"]["seed"], "cGFzc3dvcmQ6IGh1bnRlcjI=");
        assert_eq!(serde_json::from_value::<VirtualMachineUserData>(wire).unwrap(), answer);
        let printed = format!("{answer:?}");
        assert!(
            printed.contains("17 bytes") && printed.contains("7 bytes") && !printed.contains("hunter2"),
            "{printed}"
        );
    }
}

//! A VM's user data and pull secrets, out of the Secrets that it names, for the agent of its node and nobody else: agents have no right to Secrets.

use std::collections::{BTreeMap, BTreeSet};

use api::join::node_of_user;
use api::names::{NODE_NAME_CLAIM, NODES_GROUP};
use api::subresources::VirtualMachineUserData;
use api::v1alpha1::{Phase, VirtualMachine};
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::{Caller, Service};
use crate::error::api_message;
use crate::refusal::Refusal;

/// Key of user data in a Secret, as in KubeVirt.
const USER_DATA_KEY: &str = "userdata";
/// Key of a Secret of type `kubernetes.io/dockerconfigjson`.
const PULL_SECRET_KEY: &str = ".dockerconfigjson";
/// Most that one answer may hold. A Secret holds at most 1 MiB, and a VM may name 256 of them.
const MOST_BYTES: usize = 4 << 20;

/// Answers `GET .../virtualmachines/{name}/userdata`.
pub(super) async fn get(
    State(service): State<Service>,
    Path((namespace, name)): Path<(String, String)>,
    caller: Option<Extension<Caller>>,
) -> Response {
    let caller = caller.map(|Extension(caller)| caller).unwrap_or_default();
    match service.user_data(&caller, &namespace, &name).await {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(refusal) => {
            tracing::info!(namespace, name, user = caller.user, refusal = refusal.message, "user data refused");
            refusal.into_response()
        }
    }
}

impl Service {
    async fn user_data(&self, caller: &Caller, namespace: &str, name: &str) -> Result<VirtualMachineUserData, Refusal> {
        let vms = Api::<VirtualMachine>::namespaced(self.client.clone(), namespace);
        let vm = vms.get_opt(name).await.map_err(|error| {
            Refusal::unavailable(format!("read VM {name} in namespace {namespace}: {}", api_message(&error)))
        })?;
        let vm = vm.filter(|vm| may_have(caller, vm)).ok_or_else(|| {
            Refusal::forbidden(format!(
                "user data of VM {name} in namespace {namespace} is only for the agent of the node that it is bound to, and {:?} is not that agent",
                caller.user
            ))
        })?;
        let mut bytes = 0;
        let mut count = |data: &ByteString| {
            bytes += data.0.len();
            if bytes > MOST_BYTES {
                let message =
                    format!("the secrets of VM {name} in namespace {namespace} hold more than {MOST_BYTES} bytes");
                return Err(Refusal::too_large(message));
            }
            Ok(())
        };
        let (mut user_data, mut pull_secrets) = (BTreeMap::new(), BTreeMap::new());
        for secret in secrets_of(&vm) {
            let Some(data) = self.read_secret(namespace, &secret, USER_DATA_KEY).await? else { continue };
            count(&data)?;
            user_data.insert(secret, data);
        }
        for secret in pull_secrets_of(&vm) {
            let Some(data) = self.read_secret(namespace, &secret, PULL_SECRET_KEY).await? else { continue };
            count(&data)?;
            pull_secrets.insert(secret, data);
        }
        Ok(VirtualMachineUserData::new(vm.metadata.uid.unwrap_or_default(), user_data, pull_secrets))
    }

    async fn read_secret(&self, namespace: &str, name: &str, key: &str) -> Result<Option<ByteString>, Refusal> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret = secrets.get_opt(name).await.map_err(|error| {
            Refusal::unavailable(format!("read secret {name} in namespace {namespace}: {}", api_message(&error)))
        })?;
        Ok(secret.and_then(|secret| secret.data).and_then(|mut data| data.remove(key)))
    }
}

/// Whether the caller is the agent of the node that the VM is bound to, and still has a use for its user data.
fn may_have(caller: &Caller, vm: &VirtualMachine) -> bool {
    let status = vm.status.as_ref();
    let node = status.and_then(|status| status.node_name.as_deref()).filter(|node| !node.is_empty());
    let is_over = status.and_then(|status| status.phase).is_some_and(Phase::is_final);
    node.is_some_and(|node| agent_s_node(caller) == Some(node)) && !is_over
}

/// The node whose agent the caller is: one that joined has it in its user name, one in a pod in what its token says.
fn agent_s_node(caller: &Caller) -> Option<&str> {
    if caller.groups.iter().any(|group| group == NODES_GROUP) {
        return node_of_user(&caller.user);
    }
    match caller.extra.get(NODE_NAME_CLAIM).map(Vec::as_slice) {
        Some([node]) => Some(node),
        _ => None,
    }
}

/// The Secrets that the VM's volumes name.
fn secrets_of(vm: &VirtualMachine) -> BTreeSet<String> {
    let volumes = vm.spec.volumes.iter().flatten();
    let seeds = volumes.filter_map(|volume| volume.cloud_init_no_cloud.as_ref()?.secret_ref.as_ref());
    seeds.map(|secret| secret.name.clone()).filter(|name| !name.is_empty()).collect()
}

/// The Secrets that the VM's images are pulled with.
fn pull_secrets_of(vm: &VirtualMachine) -> BTreeSet<String> {
    let disks = vm.spec.volumes.iter().flatten().filter_map(|volume| volume.registry_disk.as_ref());
    disks.filter_map(|disk| disk.image_pull_secret.clone()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(status: &serde_json::Value) -> VirtualMachine {
        let seed = |name: &str| json!({"name": name, "cloudInitNoCloud": {"secretRef": {"name": name}}});
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "vm", "namespace": "ns"},
            "spec": {"domain": {"devices": {}}, "volumes": [
                seed("one"), seed("two"), seed("one"), {"name": "inline", "cloudInitNoCloud": {"userData": "x"}},
                {"name": "disk", "registryDisk": {"image": "i"}},
                {"name": "private", "registryDisk": {"image": "i", "imagePullSecret": "pull"}},
            ]},
            "status": status,
        }))
        .unwrap()
    }

    fn agent_of(nodes: &[&str]) -> Caller {
        let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
        Caller { extra: [(NODE_NAME_CLAIM.to_owned(), nodes)].into(), ..Caller::default() }
    }

    #[test]
    fn only_the_agent_of_the_vms_node_gets_it() {
        let bound = vm(&json!({"nodeName": "a", "phase": "Scheduled"}));
        assert!(may_have(&agent_of(&["a"]), &bound));
        let joined = |user: &str, group: &str| Caller {
            user: user.to_owned(),
            groups: vec![group.to_owned()],
            ..Caller::default()
        };
        assert!(may_have(&joined("kubevirt.io:node:a", NODES_GROUP), &bound));
        assert!(!may_have(&joined("kubevirt.io:node:b", NODES_GROUP), &bound));
        assert!(!may_have(&joined("kubevirt.io:node:a", "others"), &bound));
        let both = Caller { extra: agent_of(&["a"]).extra, ..joined("kubevirt.io:node:b", NODES_GROUP) };
        assert!(!may_have(&both, &bound), "a joined agent is whom its certificate names");
        for (who, caller) in [
            ("another node's agent", agent_of(&["b"])),
            ("two claims", agent_of(&["a", "b"])),
            ("no claim", agent_of(&[])),
            (
                "a user",
                Caller { user: "admin".to_owned(), groups: vec!["system:masters".to_owned()], ..Caller::default() },
            ),
        ] {
            assert!(!may_have(&caller, &bound), "{who}");
        }
        for status in [json!({}), json!({"nodeName": ""}), json!({"nodeName": "a", "phase": "Succeeded"})] {
            assert!(!may_have(&agent_of(&["a"]), &vm(&status)), "{status}");
        }
        assert!(!may_have(&agent_of(&[""]), &vm(&json!({"nodeName": ""}))));
    }

    #[test]
    fn each_secret_is_read_once_and_nothing_else() {
        assert_eq!(secrets_of(&vm(&json!({}))), ["one".to_owned(), "two".to_owned()].into());
        assert_eq!(pull_secrets_of(&vm(&json!({}))), ["pull".to_owned()].into());
    }
}

//! The API through kube's client.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::names;
use api::subresources::VirtualMachineUserData;
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use plan::node::{GuestKey, NodeView};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use api::chain;

use super::{ApiError, GuestObjects, NodeObjects, UserDataSource};

/// No answer within this time counts as none: a start or a stop must not hang on a dead connection.
const DEADLINE: Duration = Duration::from_secs(10);
/// A Lease unchanged for this long means that the agent is gone (F1).
const LEASE_SECONDS: i32 = 40;
/// What it means that a path of the aggregated API is not there: it answers no VM with a 404.
const NOT_AGGREGATED: &str = "the API server does not serve subresources.kubevirt.io/v1alpha1; is APIService v1alpha1.subresources.kubevirt.io there?";

/// The API, for the agent of one node.
#[derive(Clone)]
pub struct KubeObjects {
    client: Client,
    node: String,
    lease_annotations: watch::Receiver<BTreeMap<String, String>>,
}

impl KubeObjects {
    /// The API as seen by the agent of `node`, whose Lease is to carry these annotations, as they are when it is renewed.
    pub fn new(client: Client, node: String, lease_annotations: watch::Receiver<BTreeMap<String, String>>) -> Self {
        Self { client, node, lease_annotations }
    }

    fn vms(&self, namespace: &str) -> Api<VirtualMachine> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Reads an object. A 404 proves its absence only while its kind is served: the 404 of an unserved kind looks alike.
    async fn read<K>(&self, operation: &'static str, key: &GuestKey) -> Result<Option<K>, ApiError>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let objects: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let found = within(operation, objects.get_opt(&key.name)).await?;
        if found.is_none() {
            within(operation, objects.list_metadata(&ListParams::default().limit(1))).await?;
        }
        Ok(found)
    }

    async fn renew(&self) -> Result<(), ApiError> {
        const RENEW: &str = "renew the node's lease";
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), names::SYSTEM_NAMESPACE);
        let spec = LeaseSpec {
            holder_identity: Some(self.node.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let patch = Patch::Merge(json!({ "spec": spec }));
        match within(RENEW, leases.patch_metadata(&self.node, &PatchParams::default(), &patch)).await {
            Ok(lease) => return self.annotate(&leases, lease.annotations()).await,
            Err(error) if !is_missing(&error) => return Err(error),
            Err(_) => {}
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                annotations: Some(self.lease_annotations.borrow().clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec { acquire_time: spec.renew_time.clone(), ..spec }),
        };
        match within(RENEW, leases.create(&PostParams::default(), &lease)).await {
            Err(error) if is_missing(&error) => {
                let namespace = Namespace {
                    metadata: ObjectMeta { name: Some(names::SYSTEM_NAMESPACE.to_owned()), ..ObjectMeta::default() },
                    ..Namespace::default()
                };
                let namespaces: Api<Namespace> = Api::all(self.client.clone());
                within(RENEW, namespaces.create(&PostParams::default(), &namespace)).await?;
                within(RENEW, leases.create(&PostParams::default(), &lease)).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

impl KubeObjects {
    /// Writes our annotations where the Lease has others: those of an agent that was here before.
    async fn annotate(&self, leases: &Api<Lease>, there: &BTreeMap<String, String>) -> Result<(), ApiError> {
        let wanted = self.lease_annotations.borrow().clone();
        if wanted.iter().all(|(name, value)| there.get(name) == Some(value)) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"metadata": {"annotations": wanted}}));
        let params = PatchParams::default();
        within("annotate the node's lease", leases.patch_metadata(&self.node, &params, &patch)).await.map(drop)
    }
}

impl GuestObjects for KubeObjects {
    fn read_vm<'a>(&'a self, key: &'a GuestKey) -> BoxFuture<'a, Result<Option<VirtualMachine>, ApiError>> {
        self.read("read the virtual machine", key).boxed()
    }

    fn read_ovm<'a>(&'a self, key: &'a GuestKey) -> BoxFuture<'a, Result<Option<OfflineVirtualMachine>, ApiError>> {
        self.read("read the offline virtual machine", key).boxed()
    }

    fn write_status<'a>(&'a self, vm: &'a VirtualMachine) -> BoxFuture<'a, Result<VirtualMachine, ApiError>> {
        async move {
            let vms = self.vms(&vm.namespace().unwrap_or_default());
            within("write the status", vms.replace_status(&vm.name_any(), &PostParams::default(), vm)).await
        }
        .boxed()
    }

    fn drop_finalizer<'a>(&'a self, vm: &'a VirtualMachine) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let rest: Vec<_> = vm.finalizers().iter().filter(|finalizer| *finalizer != names::VM_FINALIZER).collect();
            let metadata =
                json!({"uid": vm.metadata.uid, "resourceVersion": vm.metadata.resource_version, "finalizers": rest});
            let patch = Patch::Merge(json!({ "metadata": metadata }));
            let vms = self.vms(&vm.namespace().unwrap_or_default());
            let dropped =
                within("drop the finalizer", vms.patch_metadata(&vm.name_any(), &PatchParams::default(), &patch)).await;
            match dropped {
                // Gone already: somebody else took the finalizers off.
                Err(error) if is_missing(&error) => Ok(()),
                other => other.map(drop),
            }
        }
        .boxed()
    }

    fn label_node<'a>(
        &'a self,
        vm: &'a VirtualMachine,
        node: &'a str,
    ) -> BoxFuture<'a, Result<VirtualMachine, ApiError>> {
        async move {
            let metadata = json!({"uid": vm.metadata.uid, "labels": {names::NODE_NAME_LABEL: node}});
            let patch = Patch::Merge(json!({ "metadata": metadata }));
            let vms = self.vms(&vm.namespace().unwrap_or_default());
            within("label the virtual machine", vms.patch(&vm.name_any(), &PatchParams::default(), &patch)).await
        }
        .boxed()
    }

    fn release_placement<'a>(
        &'a self,
        key: &'a GuestKey,
        ovm_uid: &'a str,
        resource_version: &'a str,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let ovms: Api<OfflineVirtualMachine> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = Patch::Merge(json!({
                "metadata": {"uid": ovm_uid, "resourceVersion": resource_version},
                "status": {"placement": {"released": true}},
            }));
            within("release the placement", ovms.patch_status(&key.name, &PatchParams::default(), &patch))
                .await
                .map(drop)
        }
        .boxed()
    }
}

impl NodeObjects for KubeObjects {
    fn renew_lease(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        self.renew().boxed()
    }

    fn read_node(&self) -> BoxFuture<'_, NodeView> {
        async move {
            let nodes: Api<Node> = Api::all(self.client.clone());
            match within("read the node", nodes.get_opt(&self.node)).await {
                Ok(Some(node)) if is_out_of_service(&node) => NodeView::OutOfService,
                Ok(Some(_)) => NodeView::InService,
                Ok(None) => NodeView::Missing,
                Err(error) => NodeView::Unreachable(error.to_string()),
            }
        }
        .boxed()
    }

    fn list_unreleased(&self) -> BoxFuture<'_, Result<Vec<GuestKey>, ApiError>> {
        async move {
            let ovms: Api<OfflineVirtualMachine> = Api::all(self.client.clone());
            let all = within("list offline virtual machines", ovms.list(&ListParams::default())).await?;
            let tied = all.items.iter().filter(|ovm| is_unreleased(ovm, &self.node));
            Ok(tied
                .map(|ovm| GuestKey { namespace: ovm.namespace().unwrap_or_default(), name: ovm.name_any() })
                .collect())
        }
        .boxed()
    }

    fn list_vm_uids(&self) -> BoxFuture<'_, Result<BTreeSet<String>, ApiError>> {
        async move {
            let vms: Api<VirtualMachine> = Api::all(self.client.clone());
            let all = within("list virtual machines", vms.list_metadata(&ListParams::default())).await?;
            Ok(all.items.into_iter().filter_map(|vm| vm.metadata.uid).collect())
        }
        .boxed()
    }
}

/// Whether a placement ties its guest to `node`.
fn is_unreleased(ovm: &OfflineVirtualMachine, node: &str) -> bool {
    let placement = ovm.status.as_ref().and_then(|status| status.placement.as_ref());
    placement.is_some_and(|placement| placement.node_name == node && !placement.released)
}

impl UserDataSource for KubeObjects {
    fn read_user_data<'a>(
        &'a self,
        key: &'a GuestKey,
        uid: Uuid,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Vec<u8>>, ApiError>> {
        async move { Ok(to_bytes(self.read_secrets_of("get the user data from the controller", key, uid).await?.user_data)) }
            .boxed()
    }

    fn read_pull_secrets<'a>(
        &'a self,
        key: &'a GuestKey,
        uid: Uuid,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Vec<u8>>, ApiError>> {
        async move {
            Ok(to_bytes(self.read_secrets_of("get the pull secret from the controller", key, uid).await?.pull_secrets))
        }
        .boxed()
    }
}

impl KubeObjects {
    /// What the VM names only by the Secrets that it is in.
    async fn read_secrets_of(
        &self,
        operation: &'static str,
        key: &GuestKey,
        uid: Uuid,
    ) -> Result<VirtualMachineUserData, ApiError> {
        let refused = |message: String| ApiError::Refused { operation, message };
        let path = api::subresources::path(&key.namespace, &key.name, "userdata");
        let request = http::Request::get(path).body(Vec::new()).map_err(|error| refused(error.to_string()))?;
        let answer = within(operation, self.client.request::<VirtualMachineUserData>(request)).await;
        let answer =
            answer.map_err(|error| if is_missing(&error) { refused(NOT_AGGREGATED.to_owned()) } else { error })?;
        if answer.vm_uid == uid.to_string() { Ok(answer) } else { Err(ApiError::Conflict { operation }) }
    }
}

fn to_bytes(secrets: BTreeMap<String, ByteString>) -> BTreeMap<String, Vec<u8>> {
    secrets.into_iter().map(|(name, bytes)| (name, bytes.0)).collect()
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().any(|taint| taint.key == names::OUT_OF_SERVICE_TAINT)
}

fn is_missing(error: &ApiError) -> bool {
    matches!(error, ApiError::Missing { .. })
}

/// Waits for an answer, for as long as the deadline allows, and sorts the errors.
pub(crate) async fn within<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    let away = |message: String| ApiError::Away { operation, message };
    match tokio::time::timeout(DEADLINE, call).await {
        Err(_) => Err(away(format!("no answer within {} s", DEADLINE.as_secs()))),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => ApiError::Missing { operation },
            409 => ApiError::Conflict { operation },
            // The caller is not at fault: overload, a server that starts or stops.
            429 | 500.. => away(status.message),
            _ => ApiError::Refused { operation, message: status.message },
        }),
        Ok(Err(error)) => Err(away(chain(&error))),
    }
}

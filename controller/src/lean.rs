//! Objects of our kinds as they are read here: without `managedFields`. Nobody here looks at those, a write without them leaves them as they are, and they
//! are the larger part of an object; skipped while it is read, they cost neither time nor memory.

use std::collections::BTreeMap;
use std::fmt::Debug;

use api::v1alpha1::{
    OfflineVirtualMachine, OfflineVirtualMachineSpec, OfflineVirtualMachineStatus, VirtualMachine, VirtualMachineSpec,
    VirtualMachineStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An object of one of our kinds, for [`kube::Api`].
#[derive(Clone, Debug)]
pub(crate) struct Lean<K>(pub(crate) K);

/// Our kinds, by their parts.
pub(crate) trait Kind: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + Serialize + 'static {
    /// `spec`.
    type Spec: DeserializeOwned + Serialize;
    /// `status`.
    type Status: DeserializeOwned + Serialize;

    fn assemble(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;

    fn parts(&self) -> (&ObjectMeta, &Self::Spec, Option<&Self::Status>);
}

#[derive(Deserialize)]
struct Object<S, T> {
    metadata: Metadata,
    spec: S,
    #[serde(default = "Option::default")]
    status: Option<T>,
}

/// What of an object's metadata anybody here reads or writes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(read: Metadata) -> Self {
        Self {
            name: read.name,
            namespace: read.namespace,
            uid: read.uid,
            resource_version: read.resource_version,
            generation: read.generation,
            creation_timestamp: read.creation_timestamp,
            deletion_timestamp: read.deletion_timestamp,
            deletion_grace_period_seconds: read.deletion_grace_period_seconds,
            finalizers: read.finalizers,
            owner_references: read.owner_references,
            labels: read.labels,
            annotations: read.annotations,
            ..Self::default()
        }
    }
}

impl Kind for OfflineVirtualMachine {
    type Spec = OfflineVirtualMachineSpec;
    type Status = OfflineVirtualMachineStatus;

    fn assemble(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self {
        Self { metadata, spec, status }
    }

    fn parts(&self) -> (&ObjectMeta, &Self::Spec, Option<&Self::Status>) {
        (&self.metadata, &self.spec, self.status.as_ref())
    }
}

impl Kind for VirtualMachine {
    type Spec = VirtualMachineSpec;
    type Status = VirtualMachineStatus;

    fn assemble(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self {
        Self { metadata, spec, status }
    }

    fn parts(&self) -> (&ObjectMeta, &Self::Spec, Option<&Self::Status>) {
        (&self.metadata, &self.spec, self.status.as_ref())
    }
}

impl<'de, K: Kind> Deserialize<'de> for Lean<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Object::<K::Spec, K::Status>::deserialize(deserializer)?;
        Ok(Self(K::assemble(read.metadata.into(), read.spec, read.status)))
    }
}

impl<K: Kind> Serialize for Lean<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// What is read of an object is of the object's kind.
macro_rules! is_of_its_kind {
    ($wrapper:ident, |$this:ident| $read:expr, $write:expr) => {
        impl<K: Kind> Resource for $wrapper<K> {
            type DynamicType = ();
            type Scope = K::Scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                K::kind(&())
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                K::group(&())
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                K::version(&())
            }

            fn api_version((): &()) -> std::borrow::Cow<'_, str> {
                K::api_version(&())
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                K::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                let $this = self;
                $read
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                let $this = self;
                $write
            }
        }
    };
}
pub(crate) use is_of_its_kind;

is_of_its_kind!(Lean, |this| this.0.meta(), this.0.meta_mut());

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object() -> Value {
        json!({
            "apiVersion": "kubevirt.io/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": {
                "name": "vm", "namespace": "ns", "uid": "u", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
                "deletionGracePeriodSeconds": 5, "finalizers": ["f"], "labels": {"l": "1"}, "annotations": {"a": "2"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "p", "controller": true}],
                "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:domain": {}}}}],
            },
            "spec": {"domain": {"devices": {}}},
            "status": {"phase": "Running", "nodeName": "a"},
        })
    }

    #[test]
    fn an_object_is_read_as_it_is_but_for_who_manages_what() {
        let read: Lean<VirtualMachine> = serde_json::from_value(object()).unwrap();
        let mut whole: VirtualMachine = serde_json::from_value(object()).unwrap();
        assert!(whole.metadata.managed_fields.take().is_some());
        assert_eq!(read.0, whole);
    }

    #[test]
    fn an_object_without_a_status_has_none() {
        let mut fresh = object();
        fresh["status"] = Value::Null;
        assert_eq!(serde_json::from_value::<Lean<VirtualMachine>>(fresh.clone()).unwrap().0.status, None);
        fresh.as_object_mut().unwrap().remove("status");
        assert_eq!(serde_json::from_value::<Lean<VirtualMachine>>(fresh).unwrap().0.status, None);
    }
}

//! Objects of our kinds as a watch shows them: metadata is read, the rest stays text until somebody asks for it. Most events show what the answer to a
//! write has shown before; of those only the version counts.
//!
//! Text can be kept because API servers write an event's `type` before its `object` (Go's `metav1.WatchEvent`, and ours): of another order serde would have
//! read the object before it knew what it is for.

use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::lean::{Kind, Metadata, is_of_its_kind};

/// An object of one of our kinds, for [`kube::runtime::watcher`]. Without `managedFields`.
#[derive(Clone, Debug)]
pub(crate) struct Seen<K> {
    pub(crate) metadata: ObjectMeta,
    spec: Box<RawValue>,
    status: Option<Box<RawValue>>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct Parts {
    metadata: Metadata,
    spec: Box<RawValue>,
    #[serde(default)]
    status: Option<Box<RawValue>>,
}

impl<K: Kind> Seen<K> {
    /// All of it.
    ///
    /// # Errors
    /// When it is not what its kind's definition says.
    pub(crate) fn read(self) -> Result<K, serde_json::Error> {
        let spec = serde_json::from_str(self.spec.get())?;
        let status = self.status.map(|status| serde_json::from_str(status.get())).transpose()?;
        Ok(K::assemble(self.metadata, spec, status))
    }
}

impl<'de, K> Deserialize<'de> for Seen<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts { metadata, spec, status } = Parts::deserialize(deserializer)?;
        Ok(Self { metadata: metadata.into(), spec, status, kind: PhantomData })
    }
}

is_of_its_kind!(Seen, |this| &this.metadata, &mut this.metadata);

#[cfg(test)]
mod tests {
    use api::v1alpha1::VirtualMachine;
    use kube::api::WatchEvent;
    use serde_json::{Value, json};

    use super::*;

    fn object(status: &Value) -> Value {
        json!({
            "apiVersion": "kubevirt.io/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": {
                "name": "vm", "namespace": "ns", "uid": "u", "resourceVersion": "7",
                "managedFields": [{"manager": "kubectl", "operation": "Update"}],
            },
            "spec": {"domain": {"devices": {}}},
            "status": status,
        })
    }

    /// As kube reads a line of a watch.
    fn seen(object: &Value) -> Seen<VirtualMachine> {
        let line = format!(r#"{{"type":"MODIFIED","object":{object}}}"#);
        let event = serde_json::from_str(&line).unwrap();
        let WatchEvent::Modified(seen) = event else { panic!("{event:?}") };
        seen
    }

    #[test]
    fn an_event_is_read_as_the_object_that_it_shows() {
        for status in [json!({"phase": "Running", "nodeName": "a"}), Value::Null] {
            let mut whole: VirtualMachine = serde_json::from_value(object(&status)).unwrap();
            whole.metadata.managed_fields = None;
            let seen = seen(&object(&status));
            assert_eq!(seen.metadata.resource_version.as_deref(), Some("7"));
            assert_eq!(seen.read().unwrap(), whole);
        }
    }

    #[test]
    fn what_cannot_be_read_has_a_version_all_the_same() {
        let seen = seen(&object(&json!({"phase": 5})));
        assert_eq!(seen.metadata.name.as_deref(), Some("vm"));
        assert!(seen.read().is_err());
    }
}

//! An API object: JSON whose `metadata` the server understands, and whose rest it carries.

mod names;

use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(crate) use names::generate_name;

/// The finalizer that holds an owner until its blocking dependents are gone.
pub(crate) const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// The finalizer that holds an owner until its dependents have forgotten it.
pub(crate) const ORPHAN_FINALIZER: &str = "orphan";

/// One API object. `metadata` is always a JSON object: [`Object::new`] sees to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object(Value);

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OwnerReference {
    /// `group/version` of the owner.
    #[serde(default)]
    pub(crate) api_version: String,
    /// Kind of the owner.
    #[serde(default)]
    pub(crate) kind: String,
    /// Name of the owner, in the dependent's namespace or cluster-scoped.
    #[serde(default)]
    pub(crate) name: String,
    /// UID of the owner.
    #[serde(default)]
    pub(crate) uid: String,
    /// Whether foreground deletion of the owner waits for the dependent.
    #[serde(default)]
    pub(crate) block_owner_deletion: bool,
}

impl OwnerReference {
    /// API group of the owner; empty for the core group.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl Object {
    /// Takes a JSON object; a missing or null `metadata` becomes empty. `None` if the value or its metadata is no JSON object.
    pub(crate) fn new(mut value: Value) -> Option<Self> {
        let root = value.as_object_mut()?;
        let metadata = root.entry("metadata").or_insert(Value::Null);
        if metadata.is_null() {
            *metadata = json!({});
        }
        metadata.is_object().then_some(Self(value))
    }

    /// Parses what the store holds.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        use serde::de::Error;
        Self::new(serde_json::from_slice(json)?).ok_or_else(|| serde_json::Error::custom("not an API object"))
    }

    pub(crate) fn value(&self) -> &Value {
        &self.0
    }

    pub(crate) fn into_value(self) -> Value {
        self.0
    }

    /// The whole object, to change anything but the shape of `metadata`.
    pub(crate) fn root_mut(&mut self) -> &mut Map<String, Value> {
        self.0.as_object_mut().expect("checked by new")
    }

    pub(crate) fn metadata(&self) -> &Map<String, Value> {
        self.0["metadata"].as_object().expect("checked by new")
    }

    pub(crate) fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        self.0["metadata"].as_object_mut().expect("checked by new")
    }

    fn text(&self, key: &str) -> &str {
        self.metadata().get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn api_version(&self) -> &str {
        self.0["apiVersion"].as_str().unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.text("name")
    }

    /// Namespace; empty for cluster-scoped objects.
    pub(crate) fn namespace(&self) -> &str {
        self.text("namespace")
    }

    pub(crate) fn uid(&self) -> &str {
        self.text("uid")
    }

    pub(crate) fn resource_version(&self) -> &str {
        self.text("resourceVersion")
    }

    /// Whether a delete was accepted and finalizers hold the object.
    pub(crate) fn is_deleting(&self) -> bool {
        self.metadata().get("deletionTimestamp").is_some_and(|value| !value.is_null())
    }

    pub(crate) fn generation(&self) -> i64 {
        self.metadata().get("generation").and_then(Value::as_i64).unwrap_or_default()
    }

    pub(crate) fn finalizers(&self) -> Vec<&str> {
        let list = self.metadata().get("finalizers").and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }

    pub(crate) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers().contains(&name)
    }

    pub(crate) fn add_finalizer(&mut self, name: &str) {
        if !self.has_finalizer(name) {
            let list = self.metadata_mut().entry("finalizers").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!(name));
            } else {
                *list = json!([name]);
            }
        }
    }

    pub(crate) fn remove_finalizer(&mut self, name: &str) {
        if let Some(list) = self.metadata_mut().get_mut("finalizers").and_then(Value::as_array_mut) {
            list.retain(|entry| entry != name);
            if list.is_empty() {
                self.metadata_mut().remove("finalizers");
            }
        }
    }

    pub(crate) fn owner_references(&self) -> Vec<OwnerReference> {
        let list = self.metadata().get("ownerReferences").and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(|entry| OwnerReference::deserialize(entry).ok()).collect())
            .unwrap_or_default()
    }

    /// Removes the references to the given owners; true if there were any.
    pub(crate) fn remove_owner_references(&mut self, is_gone: impl Fn(&str) -> bool) -> bool {
        let Some(list) = self.metadata_mut().get_mut("ownerReferences").and_then(Value::as_array_mut) else {
            return false;
        };
        let before = list.len();
        list.retain(|entry| !entry["uid"].as_str().is_some_and(&is_gone));
        let changed = list.len() != before;
        if list.is_empty() {
            self.metadata_mut().remove("ownerReferences");
        }
        changed
    }

    /// Marks the object as being deleted since `now`, if it is not yet.
    pub(crate) fn mark_deleting(&mut self, now: jiff::Timestamp) {
        if !self.is_deleting() {
            self.metadata_mut().insert("deletionTimestamp".to_owned(), json!(timestamp(now)));
            self.metadata_mut().insert("deletionGracePeriodSeconds".to_owned(), json!(0));
        }
    }
}

/// A point in time as `metav1.Time` writes it: whole seconds, UTC.
pub(crate) fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

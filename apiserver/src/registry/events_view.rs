//! `events.k8s.io/v1` as another view of core events, which are what is stored.
//!
//! Field by field as the real server converts:
//! <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>.

use serde_json::{Map, Value, json};

use crate::object::Object;

/// Names of the same field: in `events.k8s.io/v1`, and in the core group.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn rename(root: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = root.remove(from) {
        root.insert(to.to_owned(), value);
    }
}

/// An `events.k8s.io/v1` event, as stored.
pub(super) fn to_core(mut object: Object) -> Object {
    let root = object.root_mut();
    root.insert("apiVersion".to_owned(), json!("v1"));
    for (view, core) in RENAMED {
        rename(root, view, core);
    }
    object
}

/// A stored event, as an `events.k8s.io/v1` event.
pub(super) fn from_core(mut object: Object) -> Object {
    let root = object.root_mut();
    root.insert("apiVersion".to_owned(), json!("events.k8s.io/v1"));
    for (view, core) in RENAMED {
        rename(root, core, view);
    }
    if root.get("eventTime").is_none() {
        root.insert("eventTime".to_owned(), Value::Null);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_hold_the_same() {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "regarding": {"name": "vm"}, "note": "VM started.", "reason": "Started", "reportingController": "virt-handler",
            "eventTime": "2026-11-22T10:00:00.000000Z",
        });
        let stored = to_core(Object::new(event.clone()).unwrap());
        assert_eq!(stored.value()["involvedObject"]["name"], "vm");
        assert_eq!(stored.value()["message"], "VM started.");
        assert_eq!(from_core(stored).into_value(), event);
    }
}

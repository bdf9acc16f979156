//! Columns of the built-in kinds, as kube-apiserver's printers have them.
//!
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/printers/internalversion/printers.go>.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::age::since;
use super::{Cell, Column};
use crate::schema::builtin::Builtin;

const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although \
    some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily \
    intended for creation idempotence and configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED_DESCRIPTION: &str = "CreationTimestamp is a timestamp representing the server time when this object was \
    created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this \
    value. It is represented in RFC3339 form and is in UTC.";
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// The first column of every table.
pub(super) fn name_column() -> Column {
    Column {
        format: "name".to_owned(),
        description: NAME_DESCRIPTION.to_owned(),
        ..computed("Name", 0, |o, _| text(o, "/metadata/name"))
    }
}

/// The age of an object.
pub(super) fn age_column() -> Column {
    Column { description: CREATED_DESCRIPTION.to_owned(), ..computed("Age", 0, age) }
}

/// Columns of `kind`.
pub(super) fn columns(kind: Builtin) -> Vec<Column> {
    match kind {
        Builtin::Namespace => {
            vec![name_column(), computed("Status", 0, |o, _| text(o, "/status/phase")), age_column()]
        }
        Builtin::Node => node_columns(),
        Builtin::Event => event_columns(),
        Builtin::Secret => vec![
            name_column(),
            computed("Type", 0, |o, _| text(o, "/type")),
            count("Data", |o, _| Value::from(size(o, "/data"))),
            age_column(),
        ],
        Builtin::ConfigMap => vec![
            name_column(),
            count("Data", |o, _| Value::from(size(o, "/data") + size(o, "/binaryData"))),
            age_column(),
        ],
        Builtin::PersistentVolume => vec![
            name_column(),
            computed("Capacity", 0, |o, _| text(o, "/spec/capacity/storage")),
            computed("Access Modes", 0, |o, _| Value::from(access_modes(o, "/spec/accessModes"))),
            computed("Reclaim Policy", 0, |o, _| text(o, "/spec/persistentVolumeReclaimPolicy")),
            computed("Status", 0, |o, _| Value::from(phase(o))),
            computed("Claim", 0, |o, _| Value::from(claim_of(o))),
            computed("StorageClass", 0, |o, _| text(o, "/spec/storageClassName")),
            computed("Reason", 0, |o, _| text(o, "/status/reason")),
            age_column(),
            computed("VolumeMode", 1, |o, _| text(o, "/spec/volumeMode")),
        ],
        Builtin::PersistentVolumeClaim => vec![
            name_column(),
            computed("Status", 0, |o, _| Value::from(phase(o))),
            computed("Volume", 0, |o, _| text(o, "/spec/volumeName")),
            // What was asked for is not what was got: both are empty until the claim is bound.
            computed("Capacity", 0, |o, _| text(o, "/status/capacity/storage")),
            computed("Access Modes", 0, |o, _| Value::from(access_modes(o, "/status/accessModes"))),
            computed("StorageClass", 0, |o, _| text(o, "/spec/storageClassName")),
            age_column(),
            computed("VolumeMode", 1, |o, _| text(o, "/spec/volumeMode")),
        ],
        Builtin::Lease => {
            vec![name_column(), computed("Holder", 0, |o, _| text(o, "/spec/holderIdentity")), age_column()]
        }
        Builtin::ControllerRevision => vec![
            name_column(),
            computed("Controller", 0, |o, _| Value::from(controller_of(o))),
            count("Revision", |o, _| o.get("revision").cloned().unwrap_or_default()),
            age_column(),
        ],
        Builtin::CertificateSigningRequest => vec![
            name_column(),
            age_column(),
            computed("SignerName", 0, |o, _| text(o, "/spec/signerName")),
            computed("Requestor", 0, |o, _| text(o, "/spec/username")),
            computed("RequestedDuration", 0, |o, _| Value::from(requested_duration(o))),
            computed("Condition", 0, |o, _| Value::from(request_condition(o))),
        ],
        Builtin::CustomResourceDefinition => {
            vec![
                name_column(),
                Column {
                    kind: "date".to_owned(),
                    description: CREATED_DESCRIPTION.to_owned(),
                    ..computed("Created At", 0, |o, _| text(o, "/metadata/creationTimestamp"))
                },
            ]
        }
    }
}

/// `RWO,ROX`
fn access_modes(object: &Value, pointer: &str) -> String {
    let modes = object.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let short: Vec<_> = modes
        .map(|mode| match mode {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            other => other,
        })
        .collect();
    short.join(",")
}

fn phase(object: &Value) -> &str {
    let deleting = object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null());
    if deleting { "Terminating" } else { text_str(object, "/status/phase") }
}

fn claim_of(volume: &Value) -> String {
    match volume.pointer("/spec/claimRef") {
        Some(claim) if claim.is_object() => format!("{}/{}", text_str(claim, "/namespace"), text_str(claim, "/name")),
        _ => String::new(),
    }
}

fn requested_duration(request: &Value) -> String {
    let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
    seconds.map_or_else(|| "<none>".to_owned(), super::age::human_duration)
}

/// What has become of a signing request.
fn request_condition(request: &Value) -> String {
    let conditions = request.pointer("/status/conditions").and_then(Value::as_array);
    let has = |kind: &str| conditions.into_iter().flatten().any(|condition| condition["type"] == kind);
    let mut said: Vec<&str> = ["Denied", "Approved", "Failed"].into_iter().filter(|kind| has(kind)).collect();
    if said.is_empty() {
        said.push("Pending");
    }
    if request.pointer("/status/certificate").is_some_and(|certificate| !certificate.is_null()) {
        said.push("Issued");
    }
    said.join(",")
}

fn node_columns() -> Vec<Column> {
    vec![
        name_column(),
        computed("Status", 0, |o, _| Value::from(node_status(o))),
        computed("Roles", 0, |o, _| Value::from(node_roles(o))),
        age_column(),
        computed("Version", 0, |o, _| text(o, "/status/nodeInfo/kubeletVersion")),
        computed("Internal-IP", 1, |o, _| Value::from(node_address(o, "InternalIP"))),
        computed("External-IP", 1, |o, _| Value::from(node_address(o, "ExternalIP"))),
        computed("OS-Image", 1, |o, _| known(o, "/status/nodeInfo/osImage")),
        computed("Kernel-Version", 1, |o, _| known(o, "/status/nodeInfo/kernelVersion")),
        computed("Container-Runtime", 1, |o, _| known(o, "/status/nodeInfo/containerRuntimeVersion")),
    ]
}

fn event_columns() -> Vec<Column> {
    vec![
        computed("Last Seen", 0, |o, now| Value::from(event_last_seen(o, now))),
        computed("Type", 0, |o, _| text(o, "/type")),
        computed("Reason", 0, |o, _| text(o, "/reason")),
        computed("Object", 0, |o, _| Value::from(event_object(o))),
        computed("Subobject", 1, |o, _| text(o, "/involvedObject/fieldPath")),
        computed("Source", 1, |o, _| Value::from(event_source(o))),
        computed("Message", 0, |o, _| Value::from(text_str(o, "/message").trim())),
        computed("First Seen", 1, |o, now| Value::from(event_first_seen(o, now))),
        count("Count", |o, _| Value::from(event_count(o))).with_priority(1),
        Column {
            description: NAME_DESCRIPTION.to_owned(),
            format: "name".to_owned(),
            ..name_column().with_priority(1)
        },
    ]
}

impl Column {
    fn with_priority(self, priority: i32) -> Self {
        Self { priority, ..self }
    }
}

fn computed(name: &str, priority: i32, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name: name.to_owned(),
        kind: "string".to_owned(),
        format: String::new(),
        description: String::new(),
        priority,
        cell: Cell::Computed(cell),
    }
}

fn count(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { kind: "integer".to_owned(), ..computed(name, 0, cell) }
}

fn age(object: &Value, now: Timestamp) -> Value {
    Value::from(since(object.pointer("/metadata/creationTimestamp").unwrap_or(&Value::Null), now))
}

fn node_status(node: &Value) -> String {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| text_str(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text_str(c, "/status")) {
        None => "Unknown",
        Some("True") => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn node_address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let found = addresses.into_iter().flatten().find(|a| text_str(a, "/type") == kind);
    found.map_or("<none>", |a| text_str(a, "/address"))
}

fn event_object(event: &Value) -> String {
    let kind = text_str(event, "/involvedObject/kind").to_lowercase();
    let name = text_str(event, "/involvedObject/name");
    if name.is_empty() { kind } else { format!("{kind}/{name}") }
}

fn event_source(event: &Value) -> String {
    let first = |pointers: [&str; 2]| {
        pointers.into_iter().map(|p| text_str(event, p)).find(|t| !t.is_empty()).unwrap_or_default().to_owned()
    };
    let component = first(["/source/component", "/reportingComponent"]);
    let host = first(["/source/host", "/reportingInstance"]);
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

fn event_first_seen(event: &Value, now: Timestamp) -> String {
    let pointer = if text_str(event, "/firstTimestamp").is_empty() { "/eventTime" } else { "/firstTimestamp" };
    since(event.pointer(pointer).unwrap_or(&Value::Null), now)
}

fn event_last_seen(event: &Value, now: Timestamp) -> String {
    let found = ["/series/lastObservedTime", "/lastTimestamp"].into_iter().find(|p| !text_str(event, p).is_empty());
    match found.and_then(|p| event.pointer(p)) {
        Some(last) => since(last, now),
        None => event_first_seen(event, now),
    }
}

fn event_count(event: &Value) -> i64 {
    let count = event.pointer("/series/count").or_else(|| event.get("count")).and_then(Value::as_i64);
    count.filter(|c| *c > 0).unwrap_or(1)
}

fn controller_of(object: &Value) -> String {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owner = owners.into_iter().flatten().find(|o| o.get("controller") == Some(&Value::Bool(true)));
    let Some(owner) = owner else { return "<none>".to_owned() };
    let kind = text_str(owner, "/kind").to_lowercase();
    let group = text_str(owner, "/apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
    format!("{kind}{}/{}", group.unwrap_or_default(), text_str(owner, "/name"))
}

fn known(object: &Value, pointer: &str) -> Value {
    let found = text_str(object, pointer);
    Value::from(if found.is_empty() { "<unknown>" } else { found })
}

fn text(object: &Value, pointer: &str) -> Value {
    Value::from(text_str(object, pointer))
}

fn text_str<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn size(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, Map::len)
}

//! The built-in kinds, as one table.

use super::resource::{Behavior, Resource, Schema, Verbs, storage_name};
use crate::schema::builtin::Builtin;

/// One row of the table.
struct Row {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
    verbs: Verbs,
    has_status: bool,
    behavior: Behavior,
    fields: &'static [&'static str],
}

const NONE: &[&str] = &[];

/// Fields of events by which kubectl asks for them.
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// The same fields under the names of `events.k8s.io/v1`.
const EVENTS_VIEW_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

/// Version of every built-in kind.
const VERSION: &str = "v1";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("", "Namespace", "namespaces", "namespace", &["ns"]).cluster().with_status().is(Behavior::Namespace).fields(&["status.phase"]),
    row("", "Node", "nodes", "node", &["no"]).cluster().with_status().fields(&["spec.unschedulable"]),
    row("", "Event", "events", "event", &["ev"]).is(Behavior::Event).fields(EVENT_FIELDS),
    row("", "Secret", "secrets", "secret", NONE).fields(&["type"]),
    row("", "ConfigMap", "configmaps", "configmap", &["cm"]),
    // No pods run here. kubectl asks for them when it describes or drains a node, and gets the true answer: none.
    row("", "Pod", "pods", "pod", &["po"]).verbs(Verbs::ReadOnly).fields(&["spec.nodeName", "status.phase"]),
    row("events.k8s.io", "Event", "events", "event", &["ev"]).is(Behavior::EventsView).fields(EVENTS_VIEW_FIELDS),
    row("coordination.k8s.io", "Lease", "leases", "lease", NONE),
    row("apps", "ControllerRevision", "controllerrevisions", "controllerrevision", NONE),
    row("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", "customresourcedefinition", &["crd", "crds"])
        .cluster().with_status().is(Behavior::Definition),
    row("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", NONE)
        .cluster().verbs(Verbs::CreateOnly).is(Behavior::SelfSubjectReview),
    row("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview", NONE)
        .cluster().verbs(Verbs::CreateOnly).is(Behavior::SelfSubjectAccessReview),
];

const fn row(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> Row {
    Row {
        group,
        kind,
        plural,
        singular,
        short_names,
        namespaced: true,
        verbs: Verbs::All,
        has_status: false,
        behavior: Behavior::Plain,
        fields: NONE,
    }
}

impl Row {
    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    const fn with_status(mut self) -> Self {
        self.has_status = true;
        self
    }

    const fn verbs(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }

    const fn is(mut self, behavior: Behavior) -> Self {
        self.behavior = behavior;
        self
    }

    const fn fields(mut self, fields: &'static [&'static str]) -> Self {
        self.fields = fields;
        self
    }

    fn to_resource(&self) -> Resource {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let is_view = self.behavior == Behavior::EventsView;
        let storage_group = if is_view { "" } else { self.group };
        Resource {
            group: self.group.to_owned(),
            version: VERSION.to_owned(),
            kind: self.kind.to_owned(),
            list_kind: format!("{}List", self.kind),
            plural: self.plural.to_owned(),
            singular: self.singular.to_owned(),
            short_names: owned(self.short_names),
            categories: Vec::new(),
            is_namespaced: self.namespaced,
            verbs: self.verbs,
            has_status: self.has_status,
            behavior: self.behavior,
            storage: storage_name(storage_group, self.plural),
            is_storage_version: !is_view,
            selectable_fields: owned(self.fields),
            schema: Builtin::find(storage_group, self.kind).map_or(Schema::None, Schema::Builtin),
        }
    }
}

/// Every built-in resource.
pub(super) fn resources() -> impl Iterator<Item = Resource> {
    TABLE.iter().map(Row::to_resource)
}

//! The built-in kinds, as one table.

use std::sync::Arc;

use super::resource::{Behavior, Resource, Schema, Verbs, storage_name};
use crate::schema::builtin::Builtin;
use crate::selector::SelectableFields;
use crate::table::TableColumns;

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
    /// Fields for selectors, where the kind has no typed form that knows them.
    fields: &'static [(&'static str, &'static str)],
}

const NONE: &[&str] = &[];

/// Fields of pods by which kubectl and controllers ask for those of a node.
const POD_FIELDS: &[(&str, &str)] = &[("spec.nodeName", "/spec/nodeName"), ("status.phase", "/status/phase")];

/// Fields of events as `events.k8s.io/v1` names them, and where they are in the stored form.
const EVENTS_VIEW_FIELDS: &[(&str, &str)] = &[
    ("regarding.kind", "/involvedObject/kind"),
    ("regarding.namespace", "/involvedObject/namespace"),
    ("regarding.name", "/involvedObject/name"),
    ("regarding.uid", "/involvedObject/uid"),
    ("regarding.apiVersion", "/involvedObject/apiVersion"),
    ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
    ("regarding.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingController", "/reportingComponent"),
    ("type", "/type"),
];

/// Version of every built-in kind.
const VERSION: &str = "v1";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("", "Namespace", "namespaces", "namespace", &["ns"]).cluster().with_status().is(Behavior::Namespace),
    row("", "Node", "nodes", "node", &["no"]).cluster().with_status(),
    row("", "Event", "events", "event", &["ev"]).is(Behavior::Event),
    row("", "Secret", "secrets", "secret", NONE),
    row("", "ConfigMap", "configmaps", "configmap", &["cm"]),
    row("", "PersistentVolume", "persistentvolumes", "persistentvolume", &["pv"]).cluster().with_status(),
    row("", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim", &["pvc"]).with_status(),
    // No pods run here. kubectl asks for them when it describes or drains a node, and gets the true answer: none.
    row("", "Pod", "pods", "pod", &["po"]).verbs(Verbs::ReadOnly).fields(POD_FIELDS),
    row("events.k8s.io", "Event", "events", "event", &["ev"]).is(Behavior::EventsView).fields(EVENTS_VIEW_FIELDS),
    row("coordination.k8s.io", "Lease", "leases", "lease", NONE),
    row("apps", "ControllerRevision", "controllerrevisions", "controllerrevision", NONE),
    row("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", "customresourcedefinition", &["crd", "crds"])
        .cluster().with_status().is(Behavior::Definition),
    row("certificates.k8s.io", "CertificateSigningRequest", "certificatesigningrequests", "certificatesigningrequest", &["csr"])
        .cluster().with_status().is(Behavior::SigningRequest),
    row("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", NONE)
        .cluster().verbs(Verbs::CreateOnly).is(Behavior::SelfSubjectReview),
    row("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview", NONE)
        .cluster().verbs(Verbs::CreateOnly).is(Behavior::SelfSubjectAccessReview),
    row("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview", NONE)
        .cluster().verbs(Verbs::CreateOnly).is(Behavior::SelfSubjectRulesReview),
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
        fields: &[],
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

    const fn fields(mut self, fields: &'static [(&'static str, &'static str)]) -> Self {
        self.fields = fields;
        self
    }

    fn to_resource(&self) -> Resource {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let is_view = self.behavior == Behavior::EventsView;
        let storage_group = if is_view { "" } else { self.group };
        let builtin = Builtin::find(storage_group, self.kind);
        let fields = match builtin {
            Some(kind) if self.fields.is_empty() => SelectableFields::of_builtin(kind),
            _ => SelectableFields::of_paths(self.namespaced, self.fields),
        };
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
            is_converted: is_view,
            fields,
            columns: builtin.map(|kind| Arc::new(TableColumns::of_builtin(kind))),
            schema: builtin.map_or(Schema::None, Schema::Builtin),
        }
    }
}

/// Every built-in resource.
pub(super) fn resources() -> impl Iterator<Item = Resource> {
    TABLE.iter().map(Row::to_resource)
}

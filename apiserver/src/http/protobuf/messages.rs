//! Field numbers of the kinds that are read, from Kubernetes' `generated.proto` files (they never change).

/// A message: its fields.
pub(super) type Message = &'static [Field];

/// One field.
pub(super) struct Field {
    pub(super) number: u64,
    /// Its name in JSON.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Bytes,
    Number,
    Flag,
    Time,
    MicroTime,
    Message(Message),
    TextList,
    MessageList(Message),
    TextMap,
    BytesMap,
}

const fn f(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind }
}

/// The table of a kind, if there is one.
pub(super) fn find(kind: &str) -> Option<Message> {
    Some(match kind {
        "Namespace" => NAMESPACE,
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "Event" => EVENT,
        "Lease" => LEASE,
        "SelfSubjectReview" => SELF_SUBJECT_REVIEW,
        "SelfSubjectAccessReview" => SELF_SUBJECT_ACCESS_REVIEW,
        "SelfSubjectRulesReview" => SELF_SUBJECT_RULES_REVIEW,
        "CertificateSigningRequest" => CERTIFICATE_SIGNING_REQUEST,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    })
}

const METADATA: Field = f(1, "metadata", Kind::Message(OBJECT_META));

const OBJECT_META: Message = &[
    f(1, "name", Kind::Text),
    f(2, "generateName", Kind::Text),
    f(3, "namespace", Kind::Text),
    f(5, "uid", Kind::Text),
    f(6, "resourceVersion", Kind::Text),
    f(8, "creationTimestamp", Kind::Time),
    f(9, "deletionTimestamp", Kind::Time),
    f(11, "labels", Kind::TextMap),
    f(12, "annotations", Kind::TextMap),
    f(13, "ownerReferences", Kind::MessageList(OWNER_REFERENCE)),
    f(14, "finalizers", Kind::TextList),
];

const OWNER_REFERENCE: Message = &[
    f(1, "kind", Kind::Text),
    f(3, "name", Kind::Text),
    f(4, "uid", Kind::Text),
    f(5, "apiVersion", Kind::Text),
    f(6, "controller", Kind::Flag),
    f(7, "blockOwnerDeletion", Kind::Flag),
];

const NAMESPACE: Message = &[METADATA, f(2, "spec", Kind::Message(&[f(1, "finalizers", Kind::TextList)]))];

const CONFIG_MAP: Message =
    &[METADATA, f(2, "data", Kind::TextMap), f(3, "binaryData", Kind::BytesMap), f(4, "immutable", Kind::Flag)];

const SECRET: Message = &[
    METADATA,
    f(2, "data", Kind::BytesMap),
    f(3, "type", Kind::Text),
    f(4, "stringData", Kind::TextMap),
    f(5, "immutable", Kind::Flag),
];

const OBJECT_REFERENCE: Message = &[
    f(1, "kind", Kind::Text),
    f(2, "namespace", Kind::Text),
    f(3, "name", Kind::Text),
    f(4, "uid", Kind::Text),
    f(5, "apiVersion", Kind::Text),
    f(6, "resourceVersion", Kind::Text),
    f(7, "fieldPath", Kind::Text),
];

const EVENT: Message = &[
    METADATA,
    f(2, "involvedObject", Kind::Message(OBJECT_REFERENCE)),
    f(3, "reason", Kind::Text),
    f(4, "message", Kind::Text),
    f(5, "source", Kind::Message(&[f(1, "component", Kind::Text), f(2, "host", Kind::Text)])),
    f(6, "firstTimestamp", Kind::Time),
    f(7, "lastTimestamp", Kind::Time),
    f(8, "count", Kind::Number),
    f(9, "type", Kind::Text),
    f(10, "eventTime", Kind::MicroTime),
    f(11, "series", Kind::Message(&[f(1, "count", Kind::Number), f(2, "lastObservedTime", Kind::MicroTime)])),
    f(12, "action", Kind::Text),
    f(13, "related", Kind::Message(OBJECT_REFERENCE)),
    f(14, "reportingComponent", Kind::Text),
    f(15, "reportingInstance", Kind::Text),
];

const LEASE: Message = &[METADATA, f(2, "spec", Kind::Message(LEASE_SPEC))];

const LEASE_SPEC: Message = &[
    f(1, "holderIdentity", Kind::Text),
    f(2, "leaseDurationSeconds", Kind::Number),
    f(3, "acquireTime", Kind::MicroTime),
    f(4, "renewTime", Kind::MicroTime),
    f(5, "leaseTransitions", Kind::Number),
    f(6, "strategy", Kind::Text),
    f(7, "preferredHolder", Kind::Text),
];

const SELF_SUBJECT_REVIEW: Message = &[METADATA];

const SELF_SUBJECT_ACCESS_REVIEW: Message = &[METADATA, f(2, "spec", Kind::Message(SELF_SUBJECT_ACCESS_REVIEW_SPEC))];

const SELF_SUBJECT_ACCESS_REVIEW_SPEC: Message = &[
    f(1, "resourceAttributes", Kind::Message(RESOURCE_ATTRIBUTES)),
    f(2, "nonResourceAttributes", Kind::Message(&[f(1, "path", Kind::Text), f(2, "verb", Kind::Text)])),
];

const RESOURCE_ATTRIBUTES: Message = &[
    f(1, "namespace", Kind::Text),
    f(2, "verb", Kind::Text),
    f(3, "group", Kind::Text),
    f(4, "version", Kind::Text),
    f(5, "resource", Kind::Text),
    f(6, "subresource", Kind::Text),
    f(7, "name", Kind::Text),
];

const SELF_SUBJECT_RULES_REVIEW: Message = &[METADATA, f(2, "spec", Kind::Message(&[f(1, "namespace", Kind::Text)]))];

/// Without `spec.extra`, which the server writes itself.
const CERTIFICATE_SIGNING_REQUEST: Message = &[
    METADATA,
    f(2, "spec", Kind::Message(CERTIFICATE_SIGNING_REQUEST_SPEC)),
    f(
        3,
        "status",
        Kind::Message(&[
            f(1, "conditions", Kind::MessageList(CERTIFICATE_SIGNING_REQUEST_CONDITION)),
            f(2, "certificate", Kind::Bytes),
        ]),
    ),
];

const CERTIFICATE_SIGNING_REQUEST_SPEC: Message = &[
    f(1, "request", Kind::Bytes),
    f(2, "username", Kind::Text),
    f(3, "uid", Kind::Text),
    f(4, "groups", Kind::TextList),
    f(5, "usages", Kind::TextList),
    f(7, "signerName", Kind::Text),
    f(8, "expirationSeconds", Kind::Number),
];

const CERTIFICATE_SIGNING_REQUEST_CONDITION: Message = &[
    f(1, "type", Kind::Text),
    f(2, "reason", Kind::Text),
    f(3, "message", Kind::Text),
    f(4, "lastUpdateTime", Kind::Time),
    f(5, "lastTransitionTime", Kind::Time),
    f(6, "status", Kind::Text),
];

const DELETE_OPTIONS: Message = &[
    f(1, "gracePeriodSeconds", Kind::Number),
    f(2, "preconditions", Kind::Message(&[f(1, "uid", Kind::Text), f(2, "resourceVersion", Kind::Text)])),
    f(3, "orphanDependents", Kind::Flag),
    f(4, "propagationPolicy", Kind::Text),
    f(5, "dryRun", Kind::TextList),
];

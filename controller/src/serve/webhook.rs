//! The validating webhook: `api::admission`'s rules over `AdmissionReview`s, the same as in the embedded API server.
//!
//! It judges creates, and updates that change what it would judge; everything else passes, so that no delete, finalizer or status ever depends on
//! it. It looks at the review alone: no call to anybody, no memory between two reviews.

use api::admission::Cause;
use axum::body::Bytes;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::refusal::Refusal;

/// The part of a review that is looked at.
#[derive(Deserialize)]
struct AdmissionReview {
    #[serde(rename = "apiVersion")]
    api_version: String,
    request: AdmissionRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionRequest {
    uid: String,
    kind: GroupKind,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    name: String,
    object: Option<Value>,
    old_object: Option<Value>,
}

#[derive(Deserialize)]
struct GroupKind {
    group: String,
    kind: String,
}

/// Answers `POST /validate`.
pub(super) async fn validate(body: Bytes) -> Response {
    match serde_json::from_slice::<AdmissionReview>(&body) {
        Ok(review) => axum::Json(answer(&review)).into_response(),
        Err(error) => Refusal::bad_request(format!("this is no AdmissionReview: {error}")).into_response(),
    }
}

fn answer(review: &AdmissionReview) -> Value {
    let causes = judge(&review.request);
    let mut response = json!({"uid": review.request.uid, "allowed": causes.is_empty()});
    if !causes.is_empty() {
        response["status"] = invalid(&review.request, &causes);
    }
    json!({"apiVersion": review.api_version, "kind": "AdmissionReview", "response": response})
}

fn judge(request: &AdmissionRequest) -> Vec<Cause> {
    let AdmissionRequest { object: Some(object), old_object: old, .. } = request else { return Vec::new() };
    let is_ours = request.kind.group == api::names::GROUP && request.sub_resource.is_empty();
    // An object on its way out only loses finalizers.
    let is_leaving = !object["metadata"]["deletionTimestamp"].is_null();
    match request.operation.as_str() {
        "CREATE" if is_ours => api::admission::validate(&request.kind.kind, object, None),
        "UPDATE" if is_ours && !is_leaving => api::admission::validate(&request.kind.kind, object, old.as_ref()),
        _ => Vec::new(),
    }
}

/// The answer to the user, as the API server itself puts it for a broken schema.
fn invalid(request: &AdmissionRequest, causes: &[Cause]) -> Value {
    let line = |cause: &Cause| {
        if cause.message.starts_with(&cause.field) {
            cause.message.clone()
        } else {
            format!("{}: {}", cause.field, cause.message)
        }
    };
    let lines: Vec<_> = causes.iter().map(line).collect();
    let text = if let [line] = lines.as_slice() { line.clone() } else { format!("[{}]", lines.join(", ")) };
    let AdmissionRequest { kind: GroupKind { group, kind }, name, .. } = request;
    let causes: Vec<_> = causes
        .iter()
        .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
        .collect();
    json!({
        "status": "Failure", "reason": "Invalid", "code": 422,
        "message": format!("{kind}.{group} \"{name}\" is invalid: {text}"),
        "details": {"name": name, "group": group, "kind": kind, "causes": causes},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(disks: &Value) -> Value {
        json!({
            "apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "vm", "namespace": "ns"},
            "spec": {"domain": {"devices": {"disks": disks}}},
        })
    }

    fn broken() -> Value {
        vm(&json!([{"name": "a", "volumeName": "nope"}]))
    }

    fn review(operation: &str, object: &Value, old: &Value) -> AdmissionReview {
        serde_json::from_value(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u1", "kind": {"group": "kubevirt.io", "version": "v1alpha1", "kind": "VirtualMachine"},
                "operation": operation, "name": "vm", "object": object, "oldObject": old,
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_broken_create_is_refused_with_field_and_reason() {
        let answer = answer(&review("CREATE", &broken(), &Value::Null));
        assert_eq!(answer["kind"], "AdmissionReview");
        let response = &answer["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u1"), &json!(false)));
        let field = "spec.domain.devices.disks[0].volumeName";
        let message = format!("{field} 'nope' not found.");
        assert_eq!(response["status"]["code"], 422);
        assert_eq!(response["status"]["message"], format!("VirtualMachine.kubevirt.io \"vm\" is invalid: {message}"));
        let causes = json!([{"reason": "FieldValueInvalid", "message": message, "field": field}]);
        assert_eq!(response["status"]["details"]["causes"], causes);
    }

    #[test]
    fn whatever_does_not_change_a_spec_passes() {
        let mut labelled = broken();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let mut leaving = vm(&json!([{"name": "b", "volumeName": "nope"}]));
        leaving["metadata"]["deletionTimestamp"] = json!("2026-11-22T12:00:00Z");
        let mut of_status = review("UPDATE", &broken(), &vm(&json!([])));
        of_status.request.sub_resource = "status".to_owned();
        for (what, review) in [
            ("a good create", review("CREATE", &vm(&json!([])), &Value::Null)),
            ("a label on a broken object", review("UPDATE", &labelled, &broken())),
            ("a finalizer taken off", review("UPDATE", &leaving, &broken())),
            ("a delete", review("DELETE", &Value::Null, &broken())),
            ("a status", of_status),
        ] {
            assert_eq!(answer(&review)["response"]["allowed"], true, "{what}");
        }
        assert_eq!(answer(&review("UPDATE", &broken(), &vm(&json!([]))))["response"]["allowed"], false);
    }
}

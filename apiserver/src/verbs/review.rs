//! Reviews: answered from who asks, never stored. `kubectl auth whoami` and `kubectl auth can-i` use them.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::prepare;
use super::{Call, Reply};
use crate::access::Wish;
use crate::http::body;
use crate::registry::Behavior;
use crate::status::ApiError;

/// Groups and resources of the reviews that whoever is somebody may ask for: Kubernetes' ClusterRole `system:basic-user`.
pub(crate) const SELF_REVIEWS: [(&str, &str); 3] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// Answers a self-subject review.
pub(crate) fn review(call: &Call<'_>, headers: &HeaderMap, bytes: &Bytes) -> Result<Reply, ApiError> {
    let mut object = prepare::decode(call.resource, body::parse(headers, bytes)?)?;
    let spec = &object.value()["spec"];
    let status = match call.resource.behavior {
        Behavior::SelfSubjectReview => json!({"userInfo": call.user.info()}),
        Behavior::SelfSubjectRulesReview => rules(call, spec["namespace"].as_str().unwrap_or_default()),
        _ => access(call, spec),
    };
    object.root_mut().insert("status".to_owned(), status);
    Ok(Reply::object(StatusCode::CREATED, Bytes::from(object.into_value().to_string())))
}

/// Whether the user may do what `spec` describes. What admission policies say of the object that is written then is not in it.
fn access(call: &Call<'_>, spec: &Value) -> Value {
    if call.user.is_master() {
        return json!({"allowed": true, "reason": "members of system:masters may do everything"});
    }
    let wanted = &spec["resourceAttributes"];
    let is_allowed = if wanted.is_object() {
        let text = |part: &str| wanted[part].as_str().unwrap_or_default();
        let given = |part| Some(text(part)).filter(|text| !text.is_empty());
        call.core.access.allows(
            call.user,
            &Wish {
                verb: text("verb"),
                group: text("group"),
                resource: text("resource"),
                subresource: given("subresource"),
                namespace: given("namespace"),
                name: given("name"),
            },
        )
    } else {
        // What the server says of itself is for whoever is somebody.
        spec["nonResourceAttributes"]["verb"] == "get"
    };
    if is_allowed {
        json!({"allowed": true, "reason": "a role allows it"})
    } else {
        json!({"allowed": false, "reason": "no role allows it"})
    }
}

/// All that the user may do in a namespace, and beside namespaces.
fn rules(call: &Call<'_>, namespace: &str) -> Value {
    let all = ["*"];
    if call.user.is_master() {
        return json!({
            "resourceRules": [{"verbs": all, "apiGroups": all, "resources": all}],
            "nonResourceRules": [{"verbs": all, "nonResourceURLs": all}],
            "incomplete": false,
        });
    }
    let mut found: Vec<Value> = call.core.access.rules(call.user, namespace).map(|rule| json!(rule)).collect();
    for (group, resource) in SELF_REVIEWS {
        found.push(json!({"verbs": ["create"], "apiGroups": [group], "resources": [resource]}));
    }
    json!({
        "resourceRules": found, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": all}], "incomplete": false,
    })
}

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

/// Answers a self-subject review.
pub(crate) fn review(call: &Call<'_>, headers: &HeaderMap, bytes: &Bytes) -> Result<Reply, ApiError> {
    let mut object = prepare::decode(call.resource, body::parse(headers, bytes)?)?;
    let status = if call.resource.behavior == Behavior::SelfSubjectReview {
        json!({"userInfo": {"username": call.user.name, "groups": call.user.groups, "extra": call.user.extra}})
    } else if call.user.is_master() {
        json!({"allowed": true, "reason": "members of system:masters may do everything"})
    } else {
        json!({"allowed": is_allowed(call, &object.value()["spec"])})
    };
    object.root_mut().insert("status".to_owned(), status);
    Ok(Reply::object(StatusCode::CREATED, Bytes::from(object.into_value().to_string())))
}

/// Whether a role gives the caller what a SelfSubjectAccessReview asks about. Paths that describe the server are everybody's.
fn is_allowed(call: &Call<'_>, spec: &Value) -> bool {
    let Some(asked) = spec.get("resourceAttributes") else { return spec["nonResourceAttributes"]["verb"] == "get" };
    let text = |key: &str| asked[key].as_str().filter(|text| !text.is_empty());
    let wish = Wish {
        verb: text("verb").unwrap_or_default(),
        group: text("group").unwrap_or_default(),
        resource: text("resource").unwrap_or_default(),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
    };
    call.core.access.allows(call.user, &wish)
}

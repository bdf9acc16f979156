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
        json!({"userInfo": call.user.info()})
    } else {
        access(call, &object.value()["spec"])
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

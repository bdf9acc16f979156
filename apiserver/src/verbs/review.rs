//! Reviews: answered from who asks, never stored. `kubectl auth whoami` and `kubectl auth can-i` use them.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::prepare;
use super::{Call, Reply};
use crate::http::body;
use crate::registry::Behavior;
use crate::status::ApiError;

/// Answers a self-subject review.
pub(crate) fn review(call: &Call<'_>, headers: &HeaderMap, bytes: &Bytes) -> Result<Reply, ApiError> {
    let mut object = prepare::decode(call.resource, body::parse(headers, bytes)?)?;
    let status = if call.resource.behavior == Behavior::SelfSubjectReview {
        json!({"userInfo": {"username": call.user.name, "groups": call.user.groups}})
    } else if call.user.is_master() {
        json!({"allowed": true, "reason": "members of system:masters may do everything"})
    } else {
        json!({"allowed": false, "reason": "only members of system:masters may do anything"})
    };
    object.root_mut().insert("status".to_owned(), status);
    Ok(Reply::object(StatusCode::CREATED, Bytes::from(object.into_value().to_string())))
}

//! Request bodies: bounded; JSON, or protobuf for the kinds that kubectl sends so.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;

use super::protobuf::{self, DecodeError};
use crate::status::ApiError;

/// The largest body that is read: what the real server takes.
pub(crate) const MAX_BODY_BYTES: usize = 3 << 20;

/// Reads a whole body.
pub(crate) async fn read(body: Body) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| {
        use std::error::Error;
        let too_large = error.source().is_some_and(<dyn Error>::is::<http_body_util::LengthLimitError>);
        if too_large { ApiError::too_large(MAX_BODY_BYTES) } else { ApiError::bad_request("the body broke off") }
    })
}

/// The media type without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Parses the body of a create, update or delete into JSON.
pub(crate) fn parse(headers: &HeaderMap, body: &Bytes) -> Result<Value, ApiError> {
    match content_type(headers) {
        "" | "application/json" => {
            serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("the body is no JSON: {error}")))
        }
        protobuf::MEDIA_TYPE => protobuf::decode(body).map_err(|error| match error {
            DecodeError::UnknownKind { .. } => ApiError::unsupported_media_type(error.to_string()),
            DecodeError::Broken(_) => ApiError::bad_request(error.to_string()),
        }),
        _ => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json",
        )),
    }
}

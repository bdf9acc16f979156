//! Errors as the Kubernetes API speaks them: a `Status` object with code, reason, message and details.
//!
//! Clients branch on `reason`, people read `message`; both follow the real server to the letter.

mod constructors;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use crate::admission::Cause;

/// A request that fails, as the client will see it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// HTTP status code.
    pub(crate) code: StatusCode,
    /// `Status.reason`, e.g. `NotFound`.
    pub(crate) reason: &'static str,
    /// Text for a person.
    pub(crate) message: String,
    /// What the error is about; boxed because most of a handler's results are `Ok`.
    pub(crate) details: Option<Box<Details>>,
}

/// `Status.details`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details {
    /// Name of the object.
    pub(crate) name: String,
    /// API group of the object.
    pub(crate) group: String,
    /// Resource (plural) or kind, whichever the real server puts there.
    pub(crate) kind: String,
    /// UID of the object, where it helps.
    pub(crate) uid: String,
    /// Single findings.
    pub(crate) causes: Vec<Cause>,
    /// When the client may ask again, in seconds; 0 = not said.
    pub(crate) retry_after_seconds: u32,
}

impl Details {
    fn to_json(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (key, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !value.is_empty() {
                out.insert(key.to_owned(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self
                .causes
                .iter()
                .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
                .collect();
            out.insert("causes".to_owned(), json!(causes));
        }
        if self.retry_after_seconds > 0 {
            out.insert("retryAfterSeconds".to_owned(), json!(self.retry_after_seconds));
        }
        Value::Object(out)
    }
}

impl ApiError {
    /// The `Status` object.
    pub(crate) fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_json();
        }
        status
    }

    /// The HTTP response.
    pub(crate) fn to_response(&self) -> Response<axum::body::Body> {
        let mut response = Response::new(axum::body::Body::from(Bytes::from(self.to_status().to_string())));
        *response.status_mut() = self.code;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Some(details) = &self.details
            && details.retry_after_seconds > 0
        {
            response.headers_mut().insert(header::RETRY_AFTER, details.retry_after_seconds.into());
        }
        response
    }
}

/// An error and its sources on one line, joined by colons.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

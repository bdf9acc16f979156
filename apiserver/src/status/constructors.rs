//! One constructor for each error that the real server has, with its exact words.

use http::StatusCode;

use super::{ApiError, Details};
use crate::admission::Cause;

/// `plural.group`, or `plural` for the core group: how messages name a resource.
fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

fn about(group: &str, kind: &str, name: &str) -> Details {
    Details { name: name.to_owned(), group: group.to_owned(), kind: kind.to_owned(), ..Details::default() }
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn with(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub(crate) fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(plural, group));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with(about(group, plural, name))
    }

    /// The path names nothing that is served.
    pub(crate) fn no_such_resource() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
            .with(Details::default())
    }

    pub(crate) fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(plural, group));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).with(about(group, plural, name))
    }

    pub(crate) fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(plural, group));
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(about(group, plural, name))
    }

    /// The resource version of the request is not the stored one.
    pub(crate) fn modified(group: &str, plural: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let lines: Vec<String> = causes.iter().map(Cause::line).collect();
        let text = if let [line] = lines.as_slice() { line.clone() } else { format!("[{}]", lines.join(", ")) };
        let message = format!("{} \"{name}\" is invalid: {text}", qualified(kind, group));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .with(Details { causes, ..about(group, kind, name) })
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let object = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!("{}{object} is forbidden: {why}", qualified(plural, group));
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with(about(group, plural, name))
    }

    /// A create in a namespace that is going away.
    pub(crate) fn namespace_terminating(group: &str, plural: &str, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = Self::forbidden(group, plural, name, &why);
        if let Some(details) = &mut error.details {
            let message = format!("namespace {namespace} is being terminated");
            details.causes.push(Cause::new("NamespaceTerminating", message, "metadata.namespace"));
        }
        error
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with(Details::default())
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// A watch or a list asks for history that is trimmed already.
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(StatusCode::GONE, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// A resource version that this server has not reached.
    pub(crate) fn version_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let cause = Cause::new("ResourceVersionTooLarge", "Too large resource version", "");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with(Details {
            causes: vec![cause],
            retry_after_seconds: 1,
            ..Details::default()
        })
    }

    pub(crate) fn internal(message: impl AsRef<str>) -> Self {
        let message = format!("Internal error occurred: {}", message.as_ref());
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The disk is full.
    pub(crate) fn insufficient_storage(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", message)
    }

    /// The server is going away.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// A patch that cannot be applied, in the words of whoever tried.
    pub(crate) fn patch(code: StatusCode, reason: &'static str, message: String) -> Self {
        Self::new(code, reason, message)
    }
}

//! The bodies of PATCH requests, applied to stored objects.
//!
//! Merge patch (RFC 7386) and JSON patch (RFC 6902) for everything, strategic merge patch for built-in kinds only:
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply>. Server-side apply is not offered.

mod json;
mod strategic;

use serde_json::Value;

use crate::schema::builtin::Builtin;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Kind of a patch, from its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The media type is not accepted for this resource.
    #[error("the body of the request was in an unknown format - accepted media types include: {accepted}")]
    MediaType {
        /// The accepted media types, comma separated.
        accepted: String,
    },
    /// The body is no patch.
    #[error("error decoding patch: {message}")]
    Decode {
        /// What is wrong with it.
        message: String,
    },
    /// Too many operations in one JSON patch.
    #[error("The allowed maximum operations in a JSON patch is {}, got {got}", json::MAX_OPERATIONS)]
    TooLarge {
        /// Operations found.
        got: usize,
    },
    /// A well-formed patch that does not fit the object: a failed test, a missing path, a list item without merge key.
    #[error("the server rejected our request due to an error in our request")]
    Rejected {
        /// What did not fit; goes into a cause with reason `UnexpectedServerResponse`.
        message: String,
    },
}

impl PatchError {
    /// HTTP status code of the answer.
    pub fn code(&self) -> u16 {
        match self {
            Self::MediaType { .. } => 415,
            Self::Decode { .. } => 400,
            Self::TooLarge { .. } => 413,
            Self::Rejected { .. } => 422,
        }
    }

    /// `Status.reason` of the answer.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MediaType { .. } => "UnsupportedMediaType",
            Self::Decode { .. } => "BadRequest",
            Self::TooLarge { .. } => "RequestEntityTooLarge",
            Self::Rejected { .. } => "Invalid",
        }
    }
}

impl PatchType {
    /// The kind of patch that a `Content-Type` announces, for a built-in kind or (`None`) a custom resource. Parameters
    /// after `;` are ignored.
    ///
    /// # Errors
    /// [`PatchError::MediaType`] if the resource does not accept it: custom resources have no strategic merge.
    pub fn negotiate(content_type: &str, kind: Option<Builtin>) -> Result<Self, PatchError> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type {
            JSON => Ok(Self::Json),
            MERGE => Ok(Self::Merge),
            STRATEGIC if kind.is_some() => Ok(Self::Strategic),
            _ => Err(unsupported(kind)),
        }
    }
}

/// The object that results from applying the patch text `body` to `object`, of a built-in kind or (`None`) a custom
/// resource. The result is not validated yet, and its `metadata` may have been changed in ways that the caller must undo.
///
/// # Errors
/// See [`PatchError`].
pub fn apply_patch(
    patch_type: PatchType,
    body: &[u8],
    object: &Value,
    kind: Option<Builtin>,
) -> Result<Value, PatchError> {
    let decode = |e: serde_json::Error| PatchError::Decode { message: e.to_string() };
    match patch_type {
        PatchType::Json => {
            let patch: json_patch::Patch = serde_json::from_slice(body).map_err(decode)?;
            json::apply(object, &patch.0)
        }
        PatchType::Merge => {
            let patch = decode_object(body)?;
            let mut patched = object.clone();
            json_patch::merge(&mut patched, &patch);
            Ok(patched)
        }
        PatchType::Strategic => {
            let kind = kind.ok_or_else(|| unsupported(None))?;
            strategic::merge(object, &decode_object(body)?, kind)
        }
    }
}

fn unsupported(kind: Option<Builtin>) -> PatchError {
    let strategic = kind.map(|_| STRATEGIC);
    let accepted = [JSON, MERGE].into_iter().chain(strategic).collect::<Vec<_>>().join(", ");
    PatchError::MediaType { accepted }
}

fn decode_object(body: &[u8]) -> Result<Value, PatchError> {
    let patch: Value = serde_json::from_slice(body).map_err(|e| PatchError::Decode { message: e.to_string() })?;
    if patch.is_object() { Ok(patch) } else { Err(PatchError::Decode { message: "expected an object".to_owned() }) }
}

#[cfg(test)]
mod tests;

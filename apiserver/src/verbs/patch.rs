//! patch: merge, JSON and strategic merge patches.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::prepare::{self, Part};
use super::update::replace;
use super::{Call, Reply};
use crate::http::body;
use crate::patch::{PatchError, PatchType, apply_patch};
use crate::schema;
use crate::status::ApiError;

/// Changes an object, or its status.
pub(crate) async fn patch(
    call: &Call<'_>,
    name: &str,
    part: Part,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<Reply, ApiError> {
    let kind = call.resource.builtin();
    let patch_type = PatchType::negotiate(body::content_type(headers), kind).map_err(|error| refusal(&error))?;
    let duplicates = schema::duplicate_fields(bytes);
    replace(call, name, part, Vec::new(), |old| {
        let shown = call.resource.outgoing_value(old);
        let patched = apply_patch(patch_type, bytes, &shown, kind).map_err(|error| refusal(&error))?;
        let object = prepare::decode(call.resource, patched)?;
        let (mut object, warnings) =
            prepare::admit(call.resource, call.query.field_validation, &duplicates, call.resource.incoming(object))?;
        prepare::place(call.resource, call.namespace, Some(name), &mut object)?;
        Ok((object, warnings))
    })
    .await
}

fn refusal(error: &PatchError) -> ApiError {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    ApiError::patch(code, error.reason(), error.to_string())
}

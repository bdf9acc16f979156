//! patch: merge, JSON and strategic merge patches.

use bytes::Bytes;
use http::HeaderMap;

use super::prepare::{self, Part};
use super::update::replace;
use super::{Call, Reply};
use crate::http::body;
use crate::patch::Patch;
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
    let patch = call.resource.parse_patch(body::content_type(headers), bytes)?;
    let duplicates = schema::duplicate_fields(bytes);
    replace(call, name, part, Vec::new(), |old| {
        let shown = call.resource.outgoing_value(old);
        let patched = apply(call, &patch, &shown)?;
        let object = prepare::decode(call.resource, patched)?;
        let (mut object, warnings) =
            prepare::admit(call.resource, call.query.field_validation, &duplicates, call.resource.incoming(object))?;
        prepare::place(call.resource, call.namespace, Some(name), &mut object)?;
        Ok((object, warnings))
    })
    .await
}

fn apply(call: &Call<'_>, patch: &Patch, object: &serde_json::Value) -> Result<serde_json::Value, ApiError> {
    let mut patched = object.clone();
    patch.apply(&mut patched).map_err(|error| call.resource.patch_error(&error))?;
    Ok(patched)
}

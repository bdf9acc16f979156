//! update: PUT of an object or of its status; and what patches share with it.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::prepare::{self, Part};
use super::{ATTEMPTS, Call, Reply, before_if_selectable};
use crate::admission::Operation;
use crate::http::body;
use crate::object::Object;
use crate::registry::Behavior;
use crate::schema;
use crate::status::ApiError;
use crate::store::{Mutation, Stored, WriteError};

/// Replaces an object, or its status.
pub(crate) async fn update(
    call: &Call<'_>,
    name: &str,
    part: Part,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<Reply, ApiError> {
    let object = prepare::decode(call.resource, body::parse(headers, bytes)?)?;
    let duplicates = schema::duplicate_fields(bytes);
    let (mut object, warnings) =
        prepare::admit(call.resource, call.query.field_validation, &duplicates, call.resource.incoming(object))?;
    prepare::place(call.resource, call.namespace, Some(name), &mut object)?;
    replace(call, name, part, warnings, |_| Ok((object.clone(), Vec::new()))).await
}

/// Puts what `make` makes of the stored object in its place; again, while somebody else is faster.
pub(super) async fn replace(
    call: &Call<'_>,
    name: &str,
    part: Part,
    mut warnings: Vec<String>,
    make: impl Fn(&Object) -> Result<(Object, Vec<String>), ApiError>,
) -> Result<Reply, ApiError> {
    for _ in 0..ATTEMPTS {
        let (stored, old) = call.load(name).await?;
        let (wanted, more_warnings) = make(&old)?;
        let mut new = prepare::for_update(call.resource, part, &old, wanted)?;
        if part == Part::Approval
            && let Some(signer) = call.core.signer.get()
        {
            signer.sign_if_needed(&mut new);
        }
        let causes = call.resource.schema.validate_update(new.value(), old.value(), part == Part::Status);
        call.refuse_if_any(name, causes)?;
        if part == Part::Main {
            call.judge(Operation::Update, &new, Some(&old))?;
        }
        call.enforce("UPDATE", part.subresource(), name, Some(&new), Some(&old))?;
        match store(call, name, &stored, &old, new.clone()).await {
            Ok(json) => {
                warnings.extend(more_warnings);
                warnings.extend(schema::finalizer_warnings(new.value(), Some(old.value())));
                return Ok(Reply::object(StatusCode::OK, json).with_warnings(warnings));
            }
            Err(Refused::Faster) => {}
            Err(Refused::Error(error)) => return Err(*error),
        }
    }
    Err(ApiError::modified(&call.resource.group, &call.resource.plural, name))
}

enum Refused {
    /// Another writer was faster.
    Faster,
    Error(Box<ApiError>),
}

async fn store(call: &Call<'_>, name: &str, stored: &Stored, old: &Object, mut new: Object) -> Result<Bytes, Refused> {
    let failed = |error: ApiError| Refused::Error(Box::new(error));
    let definition = call.core.settle_definition(call.resource, &mut new).map_err(failed)?;
    if new == *old {
        return Ok(stored.json.clone());
    }
    let (key, version) = (call.key(name), stored.version);
    let before = before_if_selectable(call.resource, stored, old, &new);
    let mutation = if !prepare::is_released(&new) {
        Mutation::Update { key, version, object: new, before, expires: call.expires() }
    } else if call.resource.behavior == Behavior::Namespace {
        Mutation::DeleteNamespace { key, version, object: new }
    } else {
        Mutation::Delete { key, version, object: new, before }
    };
    match call.write(mutation).await {
        Ok(json) => {
            if !call.query.dry_run {
                call.core.serve_definition(definition);
            }
            Ok(json)
        }
        Err(WriteError::Changed) => Err(Refused::Faster),
        Err(error) => Err(failed(call.write_error(name, error))),
    }
}

//! create

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::prepare;
use super::{Call, Reply};
use crate::admission::Operation;
use crate::http::body;
use crate::object::{Object, generate_name};
use crate::registry::Behavior;
use crate::schema;
use crate::signing;
use crate::status::ApiError;
use crate::store::{Mutation, WriteError};

/// Names that are tried before a request with `generateName` fails.
const NAME_ATTEMPTS: usize = 8;

/// Stores a new object.
pub(crate) async fn create(call: &Call<'_>, headers: &HeaderMap, bytes: &Bytes) -> Result<Reply, ApiError> {
    let object = prepare::decode(call.resource, body::parse(headers, bytes)?)?;
    let duplicates = schema::duplicate_fields(bytes);
    let (mut object, mut warnings) =
        prepare::admit(call.resource, call.query.field_validation, &duplicates, call.resource.incoming(object))?;
    prepare::place(call.resource, call.namespace, None, &mut object)?;
    warnings.extend(schema::finalizer_warnings(object.value(), None));
    prepare::for_create(call.resource, &mut object, jiff::Timestamp::now(), &uuid::Uuid::new_v4())?;
    if call.resource.behavior == Behavior::SigningRequest {
        signing::fill_in(&mut object, call.user);
    }
    let prefix = object.metadata().get("generateName").and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let is_generated = object.name().is_empty() && !prefix.is_empty();
    let mut attempts = if is_generated { NAME_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        if is_generated {
            object.metadata_mut().insert("name".to_owned(), json!(generate_name(&prefix)));
        }
        match store(call, object.clone()).await {
            Err(Refused::Taken) if attempts > 0 => {}
            Err(Refused::Taken) => return Err(call.write_error(object.name(), WriteError::Exists)),
            Err(Refused::Error(error)) => return Err(*error),
            Ok(json) => return Ok(Reply::object(StatusCode::CREATED, json).with_warnings(warnings)),
        }
    }
}

enum Refused {
    /// The name is taken.
    Taken,
    Error(Box<ApiError>),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Error(Box::new(error))
    }
}

async fn store(call: &Call<'_>, mut object: Object) -> Result<Bytes, Refused> {
    let causes = call.resource.schema.validate_create(object.value());
    call.refuse_if_any(object.name(), causes)?;
    call.judge(Operation::Create, &object, None)?;
    call.enforce("CREATE", "", object.name(), Some(&object), None)?;
    let definition = call.core.settle_definition(call.resource, &mut object)?;
    let name = object.name().to_owned();
    let mutation = Mutation::Create { key: call.key(&name), object, expires: call.expires() };
    if call.query.dry_run && call.core.store.get(&call.key(&name)).await.map_err(ApiError::from)?.is_some() {
        return Err(Refused::Taken);
    }
    match call.write(mutation).await {
        Ok(json) => {
            if !call.query.dry_run {
                call.core.serve_definition(definition);
            }
            Ok(json)
        }
        Err(WriteError::Exists) => Err(Refused::Taken),
        Err(error) => Err(call.write_error(&name, error).into()),
    }
}

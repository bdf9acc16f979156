//! Schema checks, the same for built-in kinds and custom resources.

use serde_json::Value;

use super::resource::Schema;
use crate::admission::Cause;

/// An object cannot be read as its kind.
#[derive(Debug)]
pub(crate) enum AdmitError {
    /// Its shape is wrong: 400.
    Decode(String),
    /// A field is wrong: 422.
    Cause(Cause),
}

impl Schema {
    /// Types, prunes and defaults an object. Returns the paths of fields that were removed.
    pub(crate) fn admit(&self, object: &mut Value) -> Result<Vec<String>, AdmitError> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Builtin(kind) => kind.admit(object).map_err(|error| AdmitError::Decode(error.to_string())),
            Self::Custom(schema) => schema.admit(object).map_err(AdmitError::Cause),
        }
    }

    pub(crate) fn validate_create(&self, object: &Value) -> Vec<Cause> {
        match self {
            Self::None => Vec::new(),
            Self::Builtin(kind) => kind.validate_create(object),
            Self::Custom(schema) => schema.validate_create(object),
        }
    }

    pub(crate) fn validate_update(&self, object: &Value, old: &Value, is_status: bool) -> Vec<Cause> {
        match self {
            Self::None => Vec::new(),
            Self::Builtin(kind) => kind.validate_update(object, old),
            Self::Custom(schema) if is_status => schema.validate_status_update(object, old),
            Self::Custom(schema) => schema.validate_update(object, old),
        }
    }
}

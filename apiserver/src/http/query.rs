//! Query options of requests.

use http::Uri;

use crate::status::ApiError;

/// What to do about fields that the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    Warn,
    /// Refuse the request.
    Strict,
}

/// The options that this server knows; others are ignored, as the real server does.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
    pub(crate) watch: bool,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) allow_watch_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    /// `includeObject` of tables: `None`, `Metadata` or `Object`.
    pub(crate) include_object: String,
    /// `hash` of OpenAPI documents: which state of them the client knows of.
    pub(crate) openapi_hash: Option<String>,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            label_selector: String::new(),
            field_selector: String::new(),
            resource_version: String::new(),
            resource_version_match: String::new(),
            watch: false,
            timeout_seconds: None,
            allow_watch_bookmarks: false,
            send_initial_events: None,
            dry_run: false,
            // The server's default: old clients send fields that are gone.
            field_validation: FieldValidation::Warn,
            propagation_policy: None,
            orphan_dependents: None,
            include_object: String::new(),
            openapi_hash: None,
        }
    }
}

impl Query {
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::bad_request(format!("query string: {error}")))?;
        let mut query = Self::default();
        for (key, value) in pairs.0 {
            query.set(&key, value)?;
        }
        Ok(query)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), ApiError> {
        match key {
            "labelSelector" => self.label_selector = value,
            "fieldSelector" => self.field_selector = value,
            "resourceVersion" => self.resource_version = value,
            "resourceVersionMatch" => self.resource_version_match = value,
            "watch" => self.watch = flag(&value),
            "timeoutSeconds" => self.timeout_seconds = Some(number(key, &value)?),
            "allowWatchBookmarks" => self.allow_watch_bookmarks = flag(&value),
            "sendInitialEvents" => self.send_initial_events = Some(flag(&value)),
            "dryRun" => self.dry_run = dry_run(&value)?,
            "fieldValidation" => self.field_validation = field_validation(&value)?,
            "propagationPolicy" => self.propagation_policy = Some(value).filter(|policy| !policy.is_empty()),
            "orphanDependents" => self.orphan_dependents = Some(flag(&value)),
            // Nothing here is deleted with grace; a value that is none is still an error.
            "gracePeriodSeconds" => drop(number::<i64>(key, &value)?),
            "includeObject" => self.include_object = value,
            "hash" => self.openapi_hash = Some(value),
            _ => {}
        }
        Ok(())
    }
}

/// A boolean as Go clients write it: `watch`, `watch=`, `watch=1` and `watch=true` are true.
fn flag(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "false" | "0")
}

fn number<N: std::str::FromStr>(key: &str, value: &str) -> Result<N, ApiError> {
    value.parse().map_err(|_| ApiError::bad_request(format!("query parameter {key}: {value:?} is no whole number")))
}

/// Whether `dryRun` is on; the only value that the API defines is `All`.
pub(crate) fn dry_run(value: &str) -> Result<bool, ApiError> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(ApiError::bad_request(format!("invalid dryRun value {other:?}: must be All"))),
    }
}

fn field_validation(value: &str) -> Result<FieldValidation, ApiError> {
    match value {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Ignore" => Ok(FieldValidation::Ignore),
        "Strict" => Ok(FieldValidation::Strict),
        other => Err(ApiError::bad_request(format!(
            "invalid fieldValidation value {other:?}: must be one of Ignore, Warn, Strict"
        ))),
    }
}

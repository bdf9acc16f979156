//! get and list

use bytes::Bytes;
use http::StatusCode;

use super::{Call, Reply};
use crate::http::query::Query;
use crate::object::Object;
use crate::registry::Resource;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::ApiError;

/// What label and field selectors of a request pick.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(crate) fn parse(resource: &Resource, query: &Query) -> Result<Self, ApiError> {
        let refuse = |error: crate::selector::SelectorError| ApiError::bad_request(error.to_string());
        Ok(Self {
            labels: LabelSelector::parse(&query.label_selector).map_err(refuse)?,
            fields: FieldSelector::parse(&query.field_selector, &resource.fields).map_err(refuse)?,
        })
    }

    /// Whether it picks everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub(crate) fn matches(&self, resource: &Resource, object: &Object) -> bool {
        self.labels.matches(object.value()) && self.fields.matches(object.value(), &resource.fields)
    }

    /// As [`Self::matches`], for stored text; no parsing where everything is picked.
    pub(crate) fn matches_json(&self, resource: &Resource, json: &[u8]) -> bool {
        self.is_everything() || Object::parse(json).is_ok_and(|object| self.matches(resource, &object))
    }
}

/// One object.
pub(crate) async fn get(call: &Call<'_>, name: &str) -> Result<Reply, ApiError> {
    let stored = call.core.store.get(&call.key(name)).await?.ok_or_else(|| call.not_found(name))?;
    Ok(Reply::object(StatusCode::OK, stored.json))
}

/// All objects that the selectors pick, and the version at which that was so.
pub(crate) async fn list(call: &Call<'_>) -> Result<(u64, Vec<Bytes>), ApiError> {
    let selection = Selection::parse(call.resource, call.query)?;
    check_version(call)?;
    let namespace = call.resource.is_namespaced.then_some(call.namespace).filter(|namespace| !namespace.is_empty());
    let listing = call.core.store.list(&call.resource.storage, namespace).await?;
    let mut items = listing.items;
    items.retain(|json| selection.matches_json(call.resource, json));
    Ok((listing.version, items))
}

/// A list is always the newest state, which is at least as new as any version that this server has given out.
fn check_version(call: &Call<'_>) -> Result<(), ApiError> {
    let text = &call.query.resource_version;
    if text.is_empty() {
        return Ok(());
    }
    let asked: u64 = text.parse().map_err(|_| invalid_version(text))?;
    let current = call.core.store.version();
    if asked > current {
        return Err(ApiError::version_too_large(asked, current));
    }
    if call.query.resource_version_match == "Exact" && asked != current {
        return Err(ApiError::expired(asked, current));
    }
    Ok(())
}

/// The real server's words for a resource version that is none.
pub(crate) fn invalid_version(text: &str) -> ApiError {
    ApiError::bad_request(format!("Invalid value: {text:?}: resourceVersion must be a decimal number"))
}

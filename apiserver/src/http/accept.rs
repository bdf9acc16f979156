//! Which form of an answer a client wants.

use http::{HeaderMap, header};

use crate::status::ApiError;

/// Forms of objects and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As stored.
    Object,
    /// `meta.k8s.io/v1` Table: what `kubectl get` prints.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata.
    Metadata,
}

/// Picks the first form of the `Accept` header that this server can write.
pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Form, ApiError> {
    let mut accepted = media_types(headers).peekable();
    if accepted.peek().is_none() {
        return Ok(Form::Object);
    }
    accepted.find_map(|media_type| form(&media_type)).ok_or_else(ApiError::not_acceptable)
}

/// Whether the client understands aggregated discovery (`apidiscovery.k8s.io/v2`).
pub(crate) fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    let mut accepted = media_types(headers);
    accepted.any(|media_type| {
        media_type.contains("as=APIGroupDiscoveryList")
            && media_type.contains("g=apidiscovery.k8s.io")
            && media_type.contains("v=v2;")
    })
}

fn media_types(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    // A `;` at the end makes each parameter of the type end with one.
    values.flat_map(|value| value.split(',')).map(|part| format!("{};", part.replace(' ', "")))
}

fn form(media_type: &str) -> Option<Form> {
    let (name, parameters) = media_type.split_once(';')?;
    if !matches!(name, "application/json" | "*/*" | "application/*") {
        return None;
    }
    let parameter = |key: &str| parameters.split(';').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    match (parameter("as"), parameter("v")) {
        (None, _) => Some(Form::Object),
        (Some("Table"), Some("v1")) => Some(Form::Table),
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => Some(Form::Metadata),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, http::HeaderValue::from_static(value));
        negotiate(&headers).ok()
    }

    #[test]
    fn the_first_form_that_is_known_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl), Some(Form::Table));
        assert_eq!(accept("application/vnd.kubernetes.protobuf, application/json"), Some(Form::Object));
        assert_eq!(accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), Some(Form::Metadata));
        assert_eq!(accept("*/*"), Some(Form::Object));
        assert_eq!(accept("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(negotiate(&HeaderMap::new()).ok(), Some(Form::Object));
    }
}

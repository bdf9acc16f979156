//! OpenAPI documents, made from the stored definitions when they are asked for and not kept: kubectl caches them.
//!
//! The index names each document with a hash of what it is made from, and a document that is asked for by the current
//! hash may be kept for ever, as the real server has it. So kubectl asks once, not at each `create`.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, header};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::http::respond;
use crate::openapi::{self, ServedResource};
use crate::schema::builtin::Builtin;
use crate::server::Core;
use crate::status::ApiError;

/// Where definitions are filed.
const DEFINITION_STORAGE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// A year, and no asking whether it is still so.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

async fn definitions(core: &Core) -> Result<Vec<CustomResourceDefinition>, ApiError> {
    let listing = core.store.list(DEFINITION_STORAGE, None).await?;
    Ok(listing.items.iter().filter_map(|json| serde_json::from_slice(json).ok()).collect())
}

fn served(definitions: &[CustomResourceDefinition]) -> Vec<ServedResource<'_>> {
    let custom = definitions.iter().flat_map(|crd| {
        let versions = crd.spec.versions.iter().filter(|version| version.served);
        versions.map(move |version| ServedResource::Custom { crd, version: &version.name })
    });
    Builtin::ALL.into_iter().map(ServedResource::Builtin).chain(custom).collect()
}

/// Changes when a document may: with this program, and with the definitions.
fn hash(definitions: &[CustomResourceDefinition]) -> String {
    let mut text = env!("CARGO_PKG_VERSION").to_owned();
    for crd in definitions {
        let metadata = &crd.metadata;
        for part in [&metadata.uid, &metadata.resource_version] {
            text.push('/');
            text.push_str(part.as_deref().unwrap_or_default());
        }
    }
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()
}

/// `GET /openapi/v3` and the documents below it; `asked` is the hash in the query.
pub(crate) async fn openapi_v3(
    core: &Arc<Core>,
    path: Option<&str>,
    asked: Option<&str>,
) -> Result<Response<Body>, ApiError> {
    let definitions = definitions(core).await?;
    let served = served(&definitions);
    let hash = hash(&definitions);
    let Some(path) = path else {
        let mut index = openapi::index(&served);
        for url in index["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
            let with_hash = format!("{}?hash={hash}", url["serverRelativeURL"].as_str().unwrap_or_default());
            url["serverRelativeURL"] = with_hash.into();
        }
        return Ok(respond::ok(&index));
    };
    let document = openapi::document_v3(path, &served).ok_or_else(ApiError::no_such_resource)?;
    let mut response = respond::ok(&document);
    if asked == Some(hash.as_str()) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOR_EVER));
    }
    Ok(response)
}

/// `GET /openapi/v2`, as protobuf where that is asked for first: kubectl takes nothing else.
pub(crate) async fn openapi_v2(core: &Arc<Core>, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let is_protobuf = accept.trim_start().starts_with(openapi::V2_PROTOBUF);
    if !is_protobuf && !accept.contains("json") && !accept.contains("*/*") {
        return Err(ApiError::not_acceptable());
    }
    let definitions = definitions(core).await?;
    let served = served(&definitions);
    if !is_protobuf {
        return Ok(respond::ok(&openapi::document_v2(&served)));
    }
    let mut response = Response::new(Body::from(openapi::document_v2_protobuf(&served)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(openapi::V2_PROTOBUF_CONTENT));
    Ok(response)
}

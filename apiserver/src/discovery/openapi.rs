//! OpenAPI documents, made from the stored definitions when they are asked for and not kept: kubectl caches them.

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

/// `GET /openapi/v3` and the documents below it.
pub(crate) async fn openapi_v3(core: &Arc<Core>, path: Option<&str>) -> Result<Response<Body>, ApiError> {
    let definitions = definitions(core).await?;
    let served = served(&definitions);
    let document = match path {
        None => Some(openapi::index(&served)),
        Some(path) => openapi::document_v3(path, &served),
    };
    document.map(|document| respond::ok(&document)).ok_or_else(ApiError::no_such_resource)
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

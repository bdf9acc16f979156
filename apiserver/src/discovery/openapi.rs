//! OpenAPI documents, made from the stored definitions when they are asked for and not kept: kubectl caches them.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, Response, header};
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

/// `GET /openapi/v2`. Clients that take nothing but protobuf are told so.
pub(crate) async fn openapi_v2(core: &Arc<Core>, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    if !accept.contains("json") && !accept.contains("*/*") {
        return Err(ApiError::not_acceptable());
    }
    let definitions = definitions(core).await?;
    Ok(respond::ok(&openapi::document_v2(&served(&definitions))))
}

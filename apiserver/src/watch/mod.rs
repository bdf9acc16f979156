//! Watches: what happened to a resource since a version, then what happens.
//!
//! A watch reads the log that the writer commits with each change; there is no second path for live events, so none
//! can be missed, doubled or put in another order. Between changes it sleeps: the writer's notice, the next bookmark
//! or its end wake it.
//!
//! ```text
//! initial state (if asked for) -> log after version v -> [wait] -> log after v' -> ... -> end of time, shutdown, or 410
//! ```

mod event;
mod stream;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Response, header};

use crate::http::accept::Form;
use crate::http::query::Query;
use crate::registry::Resource;
use crate::server::Core;
use crate::status::ApiError;
use crate::verbs::read::{Selection, invalid_version};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what is there, each object as ADDED.
    Now {
        /// Whether a bookmark marks the end of it (`sendInitialEvents`).
        mark_end: bool,
    },
    /// With what happened after a version.
    After(u64),
}

impl Start {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        let wants_initial = query.send_initial_events == Some(true);
        if wants_initial && query.resource_version_match != "NotOlderThan" {
            return Err(ApiError::bad_request(
                "sendInitialEvents requires resourceVersionMatch=NotOlderThan (and allowWatchBookmarks=true)",
            ));
        }
        match query.resource_version.as_str() {
            _ if wants_initial => Ok(Self::Now { mark_end: query.allow_watch_bookmarks }),
            "" | "0" => Ok(Self::Now { mark_end: false }),
            text => text.parse().map(Self::After).map_err(|_| invalid_version(text)),
        }
    }
}

/// The streaming answer to a watch.
pub(crate) fn response(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    namespace: &str,
    query: &Query,
    start: Start,
    form: Form,
) -> Result<Response<Body>, ApiError> {
    let watch = stream::Watch::new(core, resource, namespace, Selection::parse(resource, query)?, query, start, form);
    let mut response = Response::new(Body::from_stream(watch.into_stream()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

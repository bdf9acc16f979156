//! HTTP as Kubernetes speaks it: paths, query options, media types, bodies. No decisions about objects.

pub(crate) mod accept;
pub(crate) mod body;
mod protobuf;
pub(crate) mod query;
pub(crate) mod render;
pub(crate) mod respond;
pub(crate) mod route;

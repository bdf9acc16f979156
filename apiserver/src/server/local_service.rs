//! The in-process transport: the server as a `tower::Service`, without TLS and sockets.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};

use super::Core;
use crate::auth::User;

/// A transport for `kube::Client::new`, authenticated as one user. Watches stream; upgrades need the TLS listener.
#[derive(Clone)]
pub struct LocalService {
    core: Arc<Core>,
    user: User,
}

impl LocalService {
    pub(super) fn new(core: Arc<Core>, user: User) -> Self {
        Self { core, user }
    }
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.user.clone());
        let core = Arc::clone(&self.core);
        Box::pin(async move { Ok(core.handle(request).await) })
    }
}

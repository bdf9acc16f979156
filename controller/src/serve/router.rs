//! Which path is answered by whom.

use std::sync::Arc;

use api::names::{SUBRESOURCE_GROUP, VERSION};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use kube::Client;
use lobby::Guest;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;

use super::authorize::{Target, authorize};
use super::connection::ShownCertificates;
use super::front_proxy::FrontProxy;
use super::{discovery, webhook};
use crate::console::{self, Caller, GuestConsole};
use crate::refusal::Refusal;

/// Largest review: two objects of the size that etcd takes, and room.
const MOST_REVIEW_BYTES: usize = 4 << 20;

#[derive(Clone)]
struct Gate {
    client: Client,
    front_proxy: watch::Receiver<Option<Arc<FrontProxy>>>,
}

/// All routes. Only the webhook is open to whoever reaches the port: it tells nothing that the caller has not brought along.
pub(super) fn make(
    client: Client,
    guests: Arc<dyn GuestConsole>,
    front_proxy: watch::Receiver<Option<Arc<FrontProxy>>>,
) -> Router {
    let gate = Gate { client: client.clone(), front_proxy };
    let group = format!("/apis/{SUBRESOURCE_GROUP}");
    let aggregated = Router::new()
        .route("/apis", get(async || axum::Json(discovery::groups())))
        .route(&group, get(async || axum::Json(discovery::group())))
        .route(&format!("{group}/{VERSION}"), get(async || axum::Json(discovery::resources())))
        .merge(console::router(client, guests))
        .fallback(async || Refusal::not_found("the server could not find the requested resource"))
        .layer(middleware::from_fn_with_state(gate, enter));
    Router::new()
        .route("/validate", post(webhook::validate).layer(DefaultBodyLimit::max(MOST_REVIEW_BYTES)))
        .fallback_service(aggregated)
}

/// Lets in whom the API server names, to what that user may.
async fn enter(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let (caller, target) = match gate.identify(&request) {
        Ok(identified) => identified,
        Err(refusal) => return refusal.into_response(),
    };
    if let Some(target) = target
        && let Err(refusal) = authorize(&gate.client, &caller, &target).await
    {
        return refusal.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

impl Gate {
    /// Who asks, and about which subresource if about any.
    fn identify(&self, request: &Request) -> Result<(Caller, Option<Target>), Refusal> {
        let path = request.uri().path();
        let front_proxy = self.front_proxy.borrow().clone();
        let front_proxy = front_proxy
            .ok_or_else(|| Refusal::unavailable("how the API server proves itself is not known here (yet)"))?;
        let shown = request.extensions().get::<ShownCertificates>();
        let shown = shown.map(|shown| Arc::clone(&shown.0)).unwrap_or_default();
        let caller = front_proxy.authenticate(&shown, request.headers(), UnixTime::now()).map_err(|stranger| {
            tracing::debug!(path, %stranger, "refused");
            Refusal::unauthorized()
        })?;
        if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
            guest.leave();
        }
        let target = Target::of_path(path);
        if target.is_none() && path.contains("/namespaces/") {
            // Whatever it is, nobody could be asked whether the user may.
            return Err(Refusal::not_found("the server could not find the requested resource"));
        }
        Ok((caller, target))
    }
}

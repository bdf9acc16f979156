//! Takes connections: TLS with the certificate of the moment, then HTTP/1.1 or HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use api::chain;

use super::certificates::Material;
use super::tls::server_config;

/// How long a client may take for its handshake, and for the head of a request. Whoever reaches the pod reaches this port.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time. An API server keeps a few open and adds one for each console.
const MOST_CONNECTIONS: usize = 1024;
/// Requests of one HTTP/2 connection at a time.
const MAX_CONCURRENT_STREAMS: u32 = 250;
/// How long to wait when the system has no file descriptor left.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(200);

/// The certificates that a client has shown, and has the key of. What they are worth is for others to say.
#[derive(Clone, Debug)]
pub(super) struct ShownCertificates(pub(super) Arc<[CertificateDer<'static>]>);

/// Serves connections until `cancel`.
pub(super) async fn serve(
    listener: &TcpListener,
    router: Router,
    mut material: watch::Receiver<Option<Arc<Material>>>,
    connections: TaskTracker,
    cancel: CancellationToken,
) {
    // The sender goes only with the whole server.
    let Ok(_) = material.wait_for(Option::is_some).await else { return };
    tracing::info!(address = ?listener.local_addr().ok(), "serving webhook and aggregated API");
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut shown = Shown::default();
    loop {
        // No permit, no accept: the rest waits in the system's queue.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let newest = material.borrow_and_update().clone();
                let Some(acceptor) = shown.acceptor(newest) else { continue };
                connections.spawn(connection(acceptor, socket, router.clone(), cancel.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}

/// TLS for the certificates of the moment, made once for each.
#[derive(Default)]
struct Shown {
    of: Option<Arc<Material>>,
    config: Option<Arc<ServerConfig>>,
}

impl Shown {
    fn acceptor(&mut self, material: Option<Arc<Material>>) -> Option<TlsAcceptor> {
        if let Some(material) = material
            && self.of.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &material))
        {
            match server_config(&material) {
                Ok(config) => self.config = Some(Arc::new(config)),
                Err(error) => tracing::warn!(error = chain(&error), "cannot show the new certificate"),
            }
            self.of = Some(material);
        }
        self.config.clone().map(TlsAcceptor::from)
    }
}

/// Serves a connection until it ends. A stream that it was upgraded to keeps the permit no longer.
async fn connection(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    router: Router,
    cancel: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    // Without it a small answer waits for the acknowledgement of the last one.
    let _ = socket.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = ShownCertificates(certificates.iter().map(|certificate| certificate.clone().into_owned()).collect());
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(shown.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_CONCURRENT_STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "connection ended");
    }
}

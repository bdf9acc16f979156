//! One connection: who is there, by TLS or by the socket's owner, then HTTP/1.1 or HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lobby::Guest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::Core;
use crate::auth::{User, from_bearer, from_certificate};
use crate::status::ApiError;

/// How long a client may take for its handshake, and for the head of a request. Guests may reach this port.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the end of a certificate is held against the clock.
const LOOK_AT_CLOCK: Duration = Duration::from_mins(1);

/// Requests of one HTTP/2 connection at a time; each watch is one.
const MAX_CONCURRENT_STREAMS: u32 = 250;

/// What a connection itself says of who is there.
struct Shown {
    user: Option<User>,
    /// Until when that is to be believed.
    until: Option<jiff::Timestamp>,
    /// For the log.
    peer: String,
}

/// Serves a connection until it ends, until its requests are answered after shutdown began, or until another stranger takes its place.
pub(super) async fn serve(
    core: Arc<Core>,
    acceptor: TlsAcceptor,
    socket: TcpStream,
    peer: SocketAddr,
    guest: Arc<Guest>,
) {
    tokio::select! {
        () = talk(core, acceptor, socket, peer, Arc::clone(&guest)) => {}
        () = guest.shown_out() => tracing::debug!(%peer, "closed: not authenticated, and others wait"),
    }
}

async fn talk(core: Arc<Core>, acceptor: TlsAcceptor, socket: TcpStream, peer: SocketAddr, guest: Arc<Guest>) {
    // Without it a small answer waits for the acknowledgement of the last one.
    let _ = socket.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let shown = certificates.and_then(|chain| chain.first()).and_then(from_certificate);
    let (user, until) = shown.map_or((None, None), |(user, until)| (Some(user), Some(until)));
    answer_requests(core, stream, Shown { user, until, peer: peer.to_string() }, guest).await;
}

/// Serves a connection of the unix socket. Whoever the file's mode lets in is an administrator.
pub(super) async fn serve_local(core: Arc<Core>, socket: UnixStream, guest: Arc<Guest>) {
    let Ok(peer) = socket.peer_cred() else { return };
    let peer = format!("unix:{}", peer.uid());
    answer_requests(core, socket, Shown { user: Some(User::system(&peer)), until: None, peer }, guest).await;
}

/// Answers requests until the connection ends.
async fn answer_requests<S>(core: Arc<Core>, stream: S, shown: Shown, guest: Arc<Guest>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Shown { user, until, peer } = shown;
    let shutdown = core.shutdown.clone();
    // Whoever is nobody is told so, and may not hold the connection.
    if user.is_some() {
        guest.leave();
    }
    let asker = Arc::clone(&guest);
    let service = service_fn(move |request| {
        let (core, user, guest) = (Arc::clone(&core), user.clone(), Arc::clone(&asker));
        async move {
            if until.is_some_and(|until| jiff::Timestamp::now() > until) {
                return Ok::<_, Infallible>(ApiError::unauthorized().to_response());
            }
            Ok(answer(core, user, &guest, request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_CONCURRENT_STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = expire(&guest) => return,
        // With its watches: who shows a newer certificate connects anew.
        () = end_of(until) => return,
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Returns when nobody who is known has asked for a while; never once somebody has.
async fn expire(guest: &Guest) {
    tokio::time::sleep(HANDSHAKE_TIMEOUT).await;
    if guest.has_left() {
        std::future::pending::<()>().await;
    }
}

/// Returns when a certificate has ended, by the clock of the wall, which sleeping does not follow.
async fn end_of(until: Option<jiff::Timestamp>) {
    let Some(until) = until else { return std::future::pending().await };
    loop {
        let left = Duration::try_from(until.duration_since(jiff::Timestamp::now())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AT_CLOCK)).await;
    }
}

/// `user`: whom the connection's certificate names. Without one, a token of the request may.
async fn answer(
    core: Arc<Core>,
    user: Option<User>,
    guest: &Guest,
    request: Request<Incoming>,
) -> http::Response<Body> {
    let user = match user {
        Some(user) => user,
        None if request.headers().contains_key(header::AUTHORIZATION) => {
            let Some(user) = from_bearer(request.headers(), &core.store).await else {
                return ApiError::unauthorized().to_response();
            };
            guest.leave();
            user
        }
        None => User::anonymous(),
    };
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(user);
    core.handle(request).await
}

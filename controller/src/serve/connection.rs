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
use lobby::{Guest, Lobby};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use api::chain;

use super::certificates::Material;
use super::talk::{PATIENCE, Talk};
use super::tls::server_config;

/// Connections at a time that have not been the API server's aggregator; the one that was silent the longest makes room. Whoever reaches the pod reaches
/// this port, and the API server calls the webhook without saying who it is, on a few connections.
const STRANGERS: usize = 256;
/// Requests of one HTTP/2 connection at a time.
const MAX_CONCURRENT_STREAMS: u32 = 250;
/// An HTTP/2 peer that is gone without a word is noticed after both.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection that has to go may take to answer what it was asked.
const LAST_ANSWER: Duration = Duration::from_secs(1);
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
    let lobby = Lobby::new(STRANGERS);
    let mut shown = Shown::default();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let newest = material.borrow_and_update().clone();
                let Some(acceptor) = shown.acceptor(newest) else { continue };
                connections.spawn(connection(acceptor, socket, router.clone(), cancel.clone(), lobby.enter()));
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

/// Serves a connection until it ends, falls silent, or has to make room. A stream that it was upgraded to is none of these.
async fn connection(acceptor: TlsAcceptor, socket: TcpStream, router: Router, cancel: CancellationToken, guest: Guest) {
    // Without it a small answer waits for the acknowledgement of the last one.
    let _ = socket.set_nodelay(true);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(PATIENCE, acceptor.accept(socket)) => shaken,
        () = guest.shown_out() => return,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = ShownCertificates(certificates.iter().map(|certificate| certificate.clone().into_owned()).collect());
    let (guest, talk) = (Arc::new(guest), Arc::new(Talk::begin()));
    let (asker, questions) = (Arc::clone(&guest), Arc::clone(&talk));
    let service = service_fn(move |request: Request<Incoming>| {
        asker.touch();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(shown.clone());
        request.extensions_mut().insert(Arc::clone(&asker));
        let (router, talk) = (router.clone(), Arc::clone(&questions));
        async move {
            let _asked = talk.asked();
            Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = first_of(talk.fallen_silent(&guest), guest.shown_out()) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "connection ended");
    }
}

/// Returns when either does.
async fn first_of(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::super::tls::agent_client_config;
    use super::*;

    struct Served {
        address: std::net::SocketAddr,
        shown: watch::Sender<Option<Arc<Material>>>,
        cancel: CancellationToken,
        server: tokio::task::JoinHandle<()>,
    }

    /// A server that answers `judged`.
    async fn start(material: Material) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shown, newest) = watch::channel(Some(Arc::new(material)));
        let router = Router::new().route("/validate", post(async || "judged"));
        let cancel = CancellationToken::new();
        let server = tokio::spawn({
            let cancel = cancel.clone();
            async move { serve(&listener, router, newest, TaskTracker::new(), cancel).await }
        });
        Served { address, shown, cancel, server }
    }

    impl Served {
        /// A connection of a client that trusts the material's authority.
        async fn connect(&self, material: &Material) -> TlsStream<TcpStream> {
            let config = agent_client_config(&material.client, &material.authorities[0]).unwrap();
            let socket = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("ovm-controller.kubevirt-system.svc").unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
        }

        async fn end(self) {
            self.cancel.cancel();
            self.server.await.unwrap();
        }
    }

    /// Asks, and leaves the connection open.
    async fn ask(stream: &mut TlsStream<TcpStream>) {
        let head = "POST /validate HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"judged") {
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read_buf(&mut answer)).await;
            assert!(matches!(read, Ok(Ok(1..))), "{read:?} after {}", String::from_utf8_lossy(&answer));
        }
    }

    fn is_shown(stream: &TlsStream<TcpStream>, material: &Material) -> bool {
        let own = CertificateDer::from_pem_slice(material.serving.certificate.as_bytes()).unwrap();
        stream.get_ref().1.peer_certificates().is_some_and(|shown| shown == [own])
    }

    #[tokio::test]
    async fn strangers_that_say_nothing_do_not_block_the_webhook() {
        let material = Material::make(jiff::Timestamp::now()).unwrap();
        let served = start(material.clone()).await;
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS {
            strangers.push(served.connect(&material).await);
        }
        ask(&mut served.connect(&material).await).await;
        let mut oldest = strangers.swap_remove(0);
        let end = tokio::time::timeout(Duration::from_secs(5), oldest.read(&mut [0])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "the oldest makes room: {end:?}");
        served.end().await;
    }

    #[tokio::test]
    async fn a_new_certificate_is_shown_to_new_connections_and_an_old_one_goes_on() {
        let [first, second] = [(); 2].map(|()| Material::make(jiff::Timestamp::now()).unwrap());
        let served = start(first.clone()).await;
        let mut old = served.connect(&first).await;
        ask(&mut old).await;
        served.shown.send_replace(Some(Arc::new(second.clone())));
        let mut new = served.connect(&second).await;
        assert!(is_shown(&old, &first) && is_shown(&new, &second));
        ask(&mut new).await;
        ask(&mut old).await;
        // One that cannot be shown takes the place of none.
        let mut broken = first.clone();
        broken.serving.key.clone_from(&second.client.key);
        served.shown.send_replace(Some(Arc::new(broken)));
        assert!(is_shown(&served.connect(&second).await, &second));
        ask(&mut old).await;
        served.end().await;
    }
}

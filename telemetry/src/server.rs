//! The HTTP server: three paths, GET only, plain HTTP, one request a connection, a bounded number of connections of which the oldest makes room. Whoever
//! reaches the port may ask, and nobody may keep the kubelet out: it would have the program killed.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lobby::Lobby;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Health;

/// Connections at a time. A scraper and a kubelet have one each.
const CONNECTIONS: usize = 32;
/// A connection that has not been asked and answered by then is closed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// What OpenMetrics calls its text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is served.
pub struct Server {
    registry: Registry,
    refresh: Box<dyn Fn() + Send + Sync>,
    health: Health,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for metrics; give --metrics-listen an address of this host and a free port")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("health", &self.health).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves `registry`, after `refresh` has written what is not counted as it happens. `refresh` must not block.
    pub fn new(registry: Registry, health: Health, refresh: impl Fn() + Send + Sync + 'static) -> Self {
        Self { registry, refresh: Box::new(refresh), health }
    }

    /// Listens, and serves in the background until `cancel`. Gives the address, which matters for port 0.
    ///
    /// # Errors
    /// If the address is not this host's, or taken.
    pub async fn listen(self, address: SocketAddr, cancel: CancellationToken) -> Result<SocketAddr, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        tokio::spawn(cancel.run_until_cancelled_owned(accept(listener, Arc::new(self))));
        tracing::info!(address = %local, "metrics and health are served");
        Ok(local)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" | "/livez" => verdict(&self.health.stuck()),
            "/readyz" => verdict(&self.health.missing()),
            _ => text(StatusCode::NOT_FOUND, "there is /metrics, /healthz and /readyz\n".to_owned()),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        (self.refresh)();
        let mut body = String::new();
        // Writing to a string never fails.
        if encode(&mut body, &self.registry).is_err() {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "cannot write the metrics\n".to_owned());
        }
        let mut response = text(StatusCode::OK, body);
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(METRICS_TYPE));
        response
    }
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    let connections = Lobby::new(CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (server, guest) = (Arc::clone(&server), connections.enter());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = server.answer(&request);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(DEADLINE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // Whoever hangs up has what it wanted.
                _ = tokio::time::timeout(DEADLINE, connection) => {}
                () = guest.shown_out() => {}
            }
        });
    }
}

/// 200 if there is nothing to say.
fn verdict(lines: &[String]) -> Response<Full<Bytes>> {
    if lines.is_empty() {
        text(StatusCode::OK, "ok\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, lines.join("\n") + "\n")
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served_and_end_with_the_process() {
        let (mut registry, health, cancel) = (Registry::default(), Health::default(), CancellationToken::new());
        let scrapes = Counter::<u64>::default();
        registry.register("scrapes", "How often", scrapes.clone());
        let server = Server::new(registry, health.clone(), move || {
            scrapes.inc();
        });
        let address = server.listen("127.0.0.1:0".parse().unwrap(), cancel.clone()).await.unwrap();

        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("openmetrics-text") && metrics.contains("scrapes_total 1\n# EOF\n"), "{metrics}");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.set("watches", Err("not listed yet".to_owned()));
        let unready = get(address, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503") && unready.ends_with("watches: not listed yet\n"), "{unready}");
        assert!(get(address, "/healthz").await.ends_with("ok\n"), "not ready is no reason to be restarted");
        assert!(get(address, "/debug").await.starts_with("HTTP/1.1 404"));
        let mut strangers = Vec::new();
        for _ in 0..CONNECTIONS + 8 {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            // What it asked is answered, or it had to make room.
            let _ = stranger.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
            strangers.push(stranger);
        }
        for _ in 0..CONNECTIONS + 8 {
            strangers.push(TcpStream::connect(address).await.unwrap());
        }
        let probe = tokio::time::timeout(Duration::from_secs(1), get(address, "/healthz")).await;
        assert!(probe.expect("the kubelet waits a second").ends_with("ok\n"), "strangers keep nobody out");
        let mut twice = TcpStream::connect(address).await.unwrap();
        twice.write_all(&b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2)).await.unwrap();
        let mut answer = Vec::new();
        // The second request may be unread when the connection ends.
        let _ = twice.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "one request a connection: {answer}");

        let taken = Server::new(Registry::default(), health, || {}).listen(address, cancel.clone()).await;
        assert!(taken.unwrap_err().to_string().contains("--metrics-listen"));
        cancel.cancel();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

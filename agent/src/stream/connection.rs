//! Takes the controller's connections, and turns each into one guest's bytes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::chain;
use api::subresources::AGENT_STREAM_PROTOCOL;
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lobby::{Guest, Lobby};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use crate::consoles::{ConsoleError, Consoles, DuplexStream};

/// How long a client may take for its handshake, and for its request. Whoever reaches the pod reaches this port.
const PATIENCE: Duration = Duration::from_secs(5);
/// The controller's connections at a time, streams included.
const MOST_CONNECTIONS: usize = 128;
/// Handshakes at a time. Who is not the controller gets no further, and holds no place that the controller needs.
const STRANGERS: usize = 64;
/// How long to wait when the system has no file descriptor left.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(200);
/// A controller that is gone without a word is noticed after 20 + 4 * 5 s; its console is free for others then.
const KEEP_ALIVE: (u32, u32, u32) = (20, 5, 4);

type Answer = Response<Full<Bytes>>;

/// The channel of a guest that a path names.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'p> {
    namespace: &'p str,
    name: &'p str,
    uid: &'p str,
    channel: Channel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Console,
    Vnc,
}

impl<'p> Wanted<'p> {
    /// Names need no escapes, so a path with one names nothing.
    fn of_path(path: &'p str) -> Option<Self> {
        let parts: Vec<_> = path.strip_prefix("/guests/")?.split('/').collect();
        let &[namespace, name, uid, channel] = parts.as_slice() else { return None };
        let channel = match channel {
            "console" => Channel::Console,
            "vnc" => Channel::Vnc,
            _ => return None,
        };
        Some(Self { namespace, name, uid, channel })
    }
}

/// Serves connections until it is dropped, and all streams with it.
pub(super) async fn serve(
    listener: &TcpListener,
    trusted: watch::Receiver<Option<Arc<ServerConfig>>>,
    consoles: Consoles,
) {
    let (room, lobby) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), Lobby::new(STRANGERS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
                continue;
            }
        };
        // Nobody is trusted yet: the connection is closed.
        let Some(config) = trusted.borrow().clone() else { continue };
        let shaken = shake(TlsAcceptor::from(config), socket, lobby.enter(), Arc::clone(&room));
        let consoles = consoles.clone();
        connections.spawn(async move {
            if let Some((stream, permit)) = shaken.await {
                connection(stream, consoles, permit).await;
            }
        });
    }
}

/// The handshake, which the controller alone gets through, and then one of its places.
async fn shake(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    guest: Guest,
    room: Arc<Semaphore>,
) -> Option<(TlsStream<TcpStream>, OwnedSemaphorePermit)> {
    if let Err(error) = prepare(&socket) {
        debug!(%error, "cannot set up a connection");
        return None;
    }
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(PATIENCE, acceptor.accept(socket)) => shaken.ok()?,
        () = guest.shown_out() => return None,
    };
    let stream = shaken.inspect_err(|error| debug!(%error, "TLS handshake failed")).ok()?;
    guest.leave();
    let permit = tokio::time::timeout(PATIENCE, room.acquire_owned()).await.ok()?.ok()?;
    Some((stream, permit))
}

/// One connection of the controller: one request, and the stream that it asks for.
async fn connection(stream: TlsStream<TcpStream>, consoles: Consoles, permit: OwnedSemaphorePermit) {
    let permit = Arc::new(permit);
    let service = service_fn(move |request| {
        let (consoles, permit) = (consoles.clone(), Arc::clone(&permit));
        async move { Ok::<_, Infallible>(answer(&consoles, request, permit).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        debug!(error = chain(&error), "connection ended");
    }
}

fn prepare(socket: &TcpStream) -> Result<(), nix::errno::Errno> {
    let (idle, interval, count) = KEEP_ALIVE;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(socket, sockopt::TcpKeepCount, &count)?;
    // Without it a key waits for the acknowledgement of the last one.
    setsockopt(socket, sockopt::TcpNoDelay, &true)
}

async fn answer(consoles: &Consoles, mut request: Request<Incoming>, permit: Arc<OwnedSemaphorePermit>) -> Answer {
    let is_upgrade = request.headers().get(UPGRADE).is_some_and(|wanted| wanted == AGENT_STREAM_PROTOCOL);
    let path = request.uri().path().to_owned();
    let wanted = Wanted::of_path(&path).filter(|_| is_upgrade && request.method() == Method::GET);
    let Some(wanted) = wanted else {
        return refuse(StatusCode::BAD_REQUEST, "this is no request for a guest's channel".to_owned());
    };
    let opened = match wanted.channel {
        Channel::Console => consoles.open_serial(wanted.namespace, wanted.name, wanted.uid).await,
        Channel::Vnc => consoles.open_display(wanted.namespace, wanted.name, wanted.uid).await,
    };
    let guest = match opened {
        Ok(guest) => guest,
        Err(error @ ConsoleError::NotHere { .. }) => return refuse(StatusCode::NOT_FOUND, chain(&error)),
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, chain(&error)),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => copy(TokioIo::new(upgraded), guest).await,
            Err(error) => debug!(error = chain(&error), "the controller went before the upgrade"),
        }
        drop(permit);
    });
    let mut switching = Response::new(Full::default());
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    switching.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    switching.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(AGENT_STREAM_PROTOCOL));
    switching
}

fn refuse(code: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = code;
    answer
}

/// Copies both ways until either end closes, then closes the other.
async fn copy(controller: TokioIo<hyper::upgrade::Upgraded>, guest: Box<dyn DuplexStream>) {
    let (mut from_controller, mut to_controller) = tokio::io::split(controller);
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let result = tokio::select! {
        result = tokio::io::copy(&mut from_guest, &mut to_controller) => result,
        result = tokio::io::copy(&mut from_controller, &mut to_guest) => result,
    };
    if let Err(error) = result {
        debug!(%error, "stream ended");
    }
    // The controller may be gone already: then there is nobody to tell.
    let _ = to_controller.shutdown().await;
}

#[cfg(test)]
mod tests {
    use api::names::AGENT_TLS_NAME;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::AsyncReadExt as _;
    use tokio_rustls::TlsConnector;

    use super::super::certificate::OwnCertificate;
    use super::*;
    use crate::libvirt::{Libvirt, LibvirtOptions};
    use crate::node::VmCache;

    #[tokio::test]
    async fn strangers_that_say_nothing_do_not_keep_the_controller_out() {
        let own = OwnCertificate::make().unwrap();
        // An authority that has vouched for itself alone: its own certificate is the controller's here.
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let authority = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let client_key = rcgen::KeyPair::generate().unwrap();
        let mut client = rcgen::CertificateParams::default();
        client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let client = client.signed_by(&client_key, &issuer).unwrap();
        let trusted = own.server_config(&authority.pem()).unwrap();
        let (_trusted, newest) = watch::channel(Some(Arc::new(trusted)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let libvirt = Libvirt::connect(LibvirtOptions::new("test:///default")).await.unwrap();
        let consoles = Consoles { libvirt, vms: VmCache::default() };
        let server = tokio::spawn(async move { serve(&listener, newest, consoles).await });
        let mut strangers = Vec::new();
        for _ in 0..200 {
            strangers.push(TcpStream::connect(address).await.unwrap());
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(own.pem().as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![client.der().clone()], PrivateKeyDer::Pkcs8(client_key.serialize_der().into()))
            .unwrap();
        let asked = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(AGENT_TLS_NAME).unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
            let path = api::subresources::agent_path("ns", "vm", "uid", "console");
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {AGENT_STREAM_PROTOCOL}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // The end may come without TLS's own.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await.expect("an answer at once");
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("ns/vm"), "{answer}");
        server.abort();
        drop(strangers);
    }

    #[test]
    fn a_path_names_one_channel_of_one_vm_object() {
        let path = api::subresources::agent_path("ns", "vm", "uid", "vnc");
        let wanted = Wanted { namespace: "ns", name: "vm", uid: "uid", channel: Channel::Vnc };
        assert_eq!(Wanted::of_path(&path), Some(wanted));
        for path in
            ["/", "/guests/ns/vm/vnc", "/guests/ns/vm/uid/exec", "/guests/ns/vm/uid/vnc/", "/other/ns/vm/uid/vnc"]
        {
            assert_eq!(Wanted::of_path(path), None, "{path}");
        }
    }
}

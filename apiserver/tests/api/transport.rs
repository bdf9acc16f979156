//! The TLS listener: who gets in, mounted routers, upgrades.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Mount, Options, User};
use axum::Extension;
use axum::routing::get;
use http::header;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{DEADLINE, Kubectl, Server};

/// Connects as the administrator, or as nobody.
async fn connect(server: &Server, kubectl: &Kubectl, as_admin: bool) -> TlsStream<TcpStream> {
    connect_to(&server.directory.path().join("data/pki"), kubectl.endpoint.local_addr, as_admin).await
}

async fn connect_to(pki: &Path, address: SocketAddr, as_admin: bool) -> TlsStream<TcpStream> {
    let pair = as_admin.then(|| {
        let certificate = CertificateDer::from_pem_file(pki.join("admin.crt")).unwrap();
        (certificate, PrivateKeyDer::from_pem_file(pki.join("admin.key")).unwrap())
    });
    connect_with(pki, address, pair).await
}

async fn connect_with(
    pki: &Path,
    address: SocketAddr,
    pair: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if let Some((certificate, key)) = pair {
        builder.with_client_auth_cert(vec![certificate], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

/// Sends a request head and reads the answer to its end.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_unix_socket_is_for_its_owner_and_asks_for_no_credentials() {
    let server = Server::start().await;
    let path = server.listen().await.endpoint.socket.clone().unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    let head = format!(
        "POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let own = path.metadata().unwrap().uid();
    assert!(answer.contains(&format!("\"username\":\"unix:{own}\"")) && answer.contains("system:masters"), "{answer}");
    // What a process leaves behind is in nobody's way.
    server.api.shutdown().await;
    let directory = Arc::clone(&server.directory);
    drop(server);
    let next = Server::start_in(directory).await;
    let again = next.listen().await.endpoint.socket.clone().unwrap();
    assert!(UnixStream::connect(&again).await.is_ok());
}

#[tokio::test]
async fn nobody_gets_anything_without_a_certificate() {
    let server = Server::start().await;
    let kubectl = server.listen().await;
    for path in ["/healthz", "/version", "/api/v1/secrets", "/apis/sub.test.io/v1/x"] {
        let answer = ask(&mut connect(&server, &kubectl, false).await, path).await;
        assert!(answer.starts_with("HTTP/1.1 401 Unauthorized"), "{path}: {answer}");
        assert!(answer.contains("\"reason\":\"Unauthorized\""), "{answer}");
    }
    let answer = ask(&mut connect(&server, &kubectl, true).await, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_opened_it() {
    let server = Server::start().await;
    let kubectl = server.listen().await;
    let pki = server.directory.path().join("data/pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let authority = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.crt"), authority).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "brief");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(1);
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(3);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut stream = connect_with(&pki, kubectl.endpoint.local_addr, Some((certificate.der().clone(), key))).await;
    let head = "GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    // The end comes without TLS's own.
    let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut seen)).await;
    assert!(end.is_ok(), "the watch outlives its certificate");
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.starts_with("HTTP/1.1 200") && seen.contains("kube-system"), "{seen}");
}

/// Asks on a connection that stays open, for what ends in `ok`.
async fn ask_on(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut answer)).await;
        assert!(matches!(read, Ok(Ok(1..))), "{read:?} after {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections_and_an_old_one_goes_on() {
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let server = Server::start().await;
    let kubectl = server.listen().await;
    let first = shown(&connect(&server, &kubectl, true).await);
    // What is lost is made anew as what ends soon is: at the daily look, which is in two seconds.
    std::fs::remove_file(server.directory.path().join("data/pki/server.crt")).unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(24) - Duration::from_secs(2)).await;
    tokio::time::resume();
    let mut old = connect(&server, &kubectl, true).await;
    assert_eq!(shown(&old), first);
    ask_on(&mut old).await;
    let begun = Instant::now();
    let mut new = connect(&server, &kubectl, true).await;
    while shown(&new) == first {
        assert!(begun.elapsed() < DEADLINE, "new connections are shown the old certificate");
        tokio::time::sleep(Duration::from_millis(50)).await;
        new = connect(&server, &kubectl, true).await;
    }
    ask_on(&mut new).await;
    ask_on(&mut old).await;
}

/// Set in the process below: the directory that it serves.
const BESIEGED: &str = "APISERVER_SIEGE_TEST_DIRECTORY";

/// Not a scenario of its own: the server of the one below, in a process that has few file descriptors. Prints where it listens.
#[tokio::test]
async fn besieged() {
    let Ok(directory) = std::env::var(BESIEGED) else { return };
    let server = ApiServer::open(Options::new(directory, ([127, 0, 0, 1], 0).into())).await.unwrap();
    println!("\nlistening {}", server.listen().await.unwrap().local_addr);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn strangers_that_say_nothing_keep_nobody_out() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 256; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "transport::besieged", "--nocapture"])
        .env(BESIEGED, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.strip_prefix("listening ").map(str::to_owned)).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(TcpStream::connect(address).await.unwrap());
    }
    let listed = tokio::time::timeout(Duration::from_secs(5), async {
        ask(&mut connect_to(&directory.path().join("pki"), address, true).await, "/api/v1/namespaces").await
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(listed.expect("an answer before strangers give up").starts_with("HTTP/1.1 200"));
    drop(strangers);
}

#[tokio::test]
async fn users_that_are_no_masters_may_do_nothing() {
    let server = Server::start().await;
    let service = server.api.local_service(User::new("guest", []));
    let request = http::Request::get("/api/v1/secrets").body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
    assert_eq!(response.status(), 403);
}

/// A router that says who asks, and one that echoes over an upgraded connection.
fn mount() -> Mount {
    let echo = |mut request: axum::extract::Request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 4];
            io.read_exact(&mut buffer).await.unwrap();
            io.write_all(&buffer).await.unwrap();
            io.shutdown().await.unwrap();
        });
        (http::StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "echo"), (header::CONNECTION, "upgrade")])
    };
    let prefix = "/apis/sub.test.io/v1/namespaces/{namespace}/widgets/{name}";
    Mount {
        group: "sub.test.io".into(),
        version: "v1".into(),
        resources: vec![json!({
            "name": "widgets/echo", "singularName": "", "namespaced": true, "kind": "Widget", "verbs": ["get"],
        })],
        router: axum::Router::new()
            .route(&format!("{prefix}/whoami"), get(|Extension(user): Extension<User>| async move { user.name }))
            .route(&format!("{prefix}/echo"), get(echo)),
    }
}

#[tokio::test]
async fn mounted_routers_know_the_user_and_can_upgrade() {
    let server = Server::start().await;
    server.api.mount(mount());
    let kubectl = server.listen().await;
    let answer =
        ask(&mut connect(&server, &kubectl, true).await, "/apis/sub.test.io/v1/namespaces/default/widgets/a/whoami")
            .await;
    assert!(answer.ends_with("kubernetes-admin"), "{answer}");
    let mut stream = connect(&server, &kubectl, true).await;
    let head = "GET /apis/sub.test.io/v1/namespaces/default/widgets/a/echo HTTP/1.1\r\nHost: localhost\r\n\
                Connection: upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
}

#[tokio::test]
async fn mounted_groups_are_in_discovery() {
    let server = Server::start().await;
    server.api.mount(mount());
    let (_, list) = server.get("/apis/sub.test.io/v1").await;
    assert_eq!(list["resources"][0]["name"], "widgets/echo");
    let (_, groups) = server.get("/apis").await;
    let names: Vec<&Value> = groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert!(names.contains(&&json!("sub.test.io")), "{names:?}");
    assert_eq!(server.get("/apis/sub.test.io").await.1["kind"], "APIGroup");
    assert_eq!(server.get("/apis/sub.test.io/v1/nothing").await.0, 404);
}

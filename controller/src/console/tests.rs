//! The console over a real connection, with a guest that echoes.

use std::net::SocketAddr;

use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;

/// Guests that send a greeting, echo what they are sent, and end on `!`.
struct EchoGuests;

impl GuestConsole for EchoGuests {
    fn open(&self, guest: GuestRef, channel: Channel) -> BoxFuture<'_, Result<Box<dyn GuestStream>, ConsoleError>> {
        async move {
            if guest.uid != "uid-of-up" || channel != Channel::Serial {
                return Err(ConsoleError::NotRunning);
            }
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(echo(ours));
            Ok(Box::new(theirs) as Box<dyn GuestStream>)
        }
        .boxed()
    }
}

async fn echo(mut stream: tokio::io::DuplexStream) {
    stream.write_all(&vec![b'x'; 2 * 10_226]).await.unwrap();
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() && byte != *b"!" {
        stream.write_all(&byte).await.unwrap();
    }
}

/// An API server that knows a running VM `up` and a pending one `down`.
fn client() -> Client {
    let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let phase = match name.as_str() {
            "up" => "Running",
            "down" => "Pending",
            _ => {
                let status =
                    json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no"});
                return Ok::<_, std::convert::Infallible>(answer(404, &status));
            }
        };
        let vm = json!({
            "apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-of-{name}")},
            "spec": {"domain": {"devices": {}}}, "status": {"phase": phase},
        });
        Ok(answer(200, &vm))
    });
    Client::new(service, "default")
}

fn answer(code: u16, body: &serde_json::Value) -> http::Response<kube::client::Body> {
    http::Response::builder().status(code).body(kube::client::Body::from(body.to_string().into_bytes())).unwrap()
}

async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router(client(), Arc::new(EchoGuests))).into_future());
    address
}

fn url(address: SocketAddr, name: &str, sub: &str) -> String {
    format!("ws://{address}/apis/subresources.kubevirt.io/v1alpha1/namespaces/ns/virtualmachines/{name}/{sub}")
}

/// Status and text of a refused connection.
async fn refusal(url: String) -> (u16, String) {
    let address = url.trim_start_matches("ws://").split('/').next().unwrap().to_owned();
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    match tokio_tungstenite::client_async(url, socket).await {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8(body).unwrap())
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn bytes_go_both_ways_in_small_binary_frames_and_the_end_is_1000() {
    let address = serve().await;
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut ws, response) = tokio_tungstenite::client_async(url(address, "up", "console"), socket).await.unwrap();
    assert!(response.headers().get("sec-websocket-protocol").is_none(), "no subprotocol was asked for");
    ws.send(Message::binary(b"hello".to_vec())).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 2 * 10_226 + 5 {
        match ws.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => {
                assert!(bytes.len() <= 10_226, "a frame of {} bytes", bytes.len());
                received.extend_from_slice(&bytes);
            }
            Message::Ping(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(received.ends_with(b"hello"));
    ws.send(Message::binary(b"!".to_vec())).await.unwrap();
    let close = loop {
        if let Message::Close(frame) = ws.next().await.unwrap().unwrap() {
            break frame.unwrap();
        }
    };
    assert_eq!(close.code, CloseCode::Normal);
}

#[tokio::test]
async fn the_subprotocol_of_old_clients_is_accepted() {
    let address = serve().await;
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut request = url(address, "up", "console").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "plain.kubevirt.io".parse().unwrap());
    let (_, response) = tokio_tungstenite::client_async(request, socket).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "plain.kubevirt.io");
}

#[tokio::test]
async fn before_the_upgrade_answers_are_the_contract_s_plain_text() {
    let address = serve().await;
    let cases = [
        ("none", "console", 404, "VM none in namespace ns not found."),
        ("down", "console", 400, "Unable to connect to VM because phase is Pending instead of Running"),
        ("down", "vnc", 400, "Unable to connect to VM because phase is Pending instead of Running"),
        ("up", "vnc", 500, "Unable to connect to VM up in namespace ns: the guest does not run on this node"),
    ];
    for (name, sub, code, text) in cases {
        assert_eq!(refusal(url(address, name, sub)).await, (code, text.to_owned()));
    }
}

#[tokio::test]
async fn test_answers_200_and_a_plain_get_of_the_console_says_what_it_is() {
    let address = serve().await;
    let get = |path: String| async move {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    };
    let base = "/apis/subresources.kubevirt.io/v1alpha1";
    assert!(get(format!("{base}/test")).await.starts_with("HTTP/1.1 200"));
    assert!(get(format!("{base}/namespaces/ns/virtualmachines/up/test")).await.starts_with("HTTP/1.1 200"));
    let refused = get(format!("{base}/namespaces/ns/virtualmachines/up/console")).await;
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("This is a websocket"), "{refused}");
}

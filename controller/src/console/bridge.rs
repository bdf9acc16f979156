//! Moves bytes between a websocket and a guest, until either ends.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::{GuestRef, GuestStream};

/// Most bytes in a frame: clients of KubeVirt v0.5.0 read into a buffer of this size.
const FRAME: usize = 10_226;
/// Most bytes that a client may send at once. People type, and paste.
const LONGEST_MESSAGE: usize = 1 << 20;
/// A client that has gone without a word is noticed by a ping that cannot be sent. Its console is free for others then.
const PING_EVERY: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Runs a connection to its end.
pub(super) async fn run(upgraded: Upgraded, guest: Box<dyn GuestStream>, name: GuestRef) {
    let config =
        WebSocketConfig::default().max_message_size(Some(LONGEST_MESSAGE)).max_frame_size(Some(LONGEST_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut to_client, from_client) = socket.split();
    let (from_guest, to_guest) = tokio::io::split(Box::into_pin(guest));
    tokio::select! {
        () = guest_to_client(from_guest, &mut to_client) => {}
        () = client_to_guest(from_client, to_guest) => {}
    }
    // The client may be gone already: then there is nobody to tell.
    let _ = to_client.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
    let _ = to_client.close().await;
    tracing::debug!(namespace = name.namespace, name = name.name, "console closed");
}

async fn guest_to_client(mut guest: impl AsyncRead + Unpin, client: &mut SplitSink<Socket, Message>) {
    let mut buffer = vec![0; FRAME];
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        let message = tokio::select! {
            read = guest.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => Message::binary(buffer.get(..length).unwrap_or_default().to_vec()),
            },
            _ = ping.tick() => Message::Ping(Vec::new().into()),
        };
        if client.send(message).await.is_err() {
            return;
        }
    }
}

async fn client_to_guest(mut client: SplitStream<Socket>, mut guest: impl AsyncWrite + Unpin) {
    while let Some(Ok(message)) = client.next().await {
        let written = match message {
            Message::Binary(bytes) => guest.write_all(&bytes).await,
            Message::Text(text) => guest.write_all(text.as_bytes()).await,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        };
        if written.is_err() || guest.flush().await.is_err() {
            return;
        }
    }
}

//! `virtctl console`: the guest's serial console, over a websocket of binary frames.
//!
//! Standard output carries the guest's bytes and nothing else; what we say goes to standard error. With a terminal on standard input it
//! is raw until the escape sequence; without one, the end of input does not end the session, so that output can be piped.

mod escape;
mod raw_terminal;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use api::v1alpha1::OfflineVirtualMachine;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use kube::Api;
use kube::client::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use self::raw_terminal::RawTerminal;
use crate::cli::ConsoleArgs;
use crate::connection::Connection;
use crate::error::Error;
use crate::target;

/// Largest frame, as the server has it.
const MAX_FRAME_BYTES: usize = 10_226;
/// Time between two looks at a virtual machine that is starting.
const RETRY_PERIOD: Duration = Duration::from_millis(200);
/// Phases of a guest that is on its way, as the server's refusal names them.
const STARTING_PHASES: &[&str] =
    &["phase is  instead", "phase is Pending", "phase is Scheduling", "phase is Scheduled"];

type Console = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Connects, and copies bytes both ways until the guest ends or the user types the escape sequence.
///
/// # Errors
/// No such virtual machine, one that does not run, or a connection that breaks.
pub(crate) async fn run(connection: &Connection, args: &ConsoleArgs) -> Result<(), Error> {
    let name = target::virtual_machine(&args.words)?;
    let console = connect_when_running(connection, &name, args.timeout).await?;
    eprintln!("Escape sequence is ^]");
    let terminal =
        if std::io::stdin().is_terminal() { Some(RawTerminal::enter().map_err(Error::Terminal)?) } else { None };
    let result = copy(console, terminal.is_some()).await;
    drop(terminal);
    eprintln!();
    result.map_err(|source| Error::Stream { name, source })
}

/// Connects, waiting for a virtual machine that is still starting.
async fn connect_when_running(connection: &Connection, name: &str, timeout: Duration) -> Result<Console, Error> {
    let deadline = Instant::now() + timeout;
    let mut told = false;
    loop {
        let refused = match connect(connection, name).await {
            Err(Error::Refused { status, reason }) => (status, reason),
            result => return result,
        };
        if Instant::now() >= deadline || !is_starting(connection, name, &refused).await {
            let (status, reason) = refused;
            return Err(Error::Refused { status, reason });
        }
        if !told {
            eprintln!("Waiting for VirtualMachine '{name}' to run ...");
            told = true;
        }
        tokio::time::sleep(RETRY_PERIOD).await;
    }
}

/// Whether a refusal is only for now: the guest is on its way, or its OfflineVirtualMachine is about to create it.
async fn is_starting(connection: &Connection, name: &str, (status, reason): &(StatusCode, String)) -> bool {
    match *status {
        StatusCode::BAD_REQUEST => STARTING_PHASES.iter().any(|phase| reason.contains(phase)),
        StatusCode::NOT_FOUND => {
            let ovms: Api<OfflineVirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
            ovms.get_opt(name).await.ok().flatten().is_some_and(|ovm| ovm.spec.running)
        }
        _ => false,
    }
}

async fn connect(connection: &Connection, name: &str) -> Result<Console, Error> {
    let broken = |reason: String| Error::Connect { name: name.to_owned(), reason };
    let uri = format!(
        "/apis/{}/{}/namespaces/{}/virtualmachines/{name}/console",
        api::names::SUBRESOURCE_GROUP,
        api::names::VERSION,
        connection.namespace
    );
    let request = Request::get(uri)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .body(Body::empty())
        .map_err(|error| broken(error.to_string()))?;
    let response = connection.client.send(request).await.map_err(|error| broken(connection.explain(&error)))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = response.into_body().collect_bytes().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(if text.is_empty() {
            broken(status.to_string())
        } else {
            Error::Refused { status, reason: message_of(&text) }
        });
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| broken(error.to_string()))?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

/// The message of a `Status`, or the text as it is.
fn message_of(text: &str) -> String {
    serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|status| status["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| text.to_owned())
}

async fn copy(console: Console, interactive: bool) -> std::io::Result<()> {
    let (mut sink, mut frames) = console.split();
    let mut input = tokio::io::stdin();
    let mut output = tokio::io::stdout();
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    let mut input_open = true;
    loop {
        tokio::select! {
            frame = frames.next() => match frame {
                Some(Ok(Message::Binary(bytes))) => {
                    output.write_all(&bytes).await?;
                    output.flush().await?;
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(std::io::Error::other(error)),
            },
            read = input.read(&mut buffer), if input_open => {
                let count = read?;
                if count == 0 {
                    input_open = false;
                    continue;
                }
                let (bytes, ended) = escape::split(buffer.get(..count).unwrap_or_default(), interactive);
                if !bytes.is_empty() {
                    sink.send(Message::binary(bytes.to_vec())).await.map_err(std::io::Error::other)?;
                }
                if ended {
                    // The peer may be gone already; leaving is what was asked for.
                    let _ = sink.close().await;
                    return Ok(());
                }
            }
        }
    }
}

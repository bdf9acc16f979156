//! A guest's channel: a websocket of binary frames, opened once the guest runs.

use std::time::{Duration, Instant};

use api::v1alpha1::OfflineVirtualMachine;
use http::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use kube::Api;
use kube::client::Body;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::connection::Connection;
use crate::error::Error;

/// Largest frame, as the server has it.
pub(crate) const MAX_FRAME_BYTES: usize = 10_226;
/// Time between two looks at a virtual machine that is starting.
const RETRY_PERIOD: Duration = Duration::from_millis(200);
/// Phases of a guest that is on its way, as the server's refusal names them.
const STARTING_PHASES: &[&str] =
    &["phase is  instead", "phase is Pending", "phase is Scheduling", "phase is Scheduled"];

/// An open channel.
pub(crate) type GuestSocket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// What of a guest is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    Console,
    Display,
}

impl Channel {
    /// What people call it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Display => "display",
        }
    }

    fn subresource(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Display => "vnc",
        }
    }
}

/// Connects, waiting for a virtual machine that is still starting.
///
/// # Errors
/// No such virtual machine, one that does not run in time, or a connection that is refused.
pub(crate) async fn connect_when_running(
    connection: &Connection,
    name: &str,
    channel: Channel,
    timeout: Duration,
) -> Result<GuestSocket, Error> {
    let deadline = Instant::now() + timeout;
    let mut told = false;
    loop {
        let refused = match connect(connection, name, channel).await {
            Err(Error::Refused { status, reason }) => (status, reason),
            result => return result,
        };
        let ovm = if refused.0 == StatusCode::NOT_FOUND { owner(connection, name).await } else { None };
        if Instant::now() >= deadline || !is_starting(ovm.as_ref(), &refused) {
            let (status, reason) = refused;
            return Err(match ovm {
                Some(ovm) if !ovm.spec.running => Error::Stopped(name.to_owned()),
                _ => Error::Refused { status, reason },
            });
        }
        if !told {
            eprintln!("Waiting for VirtualMachine '{name}' to run ...");
            told = true;
        }
        tokio::time::sleep(RETRY_PERIOD).await;
    }
}

/// The OfflineVirtualMachine of a name, if it can be had.
async fn owner(connection: &Connection, name: &str) -> Option<OfflineVirtualMachine> {
    let ovms: Api<OfflineVirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    ovms.get_opt(name).await.ok().flatten()
}

/// Whether a refusal is only for now: the guest is on its way, or its OfflineVirtualMachine is about to create it.
fn is_starting(ovm: Option<&OfflineVirtualMachine>, (status, reason): &(StatusCode, String)) -> bool {
    match *status {
        StatusCode::BAD_REQUEST => STARTING_PHASES.iter().any(|phase| reason.contains(phase)),
        StatusCode::NOT_FOUND => ovm.is_some_and(|ovm| ovm.spec.running),
        _ => false,
    }
}

async fn connect(connection: &Connection, name: &str, channel: Channel) -> Result<GuestSocket, Error> {
    let broken = |reason: String| Error::Connect { channel: channel.as_str(), name: name.to_owned(), reason };
    let uri = api::subresources::path(&connection.namespace, name, channel.subresource());
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

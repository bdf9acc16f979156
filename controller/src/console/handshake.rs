//! The server's side of the websocket handshake (RFC 6455, section 4.2). By hand on hyper's upgrade, because axum's own `ws` brings a second
//! tungstenite into the tree.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::PlainRefusal;

/// The one subprotocol that we speak. It is accepted, not asked for.
const SUBPROTOCOL: &str = "plain.kubevirt.io";

/// The answer that switches protocols.
pub(super) fn accept(headers: &HeaderMap) -> Result<Response, PlainRefusal> {
    let refuse = |what: &str| {
        (StatusCode::BAD_REQUEST, format!("{what}; connect with a websocket client, such as virtctl console"))
    };
    if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, "websocket") {
        return Err(refuse("This is a websocket"));
    }
    if !lists(headers, &SEC_WEBSOCKET_VERSION, "13") {
        return Err(refuse("Only websocket version 13 is spoken here"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| refuse("The header Sec-WebSocket-Key is missing"))?;
    let mut answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    if lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        answer = answer.header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    }
    answer.body(Body::empty()).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Whether a comma-separated header has a word, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
}

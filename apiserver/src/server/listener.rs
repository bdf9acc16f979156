//! Accepts connections until shutdown.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Core, connection};

/// How long to wait when the system has no file descriptor left.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(200);

/// Serves each connection in a task of its own.
pub(super) async fn serve(core: Arc<Core>, listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let accepted = tokio::select! {
            () = core.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                core.tasks.spawn(connection::serve(Arc::clone(&core), acceptor.clone(), socket, peer));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}

//! Accepts connections until shutdown.

use std::sync::Arc;
use std::time::Duration;

use lobby::Lobby;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{Core, connection};

/// How long to wait when the system has no file descriptor left.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(200);

/// Connections that are not authenticated at a time. Guests may reach this port, and each connection takes a file descriptor, of which there may be 1024.
const STRANGERS: usize = 64;

/// Serves each connection in a task of its own.
pub(super) async fn serve(core: Arc<Core>, listener: TcpListener, acceptor: watch::Receiver<TlsAcceptor>) {
    let lobby = Lobby::new(STRANGERS);
    loop {
        let accepted = tokio::select! {
            () = core.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let guest = Arc::new(lobby.enter());
                let acceptor = acceptor.borrow().clone();
                core.tasks.spawn(connection::serve(Arc::clone(&core), acceptor, socket, peer, guest));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}

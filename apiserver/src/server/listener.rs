//! Accepts connections until shutdown.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lobby::Lobby;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Core, connection};

/// How long to wait when the system has no file descriptor left.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(200);

/// Connections that are not authenticated at a time. Guests may reach this port, and each connection takes a file descriptor, of which there may be 1024.
const STRANGERS: usize = 64;

/// Serves each connection in a task of its own.
pub(super) async fn serve(core: Arc<Core>, listener: TcpListener, acceptor: watch::Receiver<TlsAcceptor>) {
    let lobby = Lobby::new(STRANGERS);
    accept_each(
        &core.shutdown,
        || listener.accept(),
        |(socket, peer)| {
            let (guest, acceptor) = (Arc::new(lobby.enter()), acceptor.borrow().clone());
            core.tasks.spawn(connection::serve(Arc::clone(&core), acceptor, socket, peer, guest));
        },
    )
    .await;
}

/// As [`serve`], for the unix socket, where nobody is a stranger.
pub(super) async fn serve_local(core: Arc<Core>, listener: UnixListener) {
    let lobby = Lobby::new(1);
    accept_each(
        &core.shutdown,
        || listener.accept(),
        |(socket, _)| {
            let guest = Arc::new(lobby.enter());
            core.tasks.spawn(connection::serve_local(Arc::clone(&core), socket, guest));
        },
    )
    .await;
}

async fn accept_each<C, F>(shutdown: &CancellationToken, accept: impl Fn() -> F, serve: impl Fn(C))
where
    F: Future<Output = io::Result<C>>,
{
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok(connection) => serve(connection),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}

/// Binds the unix socket `path`, for its owner, and for the members of a group. What is there is of a process that has ended: the data directory is locked.
pub(super) fn bind_local(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let mut mode = 0o600;
    if let Some(group) = group {
        if path.metadata()?.gid() != group {
            chown(path, None, Some(group))?;
        }
        mode = 0o660;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

//! `virtctl vnc`: the guest's display, as a VNC server on the loopback for one viewer.
//!
//! Nobody but this user's programs reach the loopback, but all of them do: the port takes one connection, and is closed at once. A display has no
//! password of its own; who may open it was settled by the API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;

use crate::cli::VncArgs;
use crate::connection::Connection;
use crate::error::Error;
use crate::stream::{Channel, GuestSocket, MAX_FRAME_BYTES, connect_when_running};
use crate::target;

/// A viewer, and how it is told where to connect.
struct Viewer {
    program: &'static str,
    argument: fn(SocketAddr) -> String,
}

/// Viewers, the first that is installed is taken.
const VIEWERS: [Viewer; 3] = [
    Viewer { program: "remote-viewer", argument: |at| format!("vnc://{at}") },
    Viewer { program: "vncviewer", argument: |at| format!("{}::{}", at.ip(), at.port()) },
    Viewer { program: "xtightvncviewer", argument: |at| format!("{}::{}", at.ip(), at.port()) },
];

/// Connects to the display, and passes it on to one viewer until either ends.
///
/// # Errors
/// No such virtual machine, one that does not run, no viewer, or a connection that breaks.
pub(crate) async fn run(connection: &Connection, args: &VncArgs) -> Result<(), Error> {
    let name = target::virtual_machine(&args.words)?;
    // Whatever is wrong is said before anybody starts a viewer.
    let socket = connect_when_running(connection, &name, Channel::Display, args.timeout).await?;
    let failed = |source| Error::Display { name: name.clone(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let viewer = if args.proxy_only {
        println!("{}", json!({"port": address.port()}));
        None
    } else {
        Some(start_viewer(address, &name)?)
    };
    let shown = show(socket, listener);
    match viewer {
        None => shown.await.map_err(failed),
        Some((program, mut child)) => tokio::select! {
            shown = shown => shown.map_err(failed),
            // One that could not show anything has said why itself.
            ended = child.wait() => ended.map(drop).map_err(|source| Error::Viewer { program, source }),
        },
    }
}

fn start_viewer(address: SocketAddr, name: &str) -> Result<(&'static str, Child), Error> {
    for Viewer { program, argument } in VIEWERS {
        let mut command = Command::new(program);
        command.arg(argument(address)).stdin(Stdio::null()).kill_on_drop(true);
        match command.spawn() {
            Ok(child) => return Ok((program, child)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Viewer { program, source }),
        }
    }
    let looked_for = VIEWERS.map(|viewer| viewer.program).join(", ");
    Err(Error::NoViewer(looked_for, name.to_owned()))
}

/// Waits for one viewer, and copies bytes both ways until either end closes.
async fn show(mut socket: GuestSocket, listener: TcpListener) -> std::io::Result<()> {
    // The server speaks first in VNC: a dozen bytes, which the viewer is still to read.
    let mut said = Vec::new();
    let mut viewer = loop {
        tokio::select! {
            accepted = listener.accept() => break accepted?.0,
            // A guest that ends meanwhile needs no viewer.
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => said.extend_from_slice(&bytes),
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(std::io::Error::other(error)),
            },
        }
    };
    drop(listener);
    viewer.write_all(&said).await?;
    copy(&mut socket, &mut viewer).await
}

async fn copy(socket: &mut GuestSocket, viewer: &mut TcpStream) -> std::io::Result<()> {
    viewer.set_nodelay(true)?;
    let (mut from_viewer, mut to_viewer) = viewer.split();
    let (mut to_guest, mut from_guest) = socket.split();
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    loop {
        tokio::select! {
            message = from_guest.next() => match message {
                Some(Ok(Message::Binary(bytes))) => to_viewer.write_all(&bytes).await?,
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(std::io::Error::other(error)),
            },
            read = from_viewer.read(&mut buffer) => {
                // A viewer that was closed may say so by a reset.
                let count = read.unwrap_or_default();
                if count == 0 {
                    // The peer may be gone already; leaving is what was asked for.
                    let _ = to_guest.close().await;
                    return Ok(());
                }
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                to_guest.send(Message::binary(bytes)).await.map_err(std::io::Error::other)?;
            }
        }
    }
}

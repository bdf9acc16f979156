//! `virtctl console`: the guest's serial console, over a websocket of binary frames.
//!
//! Standard output carries the guest's bytes and nothing else; what we say goes to standard error. With a terminal on standard input it
//! is raw until the escape sequence; without one, the end of input does not end the session, so that output can be piped.

mod escape;
mod raw_terminal;

use std::io::IsTerminal;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use self::raw_terminal::hold_terminal;
use crate::cli::ConsoleArgs;
use crate::connection::Connection;
use crate::error::Error;
use crate::stream::{Channel, GuestSocket, MAX_FRAME_BYTES, connect_when_running};
use crate::target;

/// Connects, and copies bytes both ways until the guest ends or the user types the escape sequence.
///
/// # Errors
/// No such virtual machine, one that does not run, or a connection that breaks.
pub(crate) async fn run(connection: &Connection, args: &ConsoleArgs) -> Result<(), Error> {
    let name = target::virtual_machine(&args.words)?;
    let console = connect_when_running(connection, &name, Channel::Console, args.timeout).await?;
    eprintln!("Escape sequence is ^]");
    let is_terminal = std::io::stdin().is_terminal();
    let result = hold_terminal(is_terminal, copy(console, is_terminal)).await;
    eprintln!();
    match result? {
        Ok(End::Left) => Ok(()),
        Ok(End::Closed) => {
            eprintln!("The console was closed: '{name}' ended, or another client opened its console.");
            Ok(())
        }
        Err(source) => Err(Error::Stream { name, source }),
    }
}

/// Who ended a session.
enum End {
    /// The user, by the escape sequence.
    Left,
    /// The other side: the guest is gone, or its one console is somebody else's now.
    Closed,
}

async fn copy(console: GuestSocket, interactive: bool) -> std::io::Result<End> {
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
                Some(Ok(Message::Close(_))) | None => return Ok(End::Closed),
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
                    return Ok(End::Left);
                }
            }
        }
    }
}

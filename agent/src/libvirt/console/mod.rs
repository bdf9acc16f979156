//! A guest's serial console as an async byte stream, over a libvirt stream and so over libvirt's own socket.
//!
//! ```text
//!  reader ◄── inbox ◄── stream callback, on the event loop's thread ◄── libvirtd ◄──► pty ◄──► QEMU
//!  writer ──► outbox ──► virStreamSend, on a thread while there is input ──►
//! ```
//!
//! libvirt's client reads what the daemon sends whether anybody wants it or not, so a guest that prints faster than a viewer reads would fill our memory:
//! the inbox is bounded, the rest is dropped as on a serial line, and the viewer is told how much. Sending blocks while the guest takes nothing, so it has a
//! thread, from a set apart from that of calls. An idle console costs no thread and no timer.
//!
//! A guest that prints nothing is sent no more than its pty holds: input that libvirtd has to keep can crash it when the guest ends (`buffers`). So a paste of
//! more than 8 KiB into a program that neither echoes nor prints waits until it does.
//!
//! Each console has a connection of its own. libvirtd stops reading a connection while five of its messages are unserved (`max_client_requests`), so input for
//! a guest that does not read its serial port would block every other call.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uuid::Uuid;

use buffers::{Buffers, End};
use stream::{CHUNK, Stream};

use super::Libvirt;
use super::connection::Connection;
use super::error::{Error, Target};
use super::session::Session;

mod buffers;
mod stream;

/// An open console. Reading ends (0 bytes) when the guest ends or a newer viewer takes over, and fails when libvirtd goes away; dropping it frees everything.
pub struct Console {
    /// `None` only while dropping.
    stream: Option<Arc<Stream>>,
    buffers: Arc<Buffers>,
    session: Arc<Session>,
}

impl Libvirt {
    /// Opens the first serial console of a running guest, and takes it from whoever has it open. Output printed before is in the guest's log file, not here.
    ///
    /// # Errors
    /// [`Error::NoDomain`]; [`Error::Refused`] with [`Error::is_wrong_state`] when it does not run; and see [`Error`].
    pub async fn open_console(&self, uuid: Uuid) -> Result<Console, Error> {
        let buffers = Arc::new(Buffers::default());
        let (deadline, keepalive) = (self.options().call_deadline, self.options().keepalive_interval);
        let (uri, callbacks) = (Arc::clone(self.session.shared_uri()), Arc::clone(&buffers));
        let open = move |_: &Connection| Stream::open(&uri, keepalive, uuid, callbacks);
        let stream = self.call("open the console of", Target::Domain(uuid), deadline, open).await?;
        let session = Arc::clone(&self.session);
        Ok(Console { stream: Some(Arc::new(stream)), buffers, session })
    }
}

impl Console {
    /// Sees to it that somebody sends, if there is something that may be sent. Output from the guest may make it so, and wakes whoever polls.
    fn send_if_needed(&self) {
        let Some(stream) = self.stream.clone() else { return };
        if !self.buffers.outbox.claim_sending() {
            return;
        }
        let buffers = Arc::clone(&self.buffers);
        self.session.console_threads().run(move || {
            while let Some(piece) = buffers.outbox.next(CHUNK) {
                if let Err(failure) = stream.send(&piece) {
                    buffers.end(&End::Broken(failure));
                }
            }
        });
    }
}

impl AsyncRead for Console {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.send_if_needed();
        self.buffers.inbox.poll_read(context, buffer)
    }
}

impl AsyncWrite for Console {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send_if_needed();
        let written = ready!(self.buffers.outbox.poll_write(context, bytes))?;
        self.send_if_needed();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send_if_needed();
        self.buffers.outbox.poll_flush(context)
    }

    /// A serial line has no end of input: the console stays open for reading until it is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.buffers.end(&End::Finished);
        if let Some(stream) = self.stream.take() {
            self.session.console_threads().run(move || drop(stream));
        }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

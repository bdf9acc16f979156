//! A guest's serial console as an async byte stream, over a libvirt stream and so over libvirt's own socket.
//!
//! ```text
//!  reader ◄── buffer ◄── stream callback, on the event loop's thread ◄── libvirtd ◄──► pty ◄──► QEMU
//!  writer ──► virStreamSend, never waits ───────────────────────────────►
//! ```
//!
//! libvirt's client reads what the daemon sends whether anybody wants it or not, so a guest that prints faster than a viewer reads would fill our memory:
//! past [`BUFFER_LIMIT`] output is dropped, as a serial line does, and the viewer is told how much. An idle console costs no thread and no timer.
//!
//! Each console has a connection of its own. libvirtd stops reading a connection while five of its messages are unserved (`max_client_requests`), so input for
//! a guest that does not read its serial port would block every other call.

#![expect(
    unsafe_code,
    reason = "virt 0.5 passes its stream callback the address of a value that may move, and panics when it cannot take it back"
)]

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uuid::Uuid;
use virt::connect::Connect;

use super::Libvirt;
use super::connection::{self, Connection};
use super::error::{Error, Failure, Target};
use super::session::Session;
use super::subscription::{unwatch_close, watch_close};

/// How much output waits for a slow reader.
const BUFFER_LIMIT: usize = 1 << 20;

/// The most that is sent or received at once.
const CHUNK: usize = 16 * 1024;

/// Mutually exclusive at the daemon (SAFE), and the newer viewer wins (FORCE), as `virtctl console` tells the older one. A viewer whose network died without
/// a word must not lock everybody else out.
const OPEN_FLAGS: u32 = virt_sys::VIR_DOMAIN_CONSOLE_SAFE | virt_sys::VIR_DOMAIN_CONSOLE_FORCE;

const READABLE: u32 = virt_sys::VIR_STREAM_EVENT_READABLE;
const WRITABLE: u32 = virt_sys::VIR_STREAM_EVENT_WRITABLE;
const BROKEN: u32 = virt_sys::VIR_STREAM_EVENT_ERROR | virt_sys::VIR_STREAM_EVENT_HANGUP;

/// What `virStreamRecv` and `virStreamSend` return when they would have to wait.
const WOULD_WAIT: c_int = -2;

/// An open console. Reading ends (0 bytes) when the guest ends or a newer viewer takes over, and fails when libvirtd goes away; dropping it frees everything.
pub struct Console {
    /// `None` only while dropping.
    stream: Option<Stream>,
    inbox: Arc<Inbox>,
    session: Arc<Session>,
}

/// libvirt's stream handle, and the connection that it is alone on.
struct Stream {
    pointer: virt_sys::virStreamPtr,
    /// Closed after the stream is freed.
    connect: Connect,
}

// SAFETY: libvirt's streams are reference-counted and locked inside; any thread may call them. https://libvirt.org/html/libvirt-libvirt-stream.html
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// What the callback and the reader share.
#[derive(Default)]
struct Inbox {
    state: Mutex<InboxState>,
}

#[derive(Default)]
struct InboxState {
    data: VecDeque<u8>,
    /// Bytes that did not fit since the reader last took something.
    dropped: u64,
    end: Option<End>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// How a stream is over.
#[derive(Clone)]
enum End {
    Finished,
    Broken(Failure),
}

impl Libvirt {
    /// Opens the first serial console of a running guest, and takes it from whoever has it open. Output printed before is in the guest's log file, not here.
    ///
    /// # Errors
    /// [`Error::NoDomain`]; [`Error::Refused`] with [`Error::is_wrong_state`] when it does not run; and see [`Error`].
    pub async fn open_console(&self, uuid: Uuid) -> Result<Console, Error> {
        let inbox = Arc::new(Inbox::default());
        let (deadline, keepalive) = (self.options().call_deadline, self.options().keepalive_interval);
        let (uri, callbacks) = (Arc::clone(self.session.shared_uri()), Arc::clone(&inbox));
        let open = move |_: &Connection| Stream::open(&uri, keepalive, uuid, callbacks);
        let stream = self.call("open the console of", Target::Domain(uuid), deadline, open).await?;
        Ok(Console { stream: Some(stream), inbox, session: Arc::clone(&self.session) })
    }
}

impl Stream {
    /// Opens the console of a domain and lets its output flow into `inbox`. Blocking.
    fn open(uri: &str, keepalive: Duration, uuid: Uuid, inbox: Arc<Inbox>) -> Result<Self, Failure> {
        let connect = connection::open(uri, keepalive).map_err(|failed| failed.source)?;
        // libvirt tells the connection that the daemon is gone, and not its streams.
        let orphaned = Arc::clone(&inbox);
        let on_close = move |reason| orphaned.end(End::Broken(Failure::internal(format!("libvirt is gone: {reason}"))));
        watch_close(&connect, Box::new(on_close))?;
        // SAFETY: the connection is valid while `connect` lives.
        let pointer = unsafe { virt_sys::virStreamNew(connect.as_ptr(), virt_sys::VIR_STREAM_NONBLOCK) };
        let stream = Self { pointer, connect };
        if pointer.is_null() {
            return Err(virt::error::Error::last_error().into());
        }
        let domain = stream.connect.lookup_domain_by_uuid(uuid)?;
        // SAFETY: domain and stream are valid while their handles live; null asks for the first console.
        let opened = unsafe { virt_sys::virDomainOpenConsole(domain.as_ptr(), ptr::null(), pointer, OPEN_FLAGS) };
        if opened < 0 {
            return Err(virt::error::Error::last_error().into());
        }
        let opaque = Arc::into_raw(inbox).cast_mut().cast();
        // SAFETY: the stream is valid. libvirt owns `opaque` from here on, and gives it back to `free_inbox`.
        let added = unsafe {
            virt_sys::virStreamEventAddCallback(
                pointer,
                (READABLE | BROKEN).cast_signed(),
                Some(on_stream),
                opaque,
                Some(free_inbox),
            )
        };
        if added < 0 {
            let failure = virt::error::Error::last_error().into();
            // SAFETY: a refused registration has not taken `opaque`.
            unsafe { free_inbox(opaque) };
            return Err(failure);
        }
        Ok(stream)
    }

    /// Sends what fits without waiting; `None` when nothing does.
    fn send(&self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let length = bytes.len().min(CHUNK);
        // SAFETY: the stream is valid while `self` lives, and the buffer holds `length` bytes.
        let sent = unsafe { virt_sys::virStreamSend(self.pointer, bytes.as_ptr().cast(), length) };
        match usize::try_from(sent) {
            Ok(sent) => Ok(Some(sent)),
            Err(_) if sent == WOULD_WAIT => Ok(None),
            Err(_) => Err(virt::error::Error::last_error().into()),
        }
    }

    /// Asks for a callback on `events`.
    fn watch(&self, events: u32) {
        // SAFETY: the stream is valid while `self` lives. It fails on a stream that is over, whose callback has come already.
        unsafe { virt_sys::virStreamEventUpdateCallback(self.pointer, events.cast_signed()) };
    }
}

impl Drop for Stream {
    /// Talks to the daemon, so it must happen on a thread of [`Calls`](super::calls::Calls).
    fn drop(&mut self) {
        // SAFETY: the stream is ours, or null. Aborting one that is null, over or was never opened is an error that changes nothing.
        unsafe {
            virt_sys::virStreamEventRemoveCallback(self.pointer);
            virt_sys::virStreamAbort(self.pointer);
            virt_sys::virStreamFree(self.pointer);
        }
        unwatch_close(&self.connect);
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what came in, on the event loop's thread.
    fn receive(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let fits = bytes.len().min(BUFFER_LIMIT.saturating_sub(state.data.len()));
        state.data.extend(&bytes[..fits]);
        state.dropped += (bytes.len() - fits) as u64;
        wake(state.reader.take());
    }

    /// Notes that nothing more will come. The first word counts.
    fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        wake(state.reader.take());
        wake(state.writer.take());
    }

    fn wake_writer(&self) {
        wake(self.lock().writer.take());
    }

    /// What the reader gets: output in order, then a word about what was dropped, then the end.
    fn poll_read(&self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.data.is_empty() && state.dropped > 0 {
            let notice = format!("\r\n[{} bytes of console output dropped: read too slowly]\r\n", state.dropped);
            state.data.extend(notice.as_bytes());
            state.dropped = 0;
        }
        if !state.data.is_empty() {
            let (front, _) = state.data.as_slices();
            let taken = front.len().min(buffer.remaining());
            buffer.put_slice(&front[..taken]);
            state.data.drain(..taken);
            return Poll::Ready(Ok(()));
        }
        match &state.end {
            Some(End::Finished) => Poll::Ready(Ok(())),
            Some(End::Broken(failure)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, failure.clone()))),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Reads the stream until it is empty. Called on the event loop's thread, by one thread at a time.
unsafe extern "C" fn on_stream(stream: virt_sys::virStreamPtr, events: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the inbox that was registered; libvirt frees it only after the last callback has returned.
    let inbox = unsafe { &*opaque.cast::<Inbox>() };
    let events = events.cast_unsigned();
    if events & WRITABLE != 0 {
        // SAFETY: libvirt lends a valid stream for the time of the call.
        unsafe { virt_sys::virStreamEventUpdateCallback(stream, (READABLE | BROKEN).cast_signed()) };
        inbox.wake_writer();
    }
    let mut buffer = [0_u8; CHUNK];
    loop {
        // SAFETY: as above, and the buffer has the length that is named.
        let received = unsafe { virt_sys::virStreamRecv(stream, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(received) {
            Ok(0) => break inbox.end(End::Finished),
            Ok(received) => inbox.receive(&buffer[..received]),
            Err(_) if received == WOULD_WAIT && events & BROKEN == 0 => return,
            Err(_) if received == WOULD_WAIT => break inbox.end(End::Finished),
            Err(_) => break inbox.end(End::Broken(virt::error::Error::last_error().into())),
        }
    }
    // A stream that is over stays readable for ever, and would keep the event loop spinning.
    // SAFETY: as above.
    unsafe { virt_sys::virStreamEventUpdateCallback(stream, 0) };
}

unsafe extern "C" fn free_inbox(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once for the `opaque` that it was given, which came from `Arc::into_raw`.
    drop(unsafe { Arc::from_raw(opaque.cast::<Inbox>().cast_const()) });
}

impl AsyncRead for Console {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inbox.poll_read(context, buffer)
    }
}

impl AsyncWrite for Console {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let broken = |failure: Failure| io::Error::new(io::ErrorKind::BrokenPipe, failure);
        let Some(stream) = self.stream.as_ref() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        match self.inbox.lock().end.clone() {
            Some(End::Broken(failure)) => return Poll::Ready(Err(broken(failure))),
            Some(End::Finished) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            None => {}
        }
        if let Some(sent) = stream.send(bytes).map_err(broken)? {
            return Poll::Ready(Ok(sent));
        }
        // In this order, so that the callback finds somebody to wake.
        self.inbox.lock().writer = Some(context.waker().clone());
        stream.watch(READABLE | WRITABLE | BROKEN);
        Poll::Pending
    }

    /// What is written is on its way already.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A serial line has no end of input: the console stays open for reading until it is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.session.calls().detach(move || drop(stream));
        }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

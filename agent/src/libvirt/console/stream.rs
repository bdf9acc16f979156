//! libvirt's stream handle made safe, alone on its connection.

#![expect(
    unsafe_code,
    reason = "virt 0.5 passes its stream callback the address of a value that may move, and panics when it cannot take it back"
)]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use virt::connect::Connect;

use super::buffers::{Buffers, End};
use crate::libvirt::connection;
use crate::libvirt::error::Failure;
use crate::libvirt::subscription::{unwatch_close, watch_close};

/// The most that is sent or received at once.
pub(super) const CHUNK: usize = 16 * 1024;

/// Mutually exclusive at the daemon (SAFE), and the newer viewer wins (FORCE), as `virtctl console` tells the older one. A viewer whose network died without
/// a word must not lock everybody else out.
const OPEN_FLAGS: u32 = virt_sys::VIR_DOMAIN_CONSOLE_SAFE | virt_sys::VIR_DOMAIN_CONSOLE_FORCE;

const READABLE: u32 = virt_sys::VIR_STREAM_EVENT_READABLE;
const BROKEN: u32 = virt_sys::VIR_STREAM_EVENT_ERROR | virt_sys::VIR_STREAM_EVENT_HANGUP;

/// What `virStreamRecv` and `virStreamSend` return when they would have to wait.
const WOULD_WAIT: c_int = -2;

/// The wait before another attempt to send, should libvirt ask for one. It blocks instead, as far as we have seen.
const SEND_AGAIN: Duration = Duration::from_millis(10);

/// libvirt's stream handle, and the connection that it is alone on. Every use but creating callbacks may block, dropping too.
pub(super) struct Stream {
    pointer: virt_sys::virStreamPtr,
    /// Closed after the stream is freed.
    connect: Connect,
}

// SAFETY: libvirt's streams are reference-counted and locked inside; any thread may call them. https://libvirt.org/html/libvirt-libvirt-stream.html
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Opens the console of a domain and lets its output flow into `buffers`. Blocking.
    pub(super) fn open(uri: &str, keepalive: Duration, uuid: Uuid, buffers: Arc<Buffers>) -> Result<Self, Failure> {
        let connect = connection::open(uri, keepalive).map_err(|failed| failed.source)?;
        // libvirt tells the connection that the daemon is gone, and not its streams.
        let orphaned = Arc::clone(&buffers);
        let on_close =
            move |reason| orphaned.end(&End::Broken(Failure::internal(format!("libvirt is gone: {reason}"))));
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
        let opaque = Arc::into_raw(buffers).cast_mut().cast();
        let events = (READABLE | BROKEN).cast_signed();
        // SAFETY: the stream is valid. libvirt owns `opaque` from here on, and gives it back to `free_buffers`.
        let added = unsafe {
            virt_sys::virStreamEventAddCallback(pointer, events, Some(on_stream), opaque, Some(free_buffers))
        };
        if added < 0 {
            let failure = virt::error::Error::last_error().into();
            // SAFETY: a refused registration has not taken `opaque`.
            unsafe { free_buffers(opaque) };
            return Err(failure);
        }
        Ok(stream)
    }

    /// Sends all of `bytes`. Blocks while libvirtd takes nothing, although the stream is a non-blocking one: that holds for receiving only.
    ///
    /// # Errors
    /// When the stream is over.
    pub(super) fn send(&self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            // SAFETY: the stream is valid while `self` lives, and the buffer holds the bytes that are named.
            let sent = unsafe { virt_sys::virStreamSend(self.pointer, bytes.as_ptr().cast(), bytes.len()) };
            match usize::try_from(sent) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(_) if sent == WOULD_WAIT => thread::sleep(SEND_AGAIN),
                Err(_) => return Err(virt::error::Error::last_error().into()),
            }
        }
        Ok(())
    }
}

impl Drop for Stream {
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

/// Reads the stream until it is empty. Called on the event loop's thread, and never waits.
unsafe extern "C" fn on_stream(stream: virt_sys::virStreamPtr, events: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the one that was registered; libvirt frees it only after the last callback has returned.
    let buffers = unsafe { &*opaque.cast::<Buffers>() };
    let is_broken = events.cast_unsigned() & BROKEN != 0;
    let mut chunk = [0_u8; CHUNK];
    loop {
        // SAFETY: libvirt lends a valid stream for the time of the call, and the buffer has the length that is named.
        let received = unsafe { virt_sys::virStreamRecv(stream, chunk.as_mut_ptr().cast(), chunk.len()) };
        match usize::try_from(received) {
            Ok(0) => break buffers.end(&End::Finished),
            Ok(received) => buffers.receive(chunk.get(..received).unwrap_or_default()),
            Err(_) if received == WOULD_WAIT && !is_broken => return,
            Err(_) if received == WOULD_WAIT => break buffers.end(&End::Finished),
            Err(_) => break buffers.end(&End::Broken(virt::error::Error::last_error().into())),
        }
    }
    // A stream that is over stays readable for ever, and would keep the event loop spinning.
    // SAFETY: as above.
    unsafe { virt_sys::virStreamEventUpdateCallback(stream, 0) };
}

unsafe extern "C" fn free_buffers(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once for the `opaque` that it was given, which came from `Arc::into_raw`.
    drop(unsafe { Arc::from_raw(opaque.cast::<Buffers>().cast_const()) });
}

//! libvirt's callbacks on one connection, turned into values. A callback runs on the event loop's thread: it copies what it is given, sends it, and returns.

#![expect(unsafe_code, reason = "virt 0.5 has no event and no close callbacks")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use tokio::sync::broadcast;
use virt::connect::Connect;

use super::error::Failure;
use super::event::{CloseReason, Event, GuestEvent, GuestEventKind, IoError, IoErrorAction, Lifecycle, WatchdogAction};
use super::ffi::{borrowed_string, domain_identity};

/// What to do when a connection ends. Called on the event loop's thread, at most once.
pub(super) type OnClose = Box<dyn Fn(CloseReason) + Send + Sync>;

/// The callbacks for events of domains. They end with [`Subscriptions::end`], which must come before the connection is closed: each holds a reference to it.
#[derive(Debug)]
pub(super) struct Subscriptions {
    ids: Vec<c_int>,
}

/// Where the events go.
type Sink = broadcast::Sender<Event>;

type GenericCallback = unsafe extern "C" fn(virt_sys::virConnectPtr, virt_sys::virDomainPtr, *mut c_void);

/// Calls `on_close` when the daemon is gone. A driver inside our own process never calls it. It ends with [`unwatch_close`], for the same reason.
///
/// # Errors
/// When libvirt refuses the callback.
pub(super) fn watch_close(connect: &Connect, on_close: OnClose) -> Result<(), Failure> {
    // A box in a box, because the callback gets one thin pointer.
    let opaque = Box::into_raw(Box::new(on_close)).cast();
    // SAFETY: the connection is valid while `connect` lives. libvirt owns `opaque` from here on, and gives it back to `free_on_close`.
    let answer = unsafe {
        virt_sys::virConnectRegisterCloseCallback(connect.as_ptr(), Some(closed), opaque, Some(free_on_close))
    };
    if answer < 0 {
        let failure = virt::error::Error::last_error().into();
        // SAFETY: a refused registration has not taken `opaque`.
        unsafe { free_on_close(opaque) };
        return Err(failure);
    }
    Ok(())
}

/// Gives the callback of [`watch_close`] back.
pub(super) fn unwatch_close(connect: &Connect) {
    // SAFETY: the connection is valid; without such a callback this is an error that changes nothing.
    unsafe { virt_sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(closed)) };
}

impl Subscriptions {
    /// Asks for everything that [`Event`] can say about guests.
    ///
    /// # Errors
    /// When libvirt refuses one of the callbacks; then none is left.
    pub(super) fn start(connect: &Connect, sink: Sink) -> Result<Self, Failure> {
        let mut subscriptions = Self { ids: Vec::new() };
        if let Err(failure) = subscriptions.add_all(connect, &Arc::new(sink)) {
            subscriptions.end(connect);
            return Err(failure);
        }
        Ok(subscriptions)
    }

    fn add_all(&mut self, connect: &Connect, sink: &Arc<Sink>) -> Result<(), Failure> {
        self.add(connect, sink, virt_sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_lifecycle as *const c_void)?;
        self.add(connect, sink, virt_sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot as *const c_void)?;
        self.add(connect, sink, virt_sys::VIR_DOMAIN_EVENT_ID_WATCHDOG, on_watchdog as *const c_void)?;
        self.add(connect, sink, virt_sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, on_io_error as *const c_void)
    }

    /// `callback` must have the signature that libvirt documents for `event`.
    fn add(&mut self, connect: &Connect, sink: &Arc<Sink>, event: u32, callback: *const c_void) -> Result<(), Failure> {
        let opaque = Arc::into_raw(Arc::clone(sink)).cast_mut().cast();
        // SAFETY: libvirt's C interface takes every callback as the generic type and calls it as the event's own; `add_all` pairs them.
        let callback = unsafe { std::mem::transmute::<*const c_void, GenericCallback>(callback) };
        // SAFETY: the connection is valid while `connect` lives. libvirt owns `opaque` from here on, and gives it back to `free_sink`.
        let id = unsafe {
            virt_sys::virConnectDomainEventRegisterAny(
                connect.as_ptr(),
                ptr::null_mut(),
                event.cast_signed(),
                Some(callback),
                opaque,
                Some(free_sink),
            )
        };
        if id < 0 {
            let failure = virt::error::Error::last_error().into();
            // SAFETY: a refused registration has not taken `opaque`.
            unsafe { free_sink(opaque) };
            return Err(failure);
        }
        self.ids.push(id);
        Ok(())
    }

    /// Gives the callbacks back. On a dead connection libvirt cannot tell the daemon, which is no loss.
    pub(super) fn end(&mut self, connect: &Connect) {
        for id in self.ids.drain(..) {
            // SAFETY: the connection is valid while `connect` lives, and the id came from it.
            unsafe { virt_sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), id) };
        }
    }
}

/// The sink behind a callback's `opaque`.
///
/// # Safety
/// `opaque` came from [`Arc::into_raw`] of a [`Sink`] and has not been freed.
unsafe fn sink<'a>(opaque: *mut c_void) -> &'a Sink {
    // SAFETY: the caller vouches for it; libvirt frees it only after the last callback has returned.
    unsafe { &*opaque.cast::<Sink>() }
}

/// Sends what happened to a domain. Without a receiver there is nobody to tell.
///
/// # Safety
/// `domain` is a valid domain, `opaque` as for [`sink`].
unsafe fn send(domain: virt_sys::virDomainPtr, opaque: *mut c_void, kind: GuestEventKind) {
    // SAFETY: the caller vouches for both.
    let (sink, identity) = unsafe { (sink(opaque), domain_identity(domain)) };
    if let Some((uuid, name)) = identity {
        drop(sink.send(Event::Guest(GuestEvent { uuid, name, kind })));
    }
}

unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once for each `opaque` that it was given, and each came from `Arc::into_raw`.
    drop(unsafe { Arc::from_raw(opaque.cast::<Sink>().cast_const()) });
}

unsafe extern "C" fn free_on_close(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once for the `opaque` that it was given, which came from `Box::into_raw`.
    drop(unsafe { Box::from_raw(opaque.cast::<OnClose>()) });
}

unsafe extern "C" fn closed(_connect: virt_sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the one that was registered with this callback, and is freed only after it.
    let on_close = unsafe { &*opaque.cast::<OnClose>() };
    on_close(CloseReason::from_raw(reason.cast_unsigned()));
}

unsafe extern "C" fn on_lifecycle(
    _connect: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let lifecycle = Lifecycle::from_raw(event.cast_unsigned(), detail.cast_unsigned());
    // SAFETY: libvirt lends a valid domain for the time of the call, and `opaque` is the one that was registered.
    unsafe { send(domain, opaque, GuestEventKind::Lifecycle(lifecycle)) };
    0
}

unsafe extern "C" fn on_reboot(_connect: virt_sys::virConnectPtr, domain: virt_sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: as in `on_lifecycle`.
    unsafe { send(domain, opaque, GuestEventKind::Reboot) };
}

unsafe extern "C" fn on_watchdog(
    _connect: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    action: c_int,
    opaque: *mut c_void,
) {
    let action = WatchdogAction::from_raw(action.cast_unsigned());
    // SAFETY: as in `on_lifecycle`.
    unsafe { send(domain, opaque, GuestEventKind::Watchdog(action)) };
}

unsafe extern "C" fn on_io_error(
    _connect: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    path: *const c_char,
    alias: *const c_char,
    action: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's strings are valid for the time of the call; they are copied.
    let (path, alias, reason) = unsafe { (borrowed_string(path), borrowed_string(alias), borrowed_string(reason)) };
    let error = IoError { path, alias, action: IoErrorAction::from_raw(action.cast_unsigned()), reason };
    // SAFETY: as in `on_lifecycle`.
    unsafe { send(domain, opaque, GuestEventKind::IoError(error)) };
}

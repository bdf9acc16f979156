//! One open connection to libvirt. It dies with its daemon and is never repaired: the session opens another.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use virt::connect::Connect;

use super::error::{ConnectError, Failure};
use super::event::{CloseReason, Event};
use super::ffi;
use super::subscription::{Subscriptions, unwatch_close, watch_close};

/// How many signs of life a silent libvirtd may owe us before the connection ends.
const KEEPALIVE_COUNT: u32 = 5;

/// The driver type of QEMU, as `virConnectGetType` names it.
const QEMU: &str = "QEMU";

/// An open connection with its callbacks. Dropping it talks to the daemon, so it must happen on a thread of [`Calls`](super::calls::Calls).
pub(super) struct Connection {
    connect: Connect,
    subscriptions: Subscriptions,
    closed: watch::Receiver<Option<CloseReason>>,
    driver: String,
}

/// Why a connection could not be opened, before it is sorted into a [`ConnectError`].
#[derive(Debug)]
pub(super) struct OpenFailure {
    pub(super) source: Failure,
    /// The system's error number behind it, if there is one.
    pub(super) errno: Option<i32>,
}

/// Opens a connection with keepalive and without events. Blocking.
///
/// # Errors
/// What libvirt's client library says.
pub(super) fn open(uri: &str, keepalive_interval: Duration) -> Result<Connect, OpenFailure> {
    if uri.contains('\0') {
        // virt would panic on it.
        let source = Failure { code: virt_sys::VIR_ERR_INVALID_ARG, message: "it holds a NUL character".to_owned() };
        return Err(OpenFailure { source, errno: None });
    }
    let connect = Connect::open(Some(uri)).map_err(|error| {
        let errno = ffi::last_errno();
        OpenFailure { source: error.into(), errno }
    })?;
    // A driver inside our own process has no keepalive, and needs none.
    let seconds = i32::try_from(keepalive_interval.as_secs()).unwrap_or(i32::MAX).max(1);
    drop(connect.set_keep_alive(seconds, KEEPALIVE_COUNT));
    Ok(connect)
}

impl Connection {
    /// Opens a connection and subscribes to its events. Blocking.
    ///
    /// # Errors
    /// Typed by what the user can do about it.
    pub(super) fn open(
        uri: &Arc<str>,
        keepalive_interval: Duration,
        events: broadcast::Sender<Event>,
    ) -> Result<Self, ConnectError> {
        let failed = |source: Failure| ConnectError::Failed { uri: Arc::clone(uri), source };
        let connect = open(uri, keepalive_interval)
            .map_err(|failure| ConnectError::classify(Arc::clone(uri), failure.source, failure.errno))?;
        let driver = connect.driver_type().map_err(|error| failed(error.into()))?;
        let (closing, closed) = watch::channel(None);
        let on_close = move |reason| {
            closing.send_replace(Some(reason));
        };
        watch_close(&connect, Box::new(on_close)).map_err(failed)?;
        let subscriptions = Subscriptions::start(&connect, events).map_err(|failure| {
            unwatch_close(&connect);
            failed(failure)
        })?;
        Ok(Self { connect, subscriptions, closed, driver })
    }

    /// The handle for calls. Blocking ones.
    pub(super) fn connect(&self) -> &Connect {
        &self.connect
    }

    /// What is behind it: `QEMU`, or `TEST` for libvirt's own test driver.
    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    /// `flags` for QEMU, none for any other driver: libvirt's test driver refuses flags that mean something to QEMU alone.
    pub(super) fn qemu_flags(&self, flags: u32) -> u32 {
        if self.driver == QEMU { flags } else { 0 }
    }

    /// Whether the daemon is still at the other end. Asks nothing of it.
    pub(super) fn is_alive(&self) -> bool {
        self.closed.borrow().is_none() && self.connect.is_alive().unwrap_or(false)
    }

    /// Becomes `Some` when the connection is gone.
    pub(super) fn closed(&self) -> watch::Receiver<Option<CloseReason>> {
        self.closed.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.subscriptions.end(&self.connect);
        unwatch_close(&self.connect);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("driver", &self.driver).finish_non_exhaustive()
    }
}

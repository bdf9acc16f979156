//! One open connection to libvirt. It dies with its daemon and is never repaired: the session opens another.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use virt::connect::Connect;

use super::error::{ConnectError, Failure};
use super::event::CloseReason;
use super::ffi;
use super::subscription::{Sink, Subscriptions};

/// Seconds between two signs of life that we ask of libvirtd when it is silent.
const KEEPALIVE_INTERVAL_SECONDS: i32 = 5;

/// How many of them may stay unanswered. A daemon that hangs for half a minute loses us; that frees the threads that wait for it.
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
pub(super) fn open(uri: &str) -> Result<Connect, OpenFailure> {
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
    drop(connect.set_keep_alive(KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_COUNT));
    Ok(connect)
}

impl Connection {
    /// Opens a connection and subscribes to its events. Blocking.
    ///
    /// # Errors
    /// Typed by what the user can do about it.
    pub(super) fn open(
        uri: &Arc<str>,
        sink: impl FnOnce(watch::Sender<Option<CloseReason>>) -> Sink,
    ) -> Result<Self, ConnectError> {
        let failed = |source: Failure| ConnectError::Failed { uri: Arc::clone(uri), source };
        let connect =
            open(uri).map_err(|failure| ConnectError::classify(Arc::clone(uri), failure.source, failure.errno))?;
        let driver = connect.driver_type().map_err(|error| failed(error.into()))?;
        let (closed_sender, closed) = watch::channel(None);
        let subscriptions = Subscriptions::start(&connect, &sink(closed_sender)).map_err(failed)?;
        Ok(Self { connect, subscriptions, closed, driver })
    }

    /// The handle for calls. Blocking ones.
    pub(super) fn connect(&self) -> &Connect {
        &self.connect
    }

    /// What is behind it: `QEMU`, or `Test` for libvirt's own test driver.
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
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("driver", &self.driver).finish_non_exhaustive()
    }
}

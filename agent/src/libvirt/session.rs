//! The connection that comes back: one task that opens a new one whenever the old one dies.
//!
//! ```text
//! connected ── close callback ──► Disconnected sent ──► open, back-off 0.1 s to 5 s ──► subscribed ──► Reconnected sent ──► connected
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::LibvirtOptions;
use super::calls::Calls;
use super::connection::Connection;
use super::error::{ConnectError, Failure};
use super::event::{CloseReason, Event, Events};
use super::event_loop;
use super::threads::Threads;

/// How many events a slow receiver may lag behind. Guests can cause events (resets), so there is a limit.
const EVENT_CAPACITY: usize = 1024;

/// Threads for consoles. One is busy only while there is input on its way, or a console is being closed.
const MAX_CONSOLE_THREADS: usize = 64;

/// The wait before the second attempt to reconnect; it doubles up to [`MAX_BACK_OFF`].
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);

/// A local socket: asking it every few seconds costs nothing, and a daemon's restart should not be noticed late.
const MAX_BACK_OFF: Duration = Duration::from_secs(5);

/// After how long an attempt that gets no answer is reported. It is not given up: a second one beside it would hang as well.
const REPORT_HANGING_OPEN: Duration = Duration::from_secs(30);

/// What all clones of a handle share. Dropping it ends the task and closes the connection.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What handle and task share.
#[derive(Debug)]
struct Shared {
    options: LibvirtOptions,
    uri: Arc<str>,
    calls: Calls,
    console_threads: Threads,
    events: broadcast::Sender<Event>,
    connection: watch::Sender<Option<Arc<Connection>>>,
}

impl Session {
    /// Starts the event loop, opens the first connection and the task that replaces it.
    ///
    /// # Errors
    /// What hinders the first connection.
    pub(super) async fn start(options: LibvirtOptions) -> Result<Arc<Self>, ConnectError> {
        let uri: Arc<str> = options.uri.as_str().into();
        let failed = |source| ConnectError::Failed { uri: Arc::clone(&uri), source };
        event_loop::start_if_needed().map_err(failed)?;
        let no_threads = |error: std::io::Error| failed(Failure::internal(error.to_string()));
        let calls = Calls::new().map_err(no_threads)?;
        let console_threads = Threads::new("libvirt-console", MAX_CONSOLE_THREADS).map_err(no_threads)?;
        let deadline = options.call_deadline;
        let (events, _) = broadcast::channel(EVENT_CAPACITY);
        let (connection, _) = watch::channel(None);
        let shared = Arc::new(Shared { options, uri: Arc::clone(&uri), calls, console_threads, events, connection });

        let opened = timeout(deadline, shared.open()).await;
        let first = opened.map_err(|_| ConnectError::Deadline { uri: Arc::clone(&uri), deadline })??;
        let closed = first.closed();
        shared.connection.send_replace(Some(first));
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(keep_connected(Arc::clone(&shared), closed)));
        Ok(Arc::new(Self { shared, _stop: stop.drop_guard() }))
    }

    pub(super) fn options(&self) -> &LibvirtOptions {
        &self.shared.options
    }

    pub(super) fn uri(&self) -> &str {
        &self.shared.uri
    }

    pub(super) fn shared_uri(&self) -> &Arc<str> {
        &self.shared.uri
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.shared.calls
    }

    /// For consoles, whose guests may hold a thread up for as long as a connection may be silent.
    pub(super) fn console_threads(&self) -> &Threads {
        &self.shared.console_threads
    }

    pub(super) fn events(&self) -> Events {
        Events::new(self.shared.events.subscribe())
    }

    /// The present connection, if it still lives.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.shared.connection.borrow().as_ref().filter(|connection| connection.closed().borrow().is_none()).cloned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.retire();
    }
}

impl Shared {
    /// Opens a connection, however long it takes.
    async fn open(&self) -> Result<Arc<Connection>, ConnectError> {
        let (uri, keepalive, events) = (Arc::clone(&self.uri), self.options.keepalive_interval, self.events.clone());
        let (answer, opened) = oneshot::channel();
        self.calls.detach(move || {
            let connection = Connection::open(&uri, keepalive, events);
            // Without a receiver the connection is closed right here.
            drop(answer.send(connection));
        });
        let lost =
            || ConnectError::Failed { uri: Arc::clone(&self.uri), source: Failure::internal("opening panicked") };
        Ok(Arc::new(opened.await.map_err(|_| lost())??))
    }

    /// Takes the connection away and closes it on a thread of its own.
    fn retire(&self) {
        if let Some(connection) = self.connection.send_replace(None) {
            self.calls.detach(move || drop(connection));
        }
    }

    /// Opens connections until one holds, and says so in the log when it takes long.
    async fn reopen(&self) -> Arc<Connection> {
        let mut back_off = FIRST_BACK_OFF;
        loop {
            let mut opening = Box::pin(self.open());
            let opened = loop {
                if let Ok(opened) = timeout(REPORT_HANGING_OPEN, &mut opening).await {
                    break opened;
                }
                tracing::warn!(uri = %self.uri, "libvirt accepts the connection and does not answer");
            };
            match opened {
                Ok(connection) => return connection,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::debug!(uri = %self.uri, %error, cause, "no connection to libvirt yet");
                }
            }
            sleep(back_off).await;
            back_off = (back_off * 2).min(MAX_BACK_OFF);
        }
    }
}

/// Replaces the connection whenever it dies, for ever.
async fn keep_connected(shared: Arc<Shared>, mut closed: watch::Receiver<Option<CloseReason>>) {
    loop {
        // An error means that the callbacks are gone, and with them the connection.
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        let reason = reason.unwrap_or(CloseReason::Client);
        tracing::warn!(uri = %shared.uri, %reason, "connection to libvirt lost");
        shared.retire();
        // Nobody has to listen.
        drop(shared.events.send(Event::Disconnected(reason)));

        let connection = shared.reopen().await;
        closed = connection.closed();
        shared.connection.send_replace(Some(connection));
        tracing::info!(uri = %shared.uri, "connected to libvirt again");
        drop(shared.events.send(Event::Reconnected));
    }
}

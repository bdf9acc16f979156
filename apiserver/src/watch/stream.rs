//! One watch, as a stream of chunks of events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Start;
use super::event::{self, Encoder};
use crate::http::accept::Form;
use crate::http::query::Query;
use crate::registry::Resource;
use crate::server::Core;
use crate::status::ApiError;
use crate::store::{LogPage, StoreError};
use crate::verbs::read::Selection;

/// How long a watch lasts if the client does not say: as the real server, which picks between this and twice as long.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);

/// Bookmarks keep a quiet watch's version within the log; once a minute, as the real server.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);

/// A running watch.
pub(super) struct Watch {
    core: Arc<Core>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    selection: Selection,
    encoder: Encoder,
    notices: Receiver<u64>,
    shutdown: CancellationToken,
    state: State,
    deadline: Instant,
    /// When the next bookmark is due; `None`: the client wants none.
    bookmark: Option<Instant>,
}

/// How far a watch has come.
#[derive(Clone, Copy)]
enum State {
    Starting {
        mark_end: bool,
    },
    /// Everything up to this version has been sent.
    Sent(u64),
    /// The client has been told why there is no more.
    Ended,
}

impl Watch {
    pub(super) fn new(
        core: &Arc<Core>,
        resource: &Arc<Resource>,
        namespace: &str,
        selection: Selection,
        query: &Query,
        start: Start,
        form: Form,
    ) -> Self {
        let now = Instant::now();
        let timeout = query.timeout_seconds.filter(|seconds| *seconds > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        Self {
            core: Arc::clone(core),
            resource: Arc::clone(resource),
            namespace: (resource.is_namespaced && !namespace.is_empty()).then(|| namespace.to_owned()),
            selection,
            encoder: Encoder::new(form, &query.include_object),
            notices: core.store.subscribe(&resource.storage),
            shutdown: core.shutdown.clone(),
            state: match start {
                Start::Now { mark_end } => State::Starting { mark_end },
                Start::After(version) => State::Sent(version),
            },
            // A timeout beyond what the clock can hold is no timeout.
            deadline: now.checked_add(timeout).unwrap_or(now + DEFAULT_TIMEOUT),
            bookmark: query.allow_watch_bookmarks.then(|| now + BOOKMARK_INTERVAL),
        }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold(self, |mut watch| async move {
            let chunk = watch.next_chunk().await?;
            Some((Ok(Bytes::from(chunk)), watch))
        })
    }

    /// The next events; `None` at the end.
    async fn next_chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            // Marked as seen before the log is read: what is committed after the read wakes the wait below.
            self.notices.borrow_and_update();
            let step = match self.state {
                State::Ended => return None,
                State::Starting { mark_end } => self.initial(mark_end).await,
                State::Sent(version) => self.changes(version).await,
            };
            match step {
                Ok(chunk) if !chunk.is_empty() => return Some(chunk),
                Ok(_) => {}
                Err(error) => {
                    self.state = State::Ended;
                    return Some(event::error(&error));
                }
            }
            if !self.wait().await {
                return None;
            }
        }
    }

    /// Everything that is there.
    async fn initial(&mut self, mark_end: bool) -> Result<Vec<u8>, ApiError> {
        let listing = self.core.store.list(&self.resource.storage, self.namespace.as_deref()).await?;
        let mut chunk = Vec::new();
        for json in listing.items {
            if self.selection.matches_json(&self.resource, &json) {
                self.encoder.push(&mut chunk, "ADDED", &self.resource, &json);
            }
        }
        if mark_end {
            self.encoder.bookmark(&mut chunk, &self.resource, listing.version, true);
        }
        self.state = State::Sent(listing.version);
        Ok(chunk)
    }

    /// What the log has after `version`, and a bookmark if one is due.
    async fn changes(&mut self, mut version: u64) -> Result<Vec<u8>, ApiError> {
        let mut chunk = Vec::new();
        loop {
            let page = self.core.store.log_after(&self.resource.storage, self.namespace.as_deref(), version).await;
            let (entries, up_to) = match page {
                Ok(LogPage::Entries { entries, up_to }) => (entries, up_to),
                Ok(LogPage::Expired { oldest }) => return Err(ApiError::expired(version, oldest)),
                Err(error) => return Err(ended_by(error)),
            };
            for entry in &entries {
                if let Some((kind, json)) = event::as_seen(&self.selection, &self.resource, entry) {
                    self.encoder.push(&mut chunk, kind, &self.resource, &json);
                }
            }
            version = up_to;
            self.state = State::Sent(version);
            // A page without entries that the selectors pick must not make a quiet watch read on and on in one go.
            if entries.is_empty() || !chunk.is_empty() {
                break;
            }
        }
        if self.bookmark.is_some_and(|due| due <= Instant::now()) {
            self.encoder.bookmark(&mut chunk, &self.resource, version, false);
            self.bookmark = Some(Instant::now() + BOOKMARK_INTERVAL);
        }
        Ok(chunk)
    }

    /// Waits until there may be something to send; false when the watch is over.
    async fn wait(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        let wake = self.bookmark.map_or(self.deadline, |due| due.min(self.deadline));
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => false,
            changed = self.notices.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(wake) => wake < self.deadline,
        }
    }
}

/// A failing store ends a watch; the client lists and watches again.
fn ended_by(error: StoreError) -> ApiError {
    ApiError::from(error)
}

//! A blob's bytes, one piece after the other; where they break off they go on from there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::CONTENT_RANGE;
use ::http::{Method, Response, StatusCode};
use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::client::{Registry, Session};
use super::error::RegistryError;
use super::http::SILENCE_DEADLINE;
use super::manifest::Descriptor;

/// A blob may break off so often in a row.
const MAX_FAILURES: u32 = 5;
/// So many bytes without a break, and the earlier ones are forgotten.
const FORGIVING_BYTES: u64 = 1 << 20;
/// The pause after the first break; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// In this time ...
const PACE_WINDOW: Duration = Duration::from_mins(1);
/// ... so many bytes must come: a server that trickles would hold the pull for ever.
const PACE_BYTES: u64 = 64 << 10;

/// A blob on its way. Its digest is for the reader to check.
pub struct BlobStream {
    registry: Arc<Registry>,
    blob: Descriptor,
    offset: u64,
    body: Option<Body>,
    failures: u32,
    failed_at: u64,
}

struct Body {
    server: String,
    incoming: Incoming,
    /// Bytes that were read before, and are sent once more by a server that knows no ranges.
    skip: u64,
    window: (Instant, u64),
}

impl BlobStream {
    /// The blob from its first byte.
    pub fn new(registry: Arc<Registry>, blob: Descriptor) -> Self {
        Self { registry, blob, offset: 0, body: None, failures: 0, failed_at: 0 }
    }

    /// The next bytes; none after the last. Goes on where a connection broke off, at the next server if there is one.
    ///
    /// # Errors
    /// If no server goes on, or one sends more than the manifest says.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        while self.offset < self.blob.size {
            match self.read().await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) => self.pause_or_give_up(error).await?,
            }
        }
        Ok(None)
    }

    async fn pause_or_give_up(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.body = None;
        if self.offset - self.failed_at >= FORGIVING_BYTES {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        self.failures += 1;
        if !error.is_transient() || self.failures > MAX_FAILURES {
            return Err(error);
        }
        tracing::debug!(blob = %self.blob.digest, offset = self.offset, error = api::chain(&error), "broke off");
        tokio::time::sleep(FIRST_PAUSE * 2u32.pow(self.failures - 1)).await;
        Ok(())
    }

    async fn read(&mut self) -> Result<Bytes, RegistryError> {
        loop {
            let body = match &mut self.body {
                Some(body) => body,
                None => self.body.insert(open(&self.registry, &self.blob, self.offset).await?),
            };
            let mut bytes = body.next(self.offset, self.blob.size).await?;
            // Lossless: never more than there are.
            let again = usize::try_from(body.skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes.advance(again);
            body.skip -= again as u64;
            if bytes.is_empty() {
                continue;
            }
            self.offset += bytes.len() as u64;
            if self.offset > self.blob.size {
                let rule = format!("it sends more than the {} bytes of {}", self.blob.size, self.blob.digest);
                return Err(RegistryError::Protocol { registry: body.server.clone(), rule });
            }
            return Ok(bytes);
        }
    }
}

impl Body {
    async fn next(&mut self, offset: u64, size: u64) -> Result<Bytes, RegistryError> {
        let broken = |why: String| RegistryError::Unreachable { registry: self.server.clone(), why };
        let frame = timeout(SILENCE_DEADLINE, self.incoming.frame()).await;
        let frame = frame.map_err(|_| broken(format!("nothing came for {} s", SILENCE_DEADLINE.as_secs())))?;
        let frame = frame.ok_or_else(|| broken(format!("the connection ended after {offset} of {size} bytes")))?;
        let frame = frame.map_err(|error| broken(format!("after {offset} of {size} bytes: {}", api::chain(&error))))?;
        let bytes = frame.into_data().unwrap_or_default();
        self.window.1 += bytes.len() as u64;
        if self.window.0.elapsed() >= PACE_WINDOW {
            if self.window.1 < PACE_BYTES {
                return Err(broken(format!("only {} bytes came in {} s", self.window.1, PACE_WINDOW.as_secs())));
            }
            self.window = (Instant::now(), 0);
        }
        Ok(bytes)
    }
}

/// The first server that serves the blob from `offset` on.
async fn open(registry: &Registry, blob: &Descriptor, offset: u64) -> Result<Body, RegistryError> {
    let mut last = None;
    for session in registry.sessions.iter().filter(|session| session.endpoint.pulls) {
        match open_at(session, blob, offset).await {
            Ok(body) => return Ok(body),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| RegistryError::Protocol {
        registry: String::new(),
        rule: "its hosts.toml names no server that may be pulled from; check capabilities".to_owned(),
    }))
}

async fn open_at(session: &Session, blob: &Descriptor, offset: u64) -> Result<Body, RegistryError> {
    let what = format!("layer {}", blob.digest);
    let response = session.get(Method::GET, &format!("blobs/{}", blob.digest), "*/*", offset, &what).await?;
    let skip = if response.status() == StatusCode::PARTIAL_CONTENT {
        match range_start(&response) {
            Some(start) if start == offset => 0,
            _ => {
                return Err(session
                    .http
                    .protocol(format!("it answers with another range of {what} than was asked for")));
            }
        }
    } else {
        offset
    };
    Ok(Body {
        server: session.endpoint.name.clone(),
        incoming: response.into_body(),
        skip,
        window: (Instant::now(), 0),
    })
}

/// `bytes START-END/SIZE`
fn range_start(response: &Response<Incoming>) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.parse().ok()
}

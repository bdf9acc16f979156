//! Records core/v1 Events: one object a cause, repeated causes counted in it.
//!
//! [`Recorder::record`] only queues: what is recorded never delays, and never fails, what it is about. One task writes, in order. While the
//! API is away it waits; what the queue cannot hold is dropped with a warning.

mod aggregate;

use std::time::Duration;

use aggregate::{Aggregator, EventWrite};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{Api, Patch, PatchParams, PostParams, Request};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// As many events wait for an API that is away.
const QUEUE: usize = 1024;
/// Pause between two attempts.
const RETRY: Duration = Duration::from_secs(2);
/// An event that the API does not take in as many attempts is dropped, so that it does not hold up the others for ever.
const ATTEMPTS: u32 = 150;

/// Type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    /// All is well.
    Normal,
    /// Something wants attention.
    Warning,
}

impl EventType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `source.component`.
    pub component: String,
    /// `source.host`: a node's name.
    pub host: Option<String>,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The object: apiVersion, kind, namespace, name, uid.
    pub about: ObjectReference,
    /// Normal or Warning.
    pub type_: EventType,
    /// One CamelCase word.
    pub reason: String,
    /// For people; cut at 1024 bytes. Never holds a secret.
    pub message: String,
}

/// A handle to record with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Notice>,
}

impl Recorder {
    /// Starts the task that writes. It ends with `cancel`, or with the last handle.
    pub fn start(client: Client, source: Source, cancel: CancellationToken) -> Self {
        let (queue, notices) = mpsc::channel(QUEUE);
        tokio::spawn(cancel.run_until_cancelled_owned(write_all(client, source, notices)));
        Self { queue }
    }

    /// A recorder whose notices come out of the receiver: for tests.
    pub fn to_channel() -> (Self, mpsc::Receiver<Notice>) {
        let (queue, notices) = mpsc::channel(QUEUE);
        (Self { queue }, notices)
    }

    /// Records a notice.
    pub fn record(&self, notice: Notice) {
        if let Err(error) = self.queue.try_send(notice) {
            warn!(%error, "event dropped");
        }
    }
}

/// A reference to an object, for [`Notice::about`].
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: Resource<DynamicType = ()>,
{
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: object.namespace(),
        name: Some(object.name_any()),
        uid: object.uid(),
        ..ObjectReference::default()
    }
}

/// Writes notices in order.
async fn write_all(client: Client, source: Source, mut notices: mpsc::Receiver<Notice>) {
    let mut aggregator = Aggregator::new(source);
    while let Some(notice) = notices.recv().await {
        for attempt in 1..=ATTEMPTS {
            match write_one(&client, &mut aggregator, &notice).await {
                Ok(()) => break,
                Err(error) if is_final(&error) => {
                    debug!(%error, reason = notice.reason, "event refused");
                    break;
                }
                Err(error) if attempt == ATTEMPTS => warn!(%error, reason = notice.reason, "event dropped"),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

/// Creates the event, or counts it in the one that is there.
async fn write_one(client: &Client, aggregator: &mut Aggregator, notice: &Notice) -> Result<(), kube::Error> {
    let namespace = notice.about.namespace.as_deref().unwrap_or("default");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    if let EventWrite::Count { name, patch } = aggregator.plan(notice, Timestamp::now()) {
        match events.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                aggregator.counted(notice);
                return Ok(());
            }
            // Events expire.
            Err(kube::Error::Api(status)) if status.code == 404 => aggregator.forget(notice),
            Err(error) => return Err(error),
        }
    }
    let EventWrite::Create { event } = aggregator.plan(notice, Timestamp::now()) else { return Ok(()) };
    let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
    let request = Request::new(events.resource_url()).create(&PostParams::default(), body);
    // The answer is what was sent, and longer: nobody reads it.
    client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
    aggregator.created(notice, event.name_any());
    Ok(())
}

/// Whether the same request would be refused again.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 && status.code != 409)
}

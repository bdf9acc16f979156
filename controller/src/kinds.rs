//! Watches the two CustomResourceDefinitions, and says whether they are ours: now, and whenever that changes.

use std::collections::{BTreeMap, BTreeSet};

use api::chain;
use api::names::PART_OF_LABEL;
use events::{EventType, Notice, Recorder};
use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::ApiResource;
use kube::core::object::Object;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use plan::cluster::{DEFINITIONS, DefinitionFacts, KindsVerdict, judge_kinds};
use serde::{Deserialize, Serialize};
use telemetry::Health;
use tokio::sync::watch::Sender;

use crate::watch::{Pauses, WATCH_SECONDS};

/// What the health says this is.
const CONDITION: &str = "kinds";

/// A CustomResourceDefinition without its schemas, which are the most of it.
type Definition = Object<DefinitionSpec, DefinitionStatus>;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct DefinitionSpec {
    versions: Vec<DefinitionVersion>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct DefinitionVersion {
    name: String,
    served: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct DefinitionStatus {
    /// `null` in a definition that has just been made.
    conditions: Option<Vec<DefinitionCondition>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct DefinitionCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

/// What is known of the definitions; says so where it changes.
struct Kinds {
    health: Health,
    recorder: Recorder,
    found: BTreeMap<&'static str, DefinitionFacts>,
    uids: BTreeMap<&'static str, Option<String>>,
    listed: BTreeSet<&'static str>,
    verdict: Sender<Option<KindsVerdict>>,
    last_error: Option<String>,
}

/// Watches until it is dropped. `verdict` gets none before the API server has answered.
pub(crate) async fn watch_kinds(
    client: Client,
    health: Health,
    recorder: Recorder,
    verdict: Sender<Option<KindsVerdict>>,
) {
    health.set(CONDITION, Err("the API server has not answered yet".to_owned()));
    let streams = DEFINITIONS.map(|name| stream(client.clone(), name));
    let mut events = select_all(streams);
    let mut kinds = Kinds {
        health,
        recorder,
        found: BTreeMap::new(),
        uids: BTreeMap::new(),
        listed: BTreeSet::new(),
        verdict,
        last_error: None,
    };
    while let Some((name, event)) = events.next().await {
        match event {
            Ok(event) => kinds.take_in(name, event),
            Err(error) => kinds.note_error(name, &error),
        }
    }
}

type Told = (&'static str, Result<Event<Definition>, watcher::Error>);

fn stream(client: Client, name: &'static str) -> BoxStream<'static, Told> {
    let resource = ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    };
    let definitions: Api<Definition> = Api::all_with(client, &resource);
    let config = Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    watcher(definitions, config).backoff(Pauses::default()).map(move |event| (name, event)).boxed()
}

impl Kinds {
    fn take_in(&mut self, name: &'static str, event: Event<Definition>) {
        match event {
            Event::Init => {
                self.listed.remove(name);
                self.found.remove(name);
                return;
            }
            Event::InitApply(definition) => {
                self.put(name, &definition);
                return;
            }
            Event::Apply(definition) => self.put(name, &definition),
            Event::Delete(_) => drop(self.found.remove(name)),
            Event::InitDone => {
                self.listed.insert(name);
            }
        }
        if self.last_error.take().is_some() {
            tracing::info!("the API server answers");
        }
        if self.listed.len() == DEFINITIONS.len() {
            self.judge();
        }
    }

    fn put(&mut self, name: &'static str, definition: &Definition) {
        let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let facts = DefinitionFacts {
            part_of: definition.labels().get(PART_OF_LABEL).cloned(),
            served: definition.spec.versions.iter().filter(|one| one.served).map(|one| one.name.clone()).collect(),
            established: conditions.iter().any(|one| one.type_ == "Established" && one.status == "True"),
        };
        self.found.insert(name, facts);
        self.uids.insert(name, definition.meta().uid.clone());
    }

    fn judge(&mut self) {
        let verdict = judge_kinds(&self.found);
        if self.verdict.borrow().as_ref() == Some(&verdict) {
            return;
        }
        match &verdict {
            KindsVerdict::Ours => self.health.set(CONDITION, Ok(())),
            KindsVerdict::Missing(message) => {
                tracing::warn!("{message}; waiting for it");
                self.health.set(CONDITION, Err(message.clone()));
            }
            KindsVerdict::Foreign { definition, message } => {
                tracing::error!("{message}");
                self.health.set(CONDITION, Err(message.clone()));
                self.tell(definition, message);
            }
        }
        self.verdict.send_replace(Some(verdict));
    }

    /// An event on the definition, where `kubectl describe crd` shows it.
    fn tell(&self, definition: &'static str, message: &str) {
        let about = ObjectReference {
            api_version: Some("apiextensions.k8s.io/v1".to_owned()),
            kind: Some("CustomResourceDefinition".to_owned()),
            name: Some(definition.to_owned()),
            uid: self.uids.get(definition).cloned().flatten(),
            ..ObjectReference::default()
        };
        let (reason, message) = ("ForeignDefinition".to_owned(), message.to_owned());
        self.recorder.record(Notice { about, type_: EventType::Warning, reason, message });
    }

    /// Said once, until something else is wrong. What was last known of the definitions still holds.
    fn note_error(&mut self, name: &'static str, error: &watcher::Error) {
        let error = chain(error);
        if self.verdict.borrow().is_none() {
            self.health.set(CONDITION, Err(format!("cannot read CustomResourceDefinition {name}: {error}")));
        }
        if self.last_error.as_ref() != Some(&error) {
            tracing::warn!(error, "cannot read CustomResourceDefinition {name}; trying again");
            self.last_error = Some(error);
        }
    }
}

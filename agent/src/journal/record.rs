//! The journal's lines, and what they add up to. Pure.

use std::collections::BTreeMap;

use api::v1alpha1::Phase;
use jiff::Timestamp;
use plan::node::{FinalState, GuestKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is known, one entry a VM UID.
pub(super) type Entries = BTreeMap<String, Entry>;

/// What is known of one VM.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) start: Option<Start>,
    pub(super) end: Option<End>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub(super) enum Record {
    Start {
        uid: String,
        namespace: String,
        name: String,
        #[serde(flatten)]
        start: Start,
    },
    Settled {
        uid: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run_id: Option<u32>,
    },
    End {
        uid: String,
        namespace: String,
        name: String,
        #[serde(flatten)]
        end: End,
    },
    Forget {
        uid: String,
    },
}

/// A start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) boot: String,
    #[serde(default)]
    pub(super) settled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run_id: Option<u32>,
    /// None in a line of a version that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) firmware_uuid: Option<Uuid>,
}

/// A final state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct End {
    phase: Phase,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Entry {
    pub(super) fn key(&self) -> GuestKey {
        GuestKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl Record {
    /// The line, with its end.
    pub(super) fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings, numbers and times are JSON");
        line.push('\n');
        line
    }

    /// Adds the record to what is known.
    pub(super) fn apply(self, entries: &mut Entries) {
        match self {
            Self::Start { uid, namespace, name, start } => entry(entries, uid, namespace, name).start = Some(start),
            Self::End { uid, namespace, name, end } => entry(entries, uid, namespace, name).end = Some(end),
            Self::Settled { uid, run_id } => {
                if let Some(start) = entries.get_mut(&uid).and_then(|entry| entry.start.as_mut()) {
                    start.settled = true;
                    start.run_id = run_id.or(start.run_id);
                }
            }
            Self::Forget { uid } => {
                entries.remove(&uid);
            }
        }
    }
}

impl From<&FinalState> for End {
    fn from(end: &FinalState) -> Self {
        Self { phase: end.phase, reason: end.reason.clone(), message: end.message.clone(), at: end.at }
    }
}

impl From<&End> for FinalState {
    fn from(end: &End) -> Self {
        Self { phase: end.phase, reason: end.reason.clone(), message: end.message.clone(), at: end.at }
    }
}

fn entry(entries: &mut Entries, uid: String, namespace: String, name: String) -> &mut Entry {
    entries.entry(uid).or_insert(Entry { namespace, name, start: None, end: None })
}

/// What a journal's text adds up to. The last line may be cut short.
pub(super) fn replay(text: &str) -> Result<Entries, serde_json::Error> {
    let mut entries = Entries::new();
    for line in text.split_inclusive('\n') {
        match serde_json::from_str::<Record>(line) {
            Ok(record) => record.apply(&mut entries),
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

/// The shortest journal that adds up to `entries`.
pub(super) fn snapshot(entries: &Entries) -> Vec<Record> {
    let records = |(uid, entry): (&String, &Entry)| {
        let (uid, namespace, name) = (uid.clone(), entry.namespace.clone(), entry.name.clone());
        let start = entry.start.clone();
        let start = start.map(|start| Record::Start {
            uid: uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            start,
        });
        let end = entry.end.clone().map(|end| Record::End { uid, namespace, name, end });
        start.into_iter().chain(end)
    };
    entries.iter().flat_map(records).collect()
}

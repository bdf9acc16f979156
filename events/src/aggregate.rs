//! Which Event object a notice belongs in. Pure: time is an argument.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::{EventType, Notice, Source};

/// As many causes are remembered; then the half unseen for longest is forgotten, and its next notices make new Events.
const MEMORY: usize = 1024;
/// The API takes no longer message.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Notices with equal causes share an Event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    uid: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    type_: EventType,
    reason: String,
    message: String,
}

#[derive(Clone, Debug)]
struct Known {
    name: String,
    count: i32,
    last_use: u64,
}

/// What to do about a notice.
#[derive(Debug)]
pub(super) enum EventWrite {
    /// Make a new Event.
    Create { event: Box<Event> },
    /// Merge this into the Event of that name.
    Count { name: String, patch: Value },
}

/// Remembers which causes have an Event.
#[derive(Debug)]
pub(super) struct Aggregator {
    source: Source,
    known: BTreeMap<Cause, Known>,
    uses: u64,
}

impl Aggregator {
    pub(super) fn new(source: Source) -> Self {
        Self { source, known: BTreeMap::new(), uses: 0 }
    }

    /// What to do about a notice now.
    pub(super) fn plan(&self, notice: &Notice, now: Timestamp) -> EventWrite {
        match self.known.get(&Cause::of(notice)) {
            Some(known) => EventWrite::Count {
                name: known.name.clone(),
                patch: json!({"count": known.count.saturating_add(1), "lastTimestamp": whole_seconds(now)}),
            },
            None => EventWrite::Create { event: Box::new(self.make_event(notice, now)) },
        }
    }

    /// The Event was made, under this name.
    pub(super) fn created(&mut self, notice: &Notice, name: String) {
        self.uses += 1;
        self.known.insert(Cause::of(notice), Known { name, count: 1, last_use: self.uses });
        if self.known.len() > MEMORY {
            let mut uses: Vec<u64> = self.known.values().map(|known| known.last_use).collect();
            let (_, median, _) = uses.select_nth_unstable(MEMORY / 2);
            let median = *median;
            self.known.retain(|_, known| known.last_use > median);
        }
    }

    /// The notice was counted in its Event.
    pub(super) fn counted(&mut self, notice: &Notice) {
        self.uses += 1;
        if let Some(known) = self.known.get_mut(&Cause::of(notice)) {
            known.count = known.count.saturating_add(1);
            known.last_use = self.uses;
        }
    }

    /// The Event is gone.
    pub(super) fn forget(&mut self, notice: &Notice) {
        self.known.remove(&Cause::of(notice));
    }

    fn make_event(&self, notice: &Notice, now: Timestamp) -> Event {
        let object = notice.about.name.as_deref().unwrap_or("object");
        // Kubernetes' own form; a DNS subdomain holds at most 253 characters.
        let object = object.get(..220).unwrap_or(object).trim_end_matches(['.', '-']);
        let name = format!("{object}.{:x}{:02x}", now.as_nanosecond(), self.uses % 256);
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(notice.about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference { resource_version: None, ..notice.about.clone() },
            type_: Some(notice.type_.as_str().to_owned()),
            reason: Some(notice.reason.clone()),
            message: Some(cut(&notice.message).to_owned()),
            source: Some(EventSource {
                component: Some(self.source.component.clone()),
                host: self.source.host.clone(),
            }),
            reporting_component: Some(self.source.component.clone()),
            reporting_instance: Some(self.source.host.clone().unwrap_or_default()),
            count: Some(1),
            first_timestamp: Some(Time(whole_seconds(now))),
            last_timestamp: Some(Time(whole_seconds(now))),
            ..Event::default()
        }
    }
}

impl Cause {
    fn of(notice: &Notice) -> Self {
        let about = &notice.about;
        Self {
            uid: about.uid.clone(),
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            type_: notice.type_,
            reason: notice.reason.clone(),
            message: notice.message.clone(),
        }
    }
}

/// The wire holds whole seconds.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregator() -> Aggregator {
        Aggregator::new(Source { component: "virt-handler".to_owned(), host: Some("node1".to_owned()) })
    }

    fn notice(uid: &str, message: &str) -> Notice {
        Notice {
            about: ObjectReference {
                kind: Some("VirtualMachine".to_owned()),
                namespace: Some("ns".to_owned()),
                name: Some("vm".to_owned()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            },
            type_: EventType::Warning,
            reason: "SyncFailed".to_owned(),
            message: message.to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_repeated_cause_is_counted_in_one_event() {
        let mut aggregator = aggregator();
        let EventWrite::Create { event } = aggregator.plan(&notice("a", "m"), at(10)) else {
            panic!("first notice makes an event")
        };
        let source = event.source.clone().unwrap();
        assert_eq!((source.component.as_deref(), source.host.as_deref()), (Some("virt-handler"), Some("node1")));
        assert_eq!((event.count, event.type_.as_deref()), (Some(1), Some("Warning")));
        aggregator.created(&notice("a", "m"), event.metadata.name.clone().unwrap());
        for expected in 2..=4 {
            let EventWrite::Count { name, patch } = aggregator.plan(&notice("a", "m"), at(20)) else {
                panic!("counted")
            };
            assert_eq!(Some(name), event.metadata.name);
            assert_eq!(patch["count"], expected);
            aggregator.counted(&notice("a", "m"));
        }
    }

    #[test]
    fn another_message_or_object_is_another_event() {
        let mut aggregator = aggregator();
        aggregator.created(&notice("a", "m"), "e".to_owned());
        assert!(matches!(aggregator.plan(&notice("a", "other"), at(1)), EventWrite::Create { .. }));
        assert!(matches!(aggregator.plan(&notice("b", "m"), at(1)), EventWrite::Create { .. }));
        aggregator.forget(&notice("a", "m"));
        assert!(
            matches!(aggregator.plan(&notice("a", "m"), at(1)), EventWrite::Create { .. }),
            "an expired event is made anew"
        );
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_in_use() {
        let mut aggregator = aggregator();
        aggregator.created(&notice("a", "old"), "old".to_owned());
        for i in 0..MEMORY {
            aggregator.counted(&notice("a", "old"));
            aggregator.created(&notice("a", &i.to_string()), i.to_string());
        }
        assert!(aggregator.known.len() <= MEMORY);
        assert!(matches!(aggregator.plan(&notice("a", "old"), at(1)), EventWrite::Count { .. }));
    }

    #[test]
    fn a_long_name_is_cut_where_a_word_of_it_ends() {
        let mut long = notice("a", "m");
        long.about.name = Some(format!("{}-.{}", "a".repeat(218), "b".repeat(33)));
        let EventWrite::Create { event } = aggregator().plan(&long, at(1)) else { panic!("an event") };
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && name.starts_with(&format!("{}.", "a".repeat(218))), "{name}");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(cut(&"ä".repeat(1000)).len(), 1024);
        assert_eq!(cut(&format!("x{}", "ä".repeat(1000))).len(), 1023);
    }
}

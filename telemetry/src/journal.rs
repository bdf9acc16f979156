//! Log lines into systemd's journal, each with its fields, and those of the spans around it, as fields of the entry; the message has them too, because that is
//! what `journalctl` shows.
//!
//! The protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. Of our own, because `tracing-journald` leaves the fields out of the message, and an operator
//! who reads `step failed` wants to know which, and why.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The field whose value the message begins with.
const MESSAGE: &str = "message";
/// A datagram may not be longer; an entry that is is cut to its message, and the message to half of it.
const LONGEST: usize = 64 * 1024;

/// Sends what is logged to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
}

/// Fields of an event or a span, in the order in which they were given.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, String)>);

impl Journal {
    /// Connects to the journal.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        Ok(Self { socket })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                own.0.extend(fields.0.iter().cloned());
            }
        }
        let entry = entry(*event.metadata().level(), event.metadata().target(), &own);
        // A journal that is away is told of nothing, and nobody could be told so.
        let _unheard = self.socket.send(&entry);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

/// An entry as journald takes it.
fn entry(level: Level, target: &str, fields: &Fields) -> Vec<u8> {
    let mut message = String::new();
    for (_, value) in fields.0.iter().filter(|(name, _)| *name == MESSAGE) {
        message.push_str(value);
    }
    for (name, value) in fields.0.iter().filter(|(name, value)| *name != MESSAGE && !value.is_empty()) {
        let _ = write!(message, " {name}={value}"); // writing to a String cannot fail
    }
    message.truncate(message.floor_char_boundary(LONGEST / 2));
    let mut entry = Vec::with_capacity(512);
    push(&mut entry, "MESSAGE", &message);
    push(&mut entry, "PRIORITY", priority(level));
    push(&mut entry, "TARGET", target);
    push(&mut entry, "SYSLOG_IDENTIFIER", identifier());
    let end_of_message = entry.len();
    for (name, value) in fields.0.iter().filter(|(name, _)| *name != MESSAGE) {
        push(&mut entry, &field_name(name), value);
    }
    if entry.len() > LONGEST {
        entry.truncate(end_of_message);
    }
    entry
}

/// One field, in the form that may have line ends in its value.
fn push(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// The journal's names have capital letters, digits and `_`, and begin with a letter.
fn field_name(name: &str) -> String {
    let upper = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    upper.skip_while(|c| !c.is_ascii_alphabetic()).collect()
}

/// syslog's numbers.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// The program's name, as syslog would have it.
fn identifier() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        let path = std::env::current_exe().unwrap_or_default();
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an entry back.
    fn read(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            let length = usize::try_from(u64::from_le_bytes(entry[end + 1..end + 9].try_into().unwrap())).unwrap();
            let value = String::from_utf8(entry[end + 9..end + 9 + length].to_vec()).unwrap();
            fields.push((name, value));
            assert_eq!(entry[end + 9 + length], b'\n');
            entry = &entry[end + 10 + length..];
        }
        fields
    }

    #[test]
    fn an_entry_has_each_field_and_a_message_with_all_of_them() {
        let fields = Fields(vec![
            (MESSAGE, "step failed".to_owned()),
            ("error", "two\nMESSAGE=lines".to_owned()),
            ("vm.name", "a".to_owned()),
        ]);
        let fields = read(&entry(Level::WARN, "agent", &fields));
        let value = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str());
        assert_eq!(value("MESSAGE"), Some("step failed error=two\nMESSAGE=lines vm.name=a"));
        assert_eq!((value("PRIORITY"), value("TARGET")), (Some("4"), Some("agent")));
        // I7: a value cannot make a field.
        assert_eq!((value("ERROR"), value("VM_NAME")), (Some("two\nMESSAGE=lines"), Some("a")));
        assert_eq!(fields.iter().filter(|field| field.0 == "MESSAGE").count(), 1);
    }

    #[test]
    fn an_entry_that_is_too_long_is_cut_to_a_message_that_is_cut() {
        let long = "ü".repeat(LONGEST);
        let with = |value: &str| {
            let fields = Fields(vec![(MESSAGE, long.clone()), ("vm.name", value.to_owned())]);
            let entry = entry(Level::WARN, "agent", &fields);
            assert!(entry.len() <= LONGEST, "{} bytes", entry.len());
            read(&entry)
        };
        let fits = with("a");
        assert_eq!(fits.iter().map(|field| field.1.len()).max(), Some(LONGEST / 2));
        assert!(fits.iter().any(|field| field.0 == "VM_NAME"));
        assert!(with(&long).iter().all(|field| field.0 != "VM_NAME"));
    }

    #[test]
    fn a_name_that_the_journal_would_refuse_is_made_one_that_it_takes() {
        assert_eq!(field_name("_uid"), "UID");
        assert_eq!(field_name("after-ms"), "AFTER_MS");
    }
}

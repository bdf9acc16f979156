//! Whole domains, as text to be read by people.

use quick_xml::events::Event;
use quick_xml::{Reader, Writer};

use super::Guest;

/// The document, one element a line.
fn pretty(xml: &str) -> String {
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Eof => return String::from_utf8(writer.into_inner()).expect("text"),
            event => writer.write_event(event).expect("writes to memory"),
        }
    }
}

#[test]
fn guide_example_under_kvm() {
    insta::assert_snapshot!(pretty(&Guest::guide().xml()));
}

#[test]
fn guide_example_under_emulation() {
    insta::assert_snapshot!(pretty(&Guest::guide().emulated().xml()));
}

#[test]
fn everything_under_kvm() {
    insta::assert_snapshot!(pretty(&Guest::full().xml()));
}

#[test]
fn everything_under_emulation() {
    insta::assert_snapshot!(pretty(&Guest::full().emulated().xml()));
}

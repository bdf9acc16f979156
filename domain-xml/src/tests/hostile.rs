//! Strings that try to leave their place in the document (I7).
//!
//! Admission and the API server refuse most of these long before; here they are put into the input directly, as if both had failed.

use api::validated::{ClockBase, Hyperv};
use proptest::prelude::*;
use quick_xml::events::Event;

use super::{Guest, allowed_paths};
use crate::{DiskFormat, DiskSource, Network, check_allowed, parse, parse_metadata, render_metadata};

/// Puts a text into one place of a guest.
type Put = fn(&mut Guest, String);

/// Pieces that mean something to XML, libvirt or a file system, among any other text.
fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("'/><disk type='file'/><x a='".to_owned()),
        Just("\"/><qemu:commandline/>".to_owned()),
        Just("</kubevirt:name></metadata><devices>".to_owned()),
        Just("]]>".to_owned()),
        Just("<!--".to_owned()),
        Just("&lt;&#60;&x;".to_owned()),
        Just("../../etc/shadow".to_owned()),
        any::<String>(),
        "[ -~]{0,8}",
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

/// Names and order of all elements: what a hostile string would have to change.
fn skeleton(xml: &str) -> Vec<String> {
    let mut reader = quick_xml::reader::Reader::from_str(xml);
    let mut names = Vec::new();
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(start) | Event::Empty(start) => names.push(start.name().as_ref().to_owned()),
            Event::Eof => return names,
            Event::End(_) | Event::Text(_) | Event::GeneralRef(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// A guest with a harmless text in every place that a text can be in.
fn guest_with(text: &str) -> Guest {
    let mut guest = Guest::guide();
    guest.metadata.installation = text.to_owned();
    guest.metadata.node = text.to_owned();
    guest.metadata.namespace = text.to_owned();
    guest.metadata.name = text.to_owned();
    guest.metadata.uid = text.to_owned();
    guest.machine_type = text.to_owned();
    guest.network = Network::Bridge(text.to_owned());
    guest.nic_model = text.to_owned();
    guest.console_log = format!("/var/log/ovm/{text}");
    guest.spec.clock.base = ClockBase::Timezone(text.to_owned());
    guest.spec.features.hyperv = Some(Hyperv { vendorid: Some(Some(text.to_owned())), ..Hyperv::default() });
    guest.spec.disks[0].name = text.to_owned();
    guest
        .disk_sources
        .insert("registryvolume".to_owned(), DiskSource::file(format!("/var/lib/ovm/{text}"), DiskFormat::Raw));
    guest
}

proptest! {
    #[test]
    fn i7_no_string_adds_an_element_and_each_reads_back(text in hostile_text()) {
        let guest = guest_with(&text);
        // What XML cannot carry, and paths that would lead elsewhere, are refused; all else is carried as it is.
        let Ok(xml) = guest.render() else {
            let bad_part = text.split('/').any(|part| matches!(part, "" | "." | ".."));
            let refusable = bad_part || text.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'));
            prop_assert!(refusable, "refused for nothing: {text:?}");
            return Ok(());
        };
        prop_assert_eq!(skeleton(&xml), skeleton(&guest_with("harmless").render().expect("renders")));
        let observed = parse(&xml).expect("reads");
        prop_assert_eq!(observed.metadata, Some(guest.metadata.clone()));
        prop_assert_eq!(observed.machine_type, text.clone());
        prop_assert_eq!(parse_metadata(&render_metadata(&guest.metadata).expect("renders")).expect("reads"), guest.metadata);
    }

    #[test]
    fn i7_what_the_allow_list_passes_has_no_path_outside(path in hostile_text()) {
        let mut guest = Guest::guide();
        guest.disk_sources.insert("registryvolume".to_owned(), DiskSource::file(format!("/{path}"), DiskFormat::Raw));
        if let Ok(xml) = guest.render() {
            let inside = path.starts_with("var/lib/ovm/") && path.len() > "var/lib/ovm/".len();
            prop_assert!(check_allowed(&xml, &allowed_paths()).is_err() || inside, "{path:?}");
        }
    }
}

#[test]
fn a_refused_string_names_its_field() {
    let places: [(&str, Put); 7] = [
        ("metadata.name", |guest, text| guest.metadata.name = text),
        ("machine_type", |guest, text| guest.machine_type = text),
        ("network", |guest, text| guest.network = Network::Libvirt(text)),
        ("nic_model", |guest, text| guest.nic_model = text),
        ("console_log", |guest, text| guest.console_log = format!("/var/log/ovm/{text}")),
        ("clock.timezone", |guest, text| guest.spec.clock.base = ClockBase::Timezone(text)),
        ("disk_sources[registryvolume]", |guest, text| {
            guest
                .disk_sources
                .insert("registryvolume".to_owned(), DiskSource::file(format!("/var/lib/ovm/{text}"), DiskFormat::Raw));
        }),
    ];
    for (field, put) in places {
        let mut guest = Guest::guide();
        put(&mut guest, "a\u{8}b".to_owned());
        let error = guest.render().expect_err(field);
        assert_eq!(error.to_string(), format!("field {field} has character U+0008, which domain XML cannot carry"));
    }
}

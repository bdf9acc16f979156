//! Every kind of domain that we render, against libvirt's own schema.

#![expect(clippy::disallowed_types, reason = "a test runs xmllint; the crate itself starts nothing")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Guest;
use crate::{DiskSource, Network};

/// Where libvirt's packages put it.
const SCHEMA: &str = "/usr/share/libvirt/schemas/domain.rng";

/// Fails if the schema refuses the document.
fn validate(what: &str, xml: &str) {
    let mut xmllint = Command::new("xmllint")
        .args(["--noout", "--nonet", "--relaxng", SCHEMA, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start xmllint");
    xmllint.stdin.take().expect("a pipe").write_all(xml.as_bytes()).expect("write to xmllint");
    let output = xmllint.wait_with_output().expect("wait for xmllint");
    assert!(output.status.success(), "{what}: {}\n{xml}", String::from_utf8_lossy(&output.stderr));
}

fn domain(domain: &Value) -> Guest {
    Guest::new(domain, &json!([]))
}

/// What the golden documents do not show.
fn variants() -> Vec<(&'static str, Guest)> {
    let buses = ["virtio", "sata", "scsi", "usb"].iter().cycle().take(256);
    let disks: Vec<_> = buses.map(|bus| json!({"disk": {"bus": bus}})).collect();
    let removable =
        [json!({"cdrom": {"tray": "open"}}), json!({"floppy": {"tray": "open"}}), json!({"cdrom": {"bus": "usb"}})];
    let mut luns = Guest::with_disks("q35", &[json!({"lun": {}}), json!({"lun": {"bus": "virtio", "readonly": true}})]);
    for source in luns.disk_sources.values_mut() {
        *source = DiskSource::block("/dev/vg0/claim");
    }
    vec![
        ("256 disks", Guest::with_disks("q35", &disks)),
        ("pc", Guest::with_disks("pc", &[json!({"disk": {"bus": "ide"}}), json!({"cdrom": {"bus": "ide"}})])),
        ("empty drives", Guest::with_disks("q35", &removable)),
        ("luns", luns),
        (
            "nothing",
            domain(&json!({"features": {"acpi": {"enabled": false}, "apic": {"enabled": false}}, "devices": {}})),
        ),
        ("time zone", domain(&json!({"clock": {"timezone": "Europe/Berlin"}, "devices": {}}))),
        ("empty hyperv", domain(&json!({"features": {"hyperv": {}}, "devices": {}}))),
        ("no network", Guest { network: Network::None, ..Guest::guide() }),
        ("libvirt network", Guest { network: Network::Libvirt("default".to_owned()), ..Guest::guide() }),
        ("bridge", Guest { network: Network::Bridge("br0".to_owned()), ..Guest::guide() }),
    ]
}

#[test]
fn every_rendered_domain_is_valid_by_libvirts_schema() {
    if !Path::new(SCHEMA).exists() || Command::new("xmllint").arg("--version").stderr(Stdio::null()).status().is_err() {
        eprintln!(
            "SKIPPED every_rendered_domain_is_valid_by_libvirts_schema: needs xmllint (libxml2-utils) and {SCHEMA} (libvirt)"
        );
        return;
    }
    let golden = [("guide", Guest::guide()), ("everything", Guest::full())];
    for (what, guest) in golden.into_iter().chain(variants()) {
        validate(what, &guest.xml());
        validate(what, &guest.emulated().xml());
    }
}

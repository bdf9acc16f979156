//! What is rendered, and what libvirt makes of it, read back.

use std::path::PathBuf;

use proptest::prelude::*;

use super::Guest;
use crate::{ParseError, disk_alias, parse};

/// The guide's example as libvirt 11.3 described it while it ran.
const RUNNING: &str = include_str!("libvirt-11.3/guide-running.xml");

#[test]
fn a_rendered_domain_reads_back() {
    let guest = Guest::full().emulated();
    let observed = parse(&guest.xml()).expect("reads");
    assert_eq!(observed.name, "default_ovm-cirros");
    assert_eq!(observed.uuid, guest.spec.firmware_uuid.expect("the spec has one"));
    assert_eq!((observed.domain_type.as_str(), observed.machine_type.as_str()), ("qemu", "pc-q35-10.0"));
    assert_eq!(observed.metadata, Some(guest.metadata));
    assert_eq!(observed.console_log, Some(PathBuf::from(guest.console_log)));
    let aliases: Vec<_> = observed.disks.iter().map(|disk| disk.alias.clone()).collect();
    let expected: Vec<_> = guest.spec.disks.iter().map(|disk| Some(disk_alias(&disk.name))).collect();
    assert_eq!(aliases, expected);
}

#[test]
fn a_running_domain_shows_layers_addresses_and_macs() {
    let observed = parse(RUNNING).expect("reads");
    assert_eq!(observed.metadata, Some(Guest::guide().metadata));
    let layers: Vec<_> = observed.disks.iter().map(|disk| (disk.target.as_str(), disk.layers.clone())).collect();
    let vms = "/var/lib/ovm/vms/60043358-4c58-11e8-8653-525500d15501";
    let overlay = vec![PathBuf::from(format!("{vms}/0.qcow2")), PathBuf::from("/var/lib/ovm/images/1.img")];
    assert_eq!(layers, [("vda", overlay), ("vdb", vec![PathBuf::from(format!("{vms}/1.iso"))])]);
    let device =
        |alias: &str| observed.devices.iter().find(|device| device.alias.as_deref() == Some(alias)).expect(alias);
    let disk = device("ua-disk-cloudinitdisk");
    assert_eq!(
        (disk.kind.as_str(), disk.address["type"].as_str(), disk.address["bus"].as_str()),
        ("disk", "pci", "0x04")
    );
    assert_eq!(device("ua-net0").mac.map(|mac| mac.to_string()).as_deref(), Some("02:fb:75:08:5d:db"));
    assert_eq!(observed.devices.iter().filter(|device| device.alias.as_deref() == Some("ua-serial0")).count(), 1);
}

#[test]
fn another_tools_domain_is_read_and_is_not_ours() {
    let foreign = Guest::guide().xml().replace("http://kubevirt.io", "http://example.org/vm");
    assert_eq!(parse(&foreign).expect("reads").metadata, None);
    let plain = "<domain type='test'><name>a</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid><os><type machine='pc'>hvm</type></os></domain>";
    let observed = parse(plain).expect("reads");
    assert_eq!(
        (observed.metadata, observed.console_log, observed.disks.len(), observed.devices.len()),
        (None, None, 0, 0)
    );
}

#[test]
fn what_is_missing_is_named() {
    let xml = Guest::guide().xml();
    for (from, to, message) in [
        ("<name>default_ovm-cirros</name>", "", "domain has no name"),
        ("<uuid>5d307ca9", "<uuid>x5d307ca9", "uuid cannot be \"x5d307ca9-b3ef-428c-8861-06e72d69f223\""),
        (" machine=\"pc-q35-10.0\"", "", "domain has no machine type"),
        ("<kubevirt:node>node-1</kubevirt:node>", "", "metadata has no node"),
        ("<domain ", "<domainsnapshot ", "read domain XML"),
    ] {
        let error = parse(&xml.replacen(from, to, 1)).expect_err(message);
        assert_eq!(error.to_string(), message);
    }
    assert!(matches!(parse("<network/>"), Err(ParseError::Structure { .. })));
}

proptest! {
    #[test]
    fn reading_never_panics(text in any::<String>(), from in 0..RUNNING.len(), length in 0..40_usize) {
        let _ = parse(&text);
        // A real document with a piece replaced reaches deeper than noise does.
        let end = (from + length).min(RUNNING.len());
        let _ = parse(&format!("{}{text}{}", &RUNNING[..from], &RUNNING[end..]));
        let _ = parse(&RUNNING[..from]);
    }
}

//! What the allow-list lets through, and what it does not.

use super::*;
use crate::tests::{Guest, allowed_paths};

/// The guide's example with one piece of it replaced.
fn check_with(from: &str, to: &str) -> Result<(), NotAllowed> {
    let xml = Guest::guide().xml();
    assert!(xml.contains(from), "{from} is not in {xml}");
    check_allowed(&xml.replacen(from, to, 1), &allowed_paths())
}

#[test]
fn what_we_render_passes() {
    for guest in [Guest::guide(), Guest::guide().emulated(), Guest::full(), Guest::full().emulated()] {
        check_allowed(&guest.render().expect("renders"), &allowed_paths()).expect("passes");
    }
}

#[test]
fn elements_that_are_not_listed_are_refused() {
    let qemu = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-S'/></qemu:commandline></domain>";
    for (from, to, element) in [
        ("</domain>", qemu, "domain/qemu:commandline"),
        ("<rng ", "<hostdev mode='subsystem'/><rng ", "domain/devices/hostdev"),
        ("<rng ", "<filesystem type='mount'/><rng ", "domain/devices/filesystem"),
        ("<smbios ", "<loader>/x</loader><smbios ", "domain/os/loader"),
        ("<acpi/>", "<acpi><x/></acpi>", "domain/features/acpi/x"),
        ("</domain>", "</domain><domain/>", "/domain"),
        ("<devices>", "<devices><domain/>", "domain/devices/domain"),
        ("<kubevirt:vm ", "<other:vm xmlns:other='urn:x'/><kubevirt:vm ", "domain/metadata/other:vm"),
    ] {
        match check_with(from, to) {
            Err(NotAllowed::Element { element: found }) => assert_eq!(found, element),
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn attributes_that_are_not_listed_are_refused() {
    for (from, to, attribute) in [
        ("<domain ", "<domain id='1' ", "id"),
        ("<domain ", "<domain xmlns='urn:x' ", "xmlns"),
        ("<disk ", "<disk rawio='yes' ", "rawio"),
        ("<target dev", "<target removable='on' dev", "removable"),
        ("<listen ", "<listen address='0.0.0.0' ", "address"),
        ("<graphics ", "<graphics port='5900' ", "port"),
        ("<driver ", "<driver io='native' ", "io"),
    ] {
        match check_with(from, to) {
            Err(NotAllowed::Attribute { attribute: found, .. }) => assert_eq!(found, attribute),
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn values_and_paths_that_are_not_listed_are_refused() {
    let disk = "/var/lib/ovm/vms/60043358-4c58-11e8-8653-525500d15501/0.qcow2";
    for (from, to, place) in [
        ("<domain type=\"kvm\"", "<domain type=\"xen\"", "domain@type"),
        ("<driver ", "<driver cache='unsafe' ", "domain/devices/disk/driver@cache"),
        (disk, "/etc/shadow", "domain/devices/disk/source@file"),
        (disk, "/var/lib/ovm/../../etc/shadow", "domain/devices/disk/source@file"),
        (disk, "/var/lib/ovm//x", "domain/devices/disk/source@file"),
        (disk, "/var/lib/ovm/./x", "domain/devices/disk/source@file"),
        (disk, "/var/lib/ovm", "domain/devices/disk/source@file"),
        (disk, "/var/lib/ovm/", "domain/devices/disk/source@file"),
        (disk, "/var/lib/ovm-other/x", "domain/devices/disk/source@file"),
        (disk, "/var/lib/ovm/x&#10;", "domain/devices/disk/source@file"),
        (disk, "var/lib/ovm/x", "domain/devices/disk/source@file"),
        ("/var/lib/ovm/images/1.img", "/root/x", "domain/devices/disk/backingStore/source@file"),
        ("<source file", "<source dev", "domain/devices/disk/source@dev"),
        ("/var/log/ovm/", "/var/lib/ovm/", "domain/devices/serial/log@file"),
        ("/usr/bin/qemu-system-x86_64", "/bin/sh", "domain/devices/emulator"),
        ("/dev/urandom", "/dev/mem", "domain/devices/rng/backend"),
        ("<serial type=\"pty\"", "<serial type=\"file\"", "domain/devices/serial@type"),
        ("<listen type=\"none\"", "<listen type=\"address\"", "domain/devices/graphics/listen@type"),
        ("<interface type=\"user\"", "<interface type=\"ethernet\"", "domain/devices/interface@type"),
        (
            "http://kubevirt.io",
            "http://libvirt.org/schemas/domain/qemu/1.0",
            "domain/metadata/kubevirt:vm@xmlns:kubevirt",
        ),
        ("<devices>", "<devices>text", "domain/devices"),
        ("\"KiB\">62500", "\"KiB\">-", "domain/memory"),
        ("<on_crash>destroy", "<on_crash>coredump-destroy", "domain/on_crash"),
    ] {
        match check_with(from, to) {
            Err(NotAllowed::Value { place: found, .. }) => assert_eq!(found, place),
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn markup_that_we_never_write_is_refused() {
    for (from, to) in [
        ("<domain ", "<?xml version='1.0'?><domain "),
        ("<domain ", "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/shadow'>]><domain "),
        ("<devices>", "<devices><!-- -->"),
        ("<devices>", "<devices><?x y?>"),
        ("<devices>", "<devices><![CDATA[]]>"),
        ("node-1", "&x;"),
        ("node-1", "&#120;"),
        ("</domain>", ""),
        ("</domain>", "</domain>text"),
        ("</devices>", "</device>"),
        ("<devices>", "<devices a=1>"),
        ("<domain ", "<domain type=\"kvm\" "),
    ] {
        match check_with(from, to) {
            Err(NotAllowed::Markup { .. } | NotAllowed::Syntax(_)) => {}
            other => panic!("{to}: {other:?}"),
        }
    }
    check_allowed("", &allowed_paths()).expect_err("nothing is no domain");
}

#[test]
fn without_any_path_no_disk_passes() {
    let xml = Guest::guide().xml();
    check_allowed(&xml, &AllowedPaths::default()).expect_err("no emulator, no directory");
    let relative = AllowedPaths { disk_dirs: vec!["var/lib/ovm".into(), "".into()], ..allowed_paths() };
    check_allowed(&xml, &relative).expect_err("directories that are not absolute allow nothing");
}

#[test]
fn a_listed_device_passes_and_no_other() {
    let source = "<source file=\"/var/lib/ovm/vms/60043358-4c58-11e8-8653-525500d15501/0.qcow2\"";
    check_with(source, "<source dev=\"/dev/vg0/claim\"").expect("listed");
    check_with(source, "<source dev=\"/dev/vg0/claim2\"").expect_err("not listed");
    check_with(source, "<source dev=\"/dev/sda\"").expect_err("not listed");
}

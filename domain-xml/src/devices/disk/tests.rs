//! Disks, as libvirt is to see them.

use serde_json::json;

use super::*;
use crate::tests::{Guest, elements};
use crate::{DiskFormat, DiskLayer, DiskSource};

/// The driver of a disk that the guest writes to.
const WRITABLE: &str = r#"<driver name="qemu" type="raw" error_policy="stop" rerror_policy="report" discard="unmap"/>"#;
const PLAIN: &str = r#"<driver name="qemu" type="raw"/>"#;
const MEDIUM: &str = r#"<source file="/var/lib/ovm/vms/1/0.img"/><backingStore/>"#;

#[test]
fn each_device_on_each_bus() {
    let cases = [
        ("q35", json!({}), "disk", WRITABLE, MEDIUM, r#"<target dev="sda" bus="sata"/>"#, false),
        ("pc", json!({}), "disk", WRITABLE, MEDIUM, r#"<target dev="hda" bus="ide"/>"#, false),
        (
            "q35",
            json!({"disk": {"bus": "virtio"}}),
            "disk",
            WRITABLE,
            MEDIUM,
            r#"<target dev="vda" bus="virtio"/>"#,
            false,
        ),
        ("q35", json!({"disk": {"bus": "scsi"}}), "disk", WRITABLE, MEDIUM, r#"<target dev="sda" bus="scsi"/>"#, false),
        ("q35", json!({"disk": {"bus": "usb"}}), "disk", WRITABLE, MEDIUM, r#"<target dev="sda" bus="usb"/>"#, false),
        (
            "q35",
            json!({"disk": {"bus": "virtio", "readonly": true}}),
            "disk",
            PLAIN,
            MEDIUM,
            r#"<target dev="vda" bus="virtio"/>"#,
            true,
        ),
        ("q35", json!({"cdrom": {}}), "cdrom", PLAIN, MEDIUM, r#"<target dev="sda" bus="sata"/>"#, true),
        ("pc", json!({"cdrom": {}}), "cdrom", PLAIN, MEDIUM, r#"<target dev="hda" bus="ide"/>"#, true),
        (
            "q35",
            json!({"cdrom": {"bus": "scsi", "readonly": false}}),
            "cdrom",
            PLAIN,
            MEDIUM,
            r#"<target dev="sda" bus="scsi"/>"#,
            false,
        ),
        (
            "q35",
            json!({"cdrom": {"tray": "open"}}),
            "cdrom",
            PLAIN,
            "",
            r#"<target dev="sda" bus="sata" tray="open"/>"#,
            true,
        ),
        ("q35", json!({"cdrom": {"bus": "usb"}}), "cdrom", PLAIN, MEDIUM, r#"<target dev="sda" bus="usb"/>"#, true),
        ("q35", json!({"floppy": {}}), "floppy", PLAIN, MEDIUM, r#"<target dev="fda" bus="fdc"/>"#, false),
        (
            "q35",
            json!({"floppy": {"readonly": true, "tray": "open"}}),
            "floppy",
            PLAIN,
            "",
            r#"<target dev="fda" bus="fdc" tray="open"/>"#,
            true,
        ),
    ];
    for (machine, disk, device, driver, medium, target, readonly) in cases {
        let xml = Guest::with_disks(machine, std::slice::from_ref(&disk)).xml();
        let readonly = if readonly { "<readonly/>" } else { "" };
        let expected = format!(
            r#"<disk type="file" device="{device}">{driver}{medium}{target}{readonly}<boot order="1"/><alias name="ua-disk-d0"/></disk>"#
        );
        assert_eq!(elements(&xml, "disk"), [expected], "{machine} {disk}");
    }
}

#[test]
fn a_lun_is_a_block_device_passed_through() {
    let mut guest = Guest::with_disks("q35", &[json!({"lun": {"bus": "scsi", "readonly": true}})]);
    let error = guest.render().expect_err("a file cannot be a lun");
    assert_eq!(
        (error.reason(), error.to_string().as_str()),
        ("LunNeedsBlockDevice", "disk d0: a lun needs a volume that is a block device")
    );
    guest.disk_sources.insert("d0".to_owned(), DiskSource::block("/dev/vg0/claim"));
    let expected = concat!(
        r#"<disk type="block" device="lun"><driver name="qemu" type="raw"/><source dev="/dev/vg0/claim"/><backingStore/>"#,
        r#"<target dev="sda" bus="scsi"/><readonly/><boot order="1"/><alias name="ua-disk-d0"/></disk>"#
    );
    assert_eq!(elements(&guest.xml(), "disk"), [expected]);
}

#[test]
fn a_read_only_claim_makes_a_read_only_disk() {
    let domain = json!({"devices": {"disks": [{"name": "d", "volumeName": "v", "disk": {"bus": "virtio"}}]}});
    let claim =
        |read_only: bool| json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": read_only}}]);
    assert!(Guest::new(&domain, &claim(true)).xml().contains("<readonly/>"));
    assert!(!Guest::new(&domain, &claim(false)).xml().contains("<readonly/>"));
}

#[test]
fn who_else_has_a_disk_decides_whether_it_is_shareable_and_readonly() {
    for (access, readonly, shareable) in [
        (DiskAccess::Exclusive, false, false),
        (DiskAccess::ReadOnly, true, false),
        (DiskAccess::Shared, false, true),
        (DiskAccess::SharedReadOnly, true, true),
    ] {
        let mut guest = Guest::with_disks("q35", &[json!({"disk": {"bus": "virtio"}})]);
        guest.disk_sources.insert("d0".to_owned(), DiskSource { access, ..DiskSource::block("/dev/vg0/claim") });
        let xml = guest.xml();
        assert_eq!((xml.contains("<readonly/>"), xml.contains("<shareable/>")), (readonly, shareable), "{access:?}");
        assert_eq!(xml.contains(r#"cache="none""#), shareable, "{access:?}");
    }
}

#[test]
fn format_and_layers_are_those_that_were_prepared() {
    let mut guest = Guest::with_disks("q35", &[json!({"disk": {"bus": "virtio"}})]);
    let base = DiskLayer { kind: LayerKind::Block, path: "/dev/vg0/claim".into(), format: DiskFormat::Raw };
    guest
        .disk_sources
        .insert("d0".to_owned(), DiskSource::file("/var/lib/ovm/vms/1/0.qcow2", DiskFormat::Qcow2).over(base));
    let xml = guest.xml();
    let backing = r#"<backingStore type="block"><format type="raw"/><source dev="/dev/vg0/claim"/><backingStore/></backingStore>"#;
    let expected = format!(
        r#"type="qcow2" error_policy="stop" rerror_policy="report" discard="unmap"/><source file="/var/lib/ovm/vms/1/0.qcow2"/>{backing}"#
    );
    assert!(xml.contains(&expected), "{xml}");
}

#[test]
fn targets_are_unique_across_buses_and_boot_in_order() {
    let buses = ["virtio", "sata", "scsi", "usb", "virtio", "sata"];
    let disks: Vec<_> = buses.iter().map(|bus| json!({"disk": {"bus": bus}})).collect();
    let xml = Guest::with_disks("q35", &disks).xml();
    let expected = ["vda", "sda", "sdb", "sdc", "vdb", "sdd"];
    let targets = expected.iter().zip(buses).map(|(dev, bus)| format!(r#"<target dev="{dev}" bus="{bus}"/>"#));
    let orders = (1..=6).map(|order| format!(r#"<boot order="{order}"/>"#));
    assert_eq!(elements(&xml, "target")[..6], targets.collect::<Vec<_>>());
    assert_eq!(elements(&xml, "boot"), orders.collect::<Vec<_>>());
}

#[test]
fn target_names_go_on_past_z() {
    for (index, name) in
        [(0, "vda"), (25, "vdz"), (26, "vdaa"), (51, "vdaz"), (52, "vdba"), (701, "vdzz"), (702, "vdaaa")]
    {
        assert_eq!(make_target_name("vd", index), name);
    }
}

#[test]
fn a_volume_that_was_not_prepared_is_named() {
    let mut guest = Guest::with_disks("q35", &[json!({})]);
    guest.disk_sources.clear();
    let error = guest.render().expect_err("nothing prepared");
    assert_eq!(
        (error.reason(), error.to_string().as_str()),
        ("MissingDiskSource", "disk d0: volume d0 has not been prepared")
    );
}

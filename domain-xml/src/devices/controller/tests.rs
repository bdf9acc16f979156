//! Tests of controllers.

use serde_json::{Value, json};

use crate::tests::{Guest, elements};

fn controllers(buses: &[&str]) -> Vec<String> {
    let disks: Vec<Value> = buses.iter().map(|bus| json!({"disk": {"bus": bus}})).collect();
    let guest = Guest { network: crate::Network::None, ..Guest::with_disks("q35", &disks) };
    elements(&guest.xml(), "controller").into_iter().map(str::to_owned).collect()
}

const NO_USB: &str = r#"<controller type="usb" index="0" model="none"/>"#;
const USB: &str = r#"<controller type="usb" index="0" model="qemu-xhci"/>"#;
const SCSI: &str = r#"<controller type="scsi" index="0" model="virtio-scsi"/>"#;
const SECOND_SCSI: &str = r#"<controller type="scsi" index="1" model="virtio-scsi"/>"#;

#[test]
fn controllers_are_there_for_the_disks_that_need_them() {
    let mixed: Vec<_> = std::iter::repeat_n("sata", 6).chain(["usb", "scsi"]).collect();
    // Ports: one for each virtio device (balloon and random numbers always), and three that are free.
    let cases: [(&[&str], &[&str], u32); 7] = [
        (&[], &[NO_USB], 5),
        (&["virtio", "sata"], &[NO_USB], 6),
        (&["usb"], &[USB], 6),
        (&["scsi"], &[NO_USB, SCSI], 6),
        (&["scsi"; 7], &[NO_USB, SCSI], 6),
        (&["scsi"; 8], &[NO_USB, SCSI, SECOND_SCSI], 7),
        (&mixed, &[USB, SCSI, SECOND_SCSI], 8),
    ];
    for (buses, expected, ports) in cases {
        let ports =
            (1..=ports).map(|index| format!(r#"<controller type="pci" index="{index}" model="pcie-root-port"/>"#));
        let expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).chain(ports).collect();
        assert_eq!(controllers(buses), expected, "{buses:?}");
    }
}

#[test]
fn a_conventional_card_and_watchdog_share_one_more_port() {
    let count =
        |guest: &Guest| elements(&guest.xml(), "controller").iter().filter(|one| one.contains("root-port")).count();
    let plain = Guest { network: crate::Network::None, ..Guest::with_disks("q35", &[]) };
    assert_eq!(count(&plain), 5);
    assert_eq!(count(&Guest::with_disks("q35", &[])), 6, "e1000, on a bridge");
    assert_eq!(count(&Guest { nic_model: "virtio".to_owned(), ..Guest::with_disks("q35", &[]) }), 6);
    assert_eq!(count(&Guest::new(&json!({"devices": {"watchdog": {"name": "w", "i6300esb": {}}}}), &json!([]))), 6);
    assert_eq!(count(&Guest::with_disks("pc", &[])), 0, "i440fx has slots");
}

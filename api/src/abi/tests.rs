//! Tests of records: what is read, hashed, named, compared.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn device(alias: &str, address: &str) -> AbiDevice {
    AbiDevice { alias: alias.to_owned(), address: Some(address.to_owned()), ..AbiDevice::default() }
}

fn record() -> AbiRecord {
    AbiRecord {
        version: 1,
        firmware_uuid: "5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned(),
        serial: Some("s".to_owned()),
        machine_type: "pc-q35-9.2".to_owned(),
        cpu_model: Some("qemu64".to_owned()),
        devices: vec![device("ua-disk-a", "pci:0000:03:00.0"), device("ua-disk-b", "pci:0000:04:00.0")],
    }
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    assert_eq!(AbiRecord::read(&record().to_data()).unwrap(), record());
    assert_eq!(record().to_status(Some(3)).to_record(), Some(record()));
    assert_eq!(record().to_status(Some(3)).hash, Some(record().hash()));
}

#[test]
fn what_is_no_record_of_ours_is_refused() {
    let newer = json!({"version": 2, "anything": true});
    assert!(matches!(AbiRecord::read(&newer), Err(RecordError::Version { version: 2 })));
    for wrong in [json!(null), json!({}), json!({"version": 1, "firmwareUuid": 5, "machineType": "q35"}), json!("text")]
    {
        assert!(matches!(AbiRecord::read(&wrong), Err(RecordError::Shape(_))), "{wrong}");
    }
}

#[test]
fn changes_name_what_and_from_and_to() {
    let mut newer = record();
    newer.machine_type = "pc-q35-10.0".to_owned();
    newer.devices = vec![device("ua-disk-b", "pci:0000:05:00.0"), device("ua-disk-c", "pci:0000:03:00.0")];
    assert_eq!(
        record().changes(&newer),
        [
            "machine type pc-q35-9.2 -> pc-q35-10.0",
            "ua-disk-a removed (pci:0000:03:00.0)",
            "ua-disk-b address pci:0000:04:00.0 -> pci:0000:05:00.0",
            "ua-disk-c added (pci:0000:03:00.0)",
        ]
    );
    assert!(record().changes(&record()).is_empty());
}

#[test]
fn r3_a_status_is_recorded_by_hash_and_number() {
    let bound = record().to_status(Some(3));
    let named = |revision, hash: &str| AbiStatus { revision, hash: Some(hash.to_owned()), ..AbiStatus::default() };
    let hash = record().hash();
    for (recorded, expected) in [
        (None, false),
        (Some(named(Some(3), &hash)), true),
        (Some(named(Some(4), &hash)), true),
        (Some(named(Some(3), "other")), false),
        (Some(named(Some(5), &hash)), false),
        (Some(named(Some(2), &hash)), false),
        (Some(named(None, &hash)), false),
    ] {
        assert_eq!(bound.is_recorded_in(recorded.as_ref()), expected, "{recorded:?}");
    }
    assert!(AbiStatus::default().is_recorded_in(None), "a guest that was never defined has nothing to record");
}

proptest! {
    #[test]
    fn names_and_labels_fit_and_differ(one in "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", other in "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?") {
        let (name, label) = (record_name(&one, i64::MAX), record_label(&one));
        prop_assert!(name.len() <= 253 && label.len() <= 63);
        prop_assert!(label.ends_with(|c: char| c.is_ascii_alphanumeric()));
        prop_assert_eq!(one == other, label == record_label(&other));
        prop_assert_eq!(one == other, name == record_name(&other, i64::MAX));
    }
}

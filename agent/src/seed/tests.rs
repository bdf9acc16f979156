//! Tests of cloud-init seeds.

use proptest::prelude::*;

use super::*;

fn seed(hostname: &str, user_data: &[u8]) -> Seed {
    Seed { instance_id: Uuid::from_u128(1), local_hostname: hostname.to_owned(), user_data: user_data.to_vec() }
}

fn u32_at(image: &[u8], at: usize) -> usize {
    let (little, big) = (&image[at..at + 4], &image[at + 4..at + 8]);
    let value = u32::from_le_bytes(little.try_into().unwrap());
    assert_eq!(value, u32::from_be_bytes(big.try_into().unwrap()), "both byte orders at {at}");
    value as usize
}

/// A reader of its own: the label, and the files of the root directory, of the tree whose descriptor is in `sector`.
fn read_back(image: &[u8], sector: usize, joliet: bool) -> (String, Vec<(String, Vec<u8>)>) {
    let text = |bytes: &[u8]| {
        if joliet {
            let units: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes(pair.try_into().unwrap())).collect();
            String::from_utf16(&units).unwrap()
        } else {
            String::from_utf8(bytes.to_vec()).unwrap()
        }
    };
    let descriptor = &image[sector * 2048..][..2048];
    assert_eq!(&descriptor[1..6], b"CD001");
    assert_eq!(u32_at(descriptor, 80) * 2048, image.len());
    assert_eq!(descriptor[88..91] == *b"%/E", joliet);
    let label = text(&descriptor[40..72]).trim_end().to_owned();
    let root = &image[u32_at(descriptor, 156 + 2) * 2048..][..u32_at(descriptor, 156 + 10)];
    let mut files = Vec::new();
    let mut at = 0;
    while root[at] != 0 {
        let record = &root[at..at + usize::from(root[at])];
        let name = &record[33..33 + usize::from(record[32])];
        if record[25] & 2 == 0 {
            files.push((text(name), image[u32_at(record, 2) * 2048..][..u32_at(record, 10)].to_vec()));
        }
        at += record.len();
    }
    (label, files)
}

proptest! {
    #[test]
    fn every_byte_is_read_back_from_both_trees(user_data in proptest::collection::vec(any::<u8>(), 0..7000), hostname in "[a-z0-9-]{1,63}") {
        let seed = seed(&hostname, &user_data);
        let image = seed.to_iso().unwrap();
        let meta_data = seed.meta_data().into_bytes();
        let (label, files) = read_back(&image, 17, true);
        prop_assert_eq!(label, SEED_LABEL);
        prop_assert_eq!(files, vec![("meta-data".to_owned(), meta_data.clone()), ("user-data".to_owned(), user_data.clone())]);
        let (label, files) = read_back(&image, 16, false);
        prop_assert_eq!(label, SEED_LABEL);
        prop_assert_eq!(files, vec![("META-DATA;1".to_owned(), meta_data), ("USER-DATA;1".to_owned(), user_data)]);
        prop_assert_eq!(seed.to_iso().unwrap(), image);
    }

    #[test]
    fn a_host_name_cannot_end_its_line(hostname in "\\PC*|[\"\\\\\n\r\t ]*") {
        let text = seed(&hostname, b"").meta_data();
        prop_assert_eq!(text.lines().count(), 2);
        let quoted = text.lines().nth(1).unwrap().strip_prefix("local-hostname: ").unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), hostname);
    }
}

#[test]
fn meta_data_is_what_cloud_init_reads() {
    insta::assert_snapshot!(seed("123", b"").meta_data(), @r#"
    instance-id: "00000000-0000-0000-0000-000000000001"
    local-hostname: "123"
    "#);
}

#[test]
fn user_data_is_not_in_debug_output() {
    let text = format!("{:?}", seed("guest", b"password"));
    assert!(text.contains("8 bytes") && !text.contains("password") && !text.contains("112, 97"), "{text}");
}

#[test]
fn user_data_over_the_limit_is_refused() {
    assert!(seed("a", &vec![b'x'; MAX_USER_DATA_BYTES]).to_iso().is_ok());
    let error = seed("a", &vec![b'x'; MAX_USER_DATA_BYTES + 1]).to_iso().unwrap_err();
    assert_eq!(error.to_string(), "user data of 1048577 bytes exceeds the limit of 1048576 bytes");
}

#[test]
fn blkid_finds_the_label() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), seed("guest", b"#!/bin/sh\n").to_iso().unwrap()).unwrap();
    let blkid = std::process::Command::new("/sbin/blkid").args(["-p", "-o", "export"]).arg(file.path()).output();
    let Ok(output) = blkid else {
        eprintln!("skipped: blkid_finds_the_label needs /sbin/blkid");
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("LABEL=cidata\n") && text.contains("TYPE=iso9660\n"), "{text}");
}

//! Layers as users publish them, and as those would who mean harm.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::*;

const LIMIT_BYTES: u64 = 1 << 20;

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(&Sha256::digest(bytes).into())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// An entry, with its header changed by `edit` and its checksum right.
fn entry(name: &str, kind: EntryType, content: &[u8], edit: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    edit(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

const BLOCK: usize = 512;

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name, EntryType::Regular, content, |_| {})
}

/// An extended header with these fields.
fn pax(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in fields {
        let rest = format!(" {key}={value}\n");
        let length =
            (rest.len()..rest.len() + 9).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
        content.push_str(&length.to_string());
        content.push_str(&rest);
    }
    entry("pax", EntryType::XHeader, content.as_bytes(), |_| {})
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend_from_slice(&[0; 2 * BLOCK]);
    bytes
}

fn rules(layer: &[u8]) -> LayerRules {
    LayerRules {
        digest: sha256(layer),
        diff_id: None,
        limit_bytes: LIMIT_BYTES,
        unpacked_limit_bytes: 2 * LIMIT_BYTES,
        may_be_disk: false,
    }
}

fn take(layer: &[u8], rules: &LayerRules) -> Result<(Found, Vec<u8>), LayerError> {
    let mut sink = Vec::new();
    extract(layer, rules, Hidden::default(), &mut sink).map(|found| (found, sink))
}

#[test]
fn the_disk_is_found_however_it_is_packed_and_named() {
    let disk = vec![7; 5000];
    for (name, kind) in [
        ("disk/a.img", DiskName::Img),
        ("./disk/a.qcow2", DiskName::Qcow2),
        ("/disk/a.b.raw", DiskName::Raw),
        ("disk//a.img", DiskName::Img),
    ] {
        let directory = entry("disk/", EntryType::Directory, &[], |_| {});
        let other = file("etc/disk.img", b"not this one");
        let link = entry("bin/sh", EntryType::Symlink, &[], |header| header.set_link_name("busybox").unwrap());
        let tar = archive(&[directory, link, other, file(name, &disk), file("disk/README", b"hello")]);
        let two_members = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
        let two_frames = [zstd(&tar[..700]), zstd(&tar[700..])].concat();
        for layer in [tar.clone(), gzip(&tar), zstd(&tar), two_members, two_frames] {
            let rules = LayerRules { diff_id: Some(sha256(&tar)), ..rules(&layer) };
            let (found, bytes) = take(&layer, &rules).unwrap();
            assert_eq!(found.disk, Some(kind), "{name}");
            assert!(bytes == disk, "{name}");
        }
    }
}

#[test]
fn a_layer_that_is_no_archive_is_the_disk_where_it_may_be() {
    let disk = [&b"QFI\xfb"[..], &[9; 3000]].concat();
    for layer in [disk.clone(), gzip(&disk), zstd(&disk)] {
        let may = LayerRules { may_be_disk: true, ..rules(&layer) };
        assert_eq!(
            take(&layer, &may).unwrap(),
            (Found { disk: Some(DiskName::Layer), hidden: Hidden::default() }, disk.clone())
        );
        assert!(matches!(take(&layer, &rules(&layer)), Err(LayerError::NoArchive)));
    }
}

#[test]
fn upper_layers_hide_what_is_below() {
    let whiteout = |name: &str| archive(&[file(name, &[])]);
    let below = archive(&[file("disk/a.img", b"a")]);
    for (name, is_there) in [
        ("disk/.wh.a.img", false),
        ("disk/.wh..wh..opq", false),
        (".wh.disk", false),
        (".wh..wh..opq", false),
        ("disk/.wh.b.img", true),
        (".wh.etc", true),
    ] {
        let upper = whiteout(name);
        let (found, _) = take(&upper, &rules(&upper)).unwrap();
        assert_eq!(found.disk, None);
        let mut sink = Vec::new();
        let found = extract(&*below, &rules(&below), found.hidden, &mut sink).unwrap();
        assert_eq!(found.disk.is_some(), is_there, "{name}");
    }
    let empty = gzip(&[0; 2 * BLOCK]);
    assert_eq!(take(&empty, &rules(&empty)).unwrap().0.disk, None, "docker's layer without files");
}

#[test]
fn hostile_archives_are_refused() {
    let image = || file("disk/a.img", b"good");
    let named = |bytes: &[u8]| bytes.to_vec();
    let link = |kind| entry("disk/a.img", kind, &[], |header| header.set_link_name("/etc/shadow").unwrap());
    let device = |kind| entry("disk/a.img", kind, &[], |_| {});
    let long_name = |name: &str| entry("././@LongLink", EntryType::GNULongName, name.as_bytes(), |_| {});
    let bad_sum = {
        let mut bytes = image();
        bytes[0] = b'x';
        bytes
    };
    let rows: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("a path out of it", vec![file("disk/../../etc/cron.d/a.img", b"x")], "leads elsewhere"),
        ("a path out of it elsewhere", vec![file("../x", b"x"), image()], "leads elsewhere"),
        ("a symbolic link", vec![link(EntryType::Symlink)], "a symbolic link, not"),
        ("a hard link", vec![link(EntryType::Link)], "a hard link, not"),
        (
            "disk is a link",
            vec![entry("disk", EntryType::Symlink, &[], |h| h.set_link_name("/etc").unwrap()), image()],
            "a symbolic link",
        ),
        (
            "a link beside the disk",
            vec![entry("disk/x", EntryType::Symlink, &[], |h| h.set_link_name("/etc").unwrap()), image()],
            "a symbolic link",
        ),
        ("a character device", vec![device(EntryType::Char)], "a character device"),
        ("a block device", vec![device(EntryType::Block)], "a block device"),
        ("a fifo", vec![device(EntryType::Fifo)], "a fifo"),
        ("a directory for a disk", vec![device(EntryType::Directory)], "a directory"),
        ("a kind nobody knows", vec![device(EntryType::new(b'Q'))], "unknown kind"),
        ("a GNU sparse file", vec![entry("disk/a.img", EntryType::GNUSparse, b"x", |_| {})], "sparse"),
        ("a PAX sparse file", vec![pax(&[("GNU.sparse.major", "1")]), image()], "sparse"),
        ("another path in the PAX header", vec![pax(&[("path", "etc/passwd")]), image()], "disagree about the name"),
        (
            "a disk by its PAX header alone",
            vec![pax(&[("path", "disk/a.img")]), file("etc/passwd", b"x")],
            "disagree about the name",
        ),
        ("another size in the PAX header", vec![pax(&[("size", "1000")]), image()], "disagree about the size"),
        (
            "size 0 in the header alone",
            vec![pax(&[("size", "600")]), file("disk/a.img", &[])],
            "disagree about the size",
        ),
        ("one PAX key twice", vec![pax(&[("path", "disk/a.img"), ("path", "disk/b.img")]), image()], "twice"),
        (
            "a PAX header that is none",
            vec![entry("pax", EntryType::XHeader, b"junk", |_| {}), image()],
            "keys and values",
        ),
        (
            "a global PAX path",
            vec![entry("g", EntryType::XGlobalHeader, b"19 path=disk/a.img\n", |_| {}), image()],
            "changes all",
        ),
        (
            "a long name that disagrees",
            vec![long_name("disk/a.img"), file("etc/passwd", b"x")],
            "disagree about the name",
        ),
        (
            "an endless extended header",
            vec![entry("pax", EntryType::XHeader, b"", |h| h.set_size(1 << 40))],
            "longer than a MiB",
        ),
        ("two disks", vec![image(), file("disk/b.qcow2", b"x")], "more than one disk"),
        ("one disk twice", vec![image(), image()], "more than one disk"),
        ("a header with a wrong sum", vec![bad_sum], "checksum"),
        (
            "a link with content",
            vec![entry("bin/x", EntryType::Symlink, b"x", |_| {}), image()],
            "what is no file has content",
        ),
        (
            "a size beyond the archive",
            vec![named(&entry("disk/a.img", EntryType::Regular, b"x", |h| h.set_size(900_000)))],
            "cut short",
        ),
        (
            "a disk beyond the limit",
            vec![entry("disk/a.img", EntryType::Regular, b"x", |h| h.set_size(LIMIT_BYTES + 1))],
            "--image-size-limit",
        ),
        (
            "a size that is no number",
            vec![entry("disk/a.img", EntryType::Regular, b"x", |h| h.as_mut_bytes()[124..136].fill(b'z'))],
            "no number",
        ),
    ];
    for (what, entries, words) in rows {
        let tar = archive(&entries);
        for layer in [tar.clone(), gzip(&tar)] {
            match take(&layer, &rules(&layer)) {
                Ok(found) => unreachable!("{what} was taken: {:?}", found.0),
                Err(error) => assert!(api::chain(&error).contains(words), "{what}: {}", api::chain(&error)),
            }
        }
    }
    let hidden = [archive(&[image()]), archive(&[file("disk/b.img", b"x")])].concat();
    assert!(take(&hidden, &rules(&hidden)).unwrap_err().to_string().contains("follows its end"));
    let cut = &image()[..700];
    assert!(matches!(take(cut, &rules(cut)), Err(LayerError::Truncated)));
}

#[test]
fn digests_are_of_every_byte() {
    let tar = archive(&[file("disk/a.img", b"good")]);
    let layer = gzip(&tar);
    let other = sha256(b"other");
    let wrong = LayerRules { digest: other.clone(), ..rules(&layer) };
    assert!(matches!(take(&layer, &wrong), Err(LayerError::DigestMismatch { what: "the layer", .. })));
    let wrong = LayerRules { diff_id: Some(other.clone()), ..rules(&layer) };
    assert!(matches!(take(&layer, &wrong), Err(LayerError::DigestMismatch { what: "the unpacked layer", .. })));
    let wrong = LayerRules { diff_id: Some(other), ..rules(&tar) };
    assert!(matches!(take(&tar, &wrong), Err(LayerError::DigestMismatch { what: "the unpacked layer", .. })));
    // What comes after the packed part is no part of it, and is not let pass.
    for tail in [&b"tail"[..], &[0; 100]] {
        let longer = [&layer[..], tail].concat();
        assert!(take(&longer, &rules(&longer)).is_err());
    }
}

/// Megabytes out of kilobytes.
#[test]
fn a_bomb_is_refused_before_it_is_written() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&entry("etc/zeros", EntryType::Regular, &[], |header| header.set_size(1 << 40))).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..3 {
        packed.write_all(&zeros).unwrap();
    }
    let bomb = packed.finish().unwrap();
    assert!(bomb.len() < 8 << 10);
    let error = take(&bomb, &rules(&bomb)).unwrap_err();
    assert!(matches!(error, LayerError::TooLarge { .. }), "{error:?}");
}

proptest! {
    #[test]
    fn anything_is_read_without_a_panic(
        head in proptest::sample::select(vec![&b""[..], b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"]),
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        may_be_disk in any::<bool>(),
    ) {
        let layer = [head, &bytes].concat();
        let rules = LayerRules { may_be_disk, ..rules(&layer) };
        let _ = take(&layer, &rules);
    }

    #[test]
    fn a_changed_archive_gives_the_same_disk_or_none(at in 0_usize..4096, byte in any::<u8>()) {
        let disk = vec![7; 1000];
        let mut tar = archive(&[file("etc/a", b"x"), pax(&[("mtime", "1.5")]), file("disk/a.img", &disk)]);
        let at = at % tar.len();
        tar[at] = byte;
        // With the digest of what was changed: only the archive's own rules are left to notice.
        if let Ok((Found { disk: Some(_), .. }, bytes)) = take(&tar, &rules(&tar)) {
            prop_assert_eq!(bytes.len(), disk.len());
        }
    }
}

//! Tests of reading qcow2 headers.

use proptest::prelude::*;

use super::*;

/// The header of a sane file of version 3: 1 GiB, clusters of 64 KiB, tables in clusters 1 and 3.
fn header() -> Vec<u8> {
    let mut head = vec![0; 64 << 10];
    head[..4].copy_from_slice(&MAGIC);
    put_u32(&mut head, 4, 3);
    put_u32(&mut head, 20, 16);
    put_u64(&mut head, 24, 1 << 30);
    put_u32(&mut head, 36, 2);
    put_u64(&mut head, 40, 3 << 16);
    put_u64(&mut head, 48, 1 << 16);
    put_u32(&mut head, 56, 1);
    put_u32(&mut head, 96, 4);
    put_u32(&mut head, 100, 104);
    head
}

const FILE_BYTES: u64 = 4 << 16;

fn put_u32(head: &mut [u8], at: usize, value: u32) {
    head[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_u64(head: &mut [u8], at: usize, value: u64) {
    head[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Qcow2Header, Qcow2Error> {
    let mut head = header();
    change(&mut head);
    Qcow2Header::parse(&head, FILE_BYTES)
}

#[test]
fn a_sane_header_is_read() {
    assert_eq!(
        changed(|_| {}).unwrap(),
        Qcow2Header {
            virtual_bytes: 1 << 30,
            backing_file: None,
            backing_format: None,
            encrypted: false,
            external_data_file: false,
            needs_repair: false,
        }
    );
}

#[test]
fn what_matters_is_seen() {
    let with_backing = changed(|h| {
        put_u64(h, 8, 512);
        put_u32(h, 16, 11);
        h[512..523].copy_from_slice(b"/etc/shadow");
        put_u32(h, 104, EXTENSION_BACKING_FORMAT);
        put_u32(h, 108, 3);
        h[112..115].copy_from_slice(b"raw");
    })
    .unwrap();
    assert_eq!(
        (with_backing.backing_file.as_deref(), with_backing.backing_format.as_deref()),
        (Some("/etc/shadow"), Some("raw"))
    );
    assert!(changed(|h| put_u32(h, 32, 1)).unwrap().encrypted);
    assert!(changed(|h| put_u64(h, 72, INCOMPATIBLE_DATA_FILE)).unwrap().external_data_file);
    let by_name = changed(|h| {
        put_u32(h, 104, EXTENSION_DATA_FILE);
        put_u32(h, 108, 5);
    });
    assert!(by_name.unwrap().external_data_file);
    assert!(changed(|h| put_u64(h, 72, INCOMPATIBLE_DIRTY)).unwrap().needs_repair);
    assert!(changed(|h| put_u64(h, 72, INCOMPATIBLE_CORRUPT)).unwrap().needs_repair);
    assert!(!changed(|h| put_u64(h, 72, INCOMPATIBLE_COMPRESSION)).unwrap().needs_repair);
}

#[test]
fn what_cannot_be_true_is_refused() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 18] = [
        ("no magic", |h| h[0] = 0),
        ("version", |h| put_u32(h, 4, 4)),
        ("unknown feature", |h| put_u64(h, 72, 1 << 5)),
        ("cluster too small", |h| put_u32(h, 20, 8)),
        ("cluster too large", |h| put_u32(h, 20, 22)),
        ("cluster shift overflow", |h| put_u32(h, 20, u32::MAX)),
        ("no size", |h| put_u64(h, 24, 0)),
        ("huge size", |h| put_u64(h, 24, u64::MAX)),
        ("table too short for the size", |h| put_u64(h, 24, 1 << 40)),
        ("table too long", |h| put_u32(h, 36, u32::MAX)),
        ("table outside", |h| put_u64(h, 40, FILE_BYTES)),
        ("table unaligned", |h| put_u64(h, 40, (3 << 16) + 8)),
        ("table at an overflow", |h| put_u64(h, 40, !0xffff)),
        ("refcounts outside", |h| put_u32(h, 56, 4)),
        ("header length", |h| put_u32(h, 100, 3 << 16)),
        ("backing name outside", |h| {
            put_u64(h, 8, 65530);
            put_u32(h, 16, 100);
        }),
        ("extension outside", |h| {
            put_u32(h, 104, 1);
            put_u32(h, 108, u32::MAX);
        }),
        ("endless extensions", |h| (104..65528).step_by(8).for_each(|at| put_u32(h, at, 1))),
    ];
    for (what, change) in changes {
        assert!(changed(change).is_err(), "{what}");
    }
}

#[test]
fn qemu_imgs_own_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let create = |args: &[&str]| {
        let run = std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(args).status();
        assert!(run.expect("qemu-img is installed by xtask/host/install.sh").success(), "{args:?}");
    };
    let read = |name: &str| Qcow2Header::read(&File::open(path(name)).unwrap()).unwrap();
    for options in
        ["compat=1.1", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "compression_type=zstd"]
    {
        create(&["-o", options, &path("plain"), "1G"]);
        assert_eq!(
            read("plain"),
            Qcow2Header {
                virtual_bytes: 1 << 30,
                backing_file: None,
                backing_format: None,
                encrypted: false,
                external_data_file: false,
                needs_repair: false,
            }
        );
    }
    create(&["-u", "-b", "/nowhere", "-F", "raw", &path("overlay"), "1M"]);
    let overlay = read("overlay");
    assert_eq!((overlay.backing_file.as_deref(), overlay.backing_format.as_deref()), (Some("/nowhere"), Some("raw")));
    create(&["-o", &format!("data_file={}", path("data")), &path("split"), "1M"]);
    assert!(read("split").external_data_file);
    let secret =
        ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"];
    create(&[&secret[..], &[&path("encrypted"), "1M"]].concat());
    assert!(read("encrypted").encrypted);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(
        noise in proptest::collection::vec((0_usize..600, any::<u8>()), 0..40),
        cut in 0_usize..2000,
        file_bytes in any::<u64>(),
        version in 2_u32..4,
    ) {
        let mut head = header();
        put_u32(&mut head, 4, version);
        for (at, byte) in noise {
            head[at] = byte;
        }
        for head in [&head[..], &head[..cut]] {
            if let Ok(read) = Qcow2Header::parse(head, file_bytes) {
                prop_assert!(read.virtual_bytes <= MAX_VIRTUAL_BYTES);
            }
        }
    }
}

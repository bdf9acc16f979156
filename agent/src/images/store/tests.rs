//! Tests of the image store.

use std::os::unix::fs::symlink;

use super::*;
use crate::images::DiskFormat;

struct World {
    directory: tempfile::TempDir,
    store: ImageStore,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&directory.path().join("data")).unwrap();
        Self { directory, store }
    }

    /// A raw disk of one sector of `byte`s.
    fn disk(&self, byte: u8) -> PathBuf {
        let path = self.directory.path().join(format!("disk-{byte}"));
        std::fs::write(&path, [byte; 512]).unwrap();
        path
    }

    fn import(&self, name: &str, byte: u8) -> ImportedImage {
        self.store.import(&self::name(name), &self.disk(byte)).unwrap()
    }

    fn blobs(&self) -> Vec<String> {
        self.store.blobs.names().unwrap()
    }

    fn listed(&self) -> Vec<(Option<String>, String, Vec<String>)> {
        let listed = self.store.list().unwrap().into_iter();
        listed
            .map(|l| (l.image.map(|i| i.name), l.blob.file_name(), l.used_by.iter().map(ToString::to_string).collect()))
            .collect()
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn vm(number: u128) -> VmReference {
    VmReference { uid: Uuid::from_u128(number), namespace: "ns".to_owned(), name: format!("vm-{number}") }
}

#[test]
fn an_imported_image_is_found_by_any_spelling_of_its_name_and_shown_as_given() {
    let world = World::new();
    let imported = world.import("kubevirt/demo", 1);
    assert_eq!(imported.blob.format, DiskFormat::Raw);
    assert_eq!(std::fs::read(world.store.path_of(&imported.blob)).unwrap(), [1; 512]);
    let claimed = world.store.claim(&vm(1), &[(0, name("docker.io/kubevirt/demo:latest"))]).unwrap();
    assert_eq!(claimed[0].blob, imported.blob);
    assert_eq!(
        world.listed(),
        [(Some("kubevirt/demo".to_owned()), imported.blob.file_name(), vec!["ns/vm-1".to_owned()])]
    );
}

#[test]
fn two_names_of_one_content_share_a_file_until_the_last_is_gone() {
    let world = World::new();
    world.import("a", 1);
    world.import("b", 1);
    assert_eq!(world.blobs().len(), 1);
    world.store.remove(&name("a")).unwrap();
    assert_eq!(world.blobs().len(), 1);
    world.store.remove(&name("b")).unwrap();
    assert!(world.blobs().is_empty());
    assert!(matches!(world.store.remove(&name("b")), Err(StoreError::NotFound(_))));
}

#[test]
fn an_image_in_use_is_not_removed_and_the_vms_are_named() {
    let world = World::new();
    world.import("a", 1);
    world.store.claim(&vm(1), &[(0, name("a"))]).unwrap();
    world.store.claim(&vm(2), &[(3, name("a"))]).unwrap();
    let error = world.store.remove(&name("a")).unwrap_err();
    assert_eq!(error.to_string(), "image a is in use by ns/vm-1, ns/vm-2; delete these VirtualMachines first");
    assert_eq!(world.blobs().len(), 1);
    world.store.release(vm(1).uid).unwrap();
    world.store.release(vm(2).uid).unwrap();
    world.store.remove(&name("a")).unwrap();
    assert!(world.blobs().is_empty());
}

#[test]
fn a_replaced_image_stays_for_the_vms_that_have_it_and_goes_with_the_last() {
    let world = World::new();
    let old = world.import("a", 1).blob;
    world.store.claim(&vm(1), &[(0, name("a"))]).unwrap();
    let imported = world.import("a", 2);
    assert_eq!(imported.replaced, Some(old.digest.clone()));
    let again = world.store.claim(&vm(1), &[(0, name("a"))]).unwrap();
    assert_eq!(again[0].blob, old, "a VM keeps what it has claimed");
    assert_eq!(world.store.claim(&vm(2), &[(0, name("a"))]).unwrap()[0].blob, imported.blob);
    assert_eq!(
        world.listed(),
        [
            (Some("a".to_owned()), imported.blob.file_name(), vec!["ns/vm-2".to_owned()]),
            (None, old.file_name(), vec!["ns/vm-1".to_owned()]),
        ]
    );
    world.store.release(vm(1).uid).unwrap();
    assert_eq!(world.blobs(), [imported.blob.file_name()]);
}

#[test]
fn importing_the_same_again_changes_nothing() {
    let world = World::new();
    world.import("a", 1);
    assert_eq!(world.import("a", 1).replaced, None);
    assert_eq!(world.blobs().len(), 1);
}

#[test]
fn claims_are_repeatable_and_for_the_same_images_only() {
    let world = World::new();
    world.import("a", 1);
    world.import("b", 2);
    let wanted = [(0, name("a")), (2, name("b"))];
    let first = world.store.claim(&vm(1), &wanted).unwrap();
    assert_eq!(world.store.claim(&vm(1), &wanted).unwrap(), first);
    assert!(matches!(world.store.claim(&vm(1), &wanted[..1]), Err(StoreError::ClaimDiffers { .. })));
    assert_eq!(world.store.claimants().unwrap(), [vm(1).uid]);
    world.store.release(vm(1).uid).unwrap();
    world.store.release(vm(1).uid).unwrap();
    assert!(world.store.claimants().unwrap().is_empty());
}

#[test]
fn a_missing_image_leaves_no_claim() {
    let world = World::new();
    world.import("a", 1);
    let error = world.store.claim(&vm(1), &[(0, name("a")), (1, name("b"))]).unwrap_err();
    assert_eq!(error.to_string(), "image b is not on this node; import it: ovm-agent image import b FILE");
    assert!(world.store.claimants().unwrap().is_empty());
}

#[test]
fn a_deleted_disk_file_is_noticed_and_comes_back_with_another_import() {
    let world = World::new();
    let blob = world.import("a", 1).blob;
    world.store.claim(&vm(1), &[(0, name("a"))]).unwrap();
    std::fs::write(world.store.path_of(&blob), "cut").unwrap();
    for number in [1, 2] {
        let claimed = world.store.claim(&vm(number), &[(0, name("a"))]);
        assert!(matches!(claimed, Err(StoreError::DiskFileMissing { .. })), "{claimed:?}");
    }
    world.import("a", 1);
    world.store.claim(&vm(1), &[(0, name("a"))]).unwrap();
}

#[test]
fn what_is_refused_leaves_nothing() {
    let world = World::new();
    let path = |name: &str| world.directory.path().join(name);
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(path("vmdk"), "KDMV").unwrap();
    symlink(world.disk(1), path("link")).unwrap();
    symlink("/etc", path("data/images/blobs/link")).unwrap();
    for file in ["empty", "vmdk", "link", "missing", "."] {
        assert!(world.store.import(&name("a"), &path(file)).is_err(), "{file}");
    }
    assert!(world.store.incoming.names().unwrap().is_empty());
    assert!(world.listed().is_empty());
}

#[test]
fn a_sweep_takes_what_crashes_leave_and_nothing_else() {
    let world = World::new();
    let blob = world.import("a", 1).blob;
    let images = world.directory.path().join("data/images");
    for left in ["incoming/left", "blobs/left.img", "index.json.unfinished", "claims/x.json.unfinished"] {
        std::fs::write(images.join(left), "x").unwrap();
    }
    let in_the_making = world.store.create_incoming().unwrap();
    for left in ["incoming/left", "blobs/left.img", "index.json.unfinished", "claims/x.json.unfinished"] {
        assert!(!images.join(left).exists(), "{left}");
    }
    world.import("b", 2);
    assert!(images.join("incoming").join(&in_the_making.name).exists(), "a copy that somebody makes stays");
    assert!(world.blobs().contains(&blob.file_name()));
}

#[test]
fn a_store_of_another_version_or_with_damage_is_not_touched() {
    let world = World::new();
    world.import("a", 1);
    let index = world.directory.path().join("data/images/index.json");
    let good = std::fs::read(&index).unwrap();
    for (bad, why) in [
        (&b"{\"version\": 2, \"images\": 1}"[..], "it has version 2"),
        (b"", "it is damaged"),
        (&good[..50], "it is damaged"),
    ] {
        std::fs::write(&index, bad).unwrap();
        let error = world.store.import(&name("b"), &world.disk(2)).unwrap_err();
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains(why), "{text}");
        assert!(world.store.list().is_err());
    }
    assert_eq!(world.blobs().len(), 1, "no disk file is deleted while nobody knows what is referred to");
}

#[test]
fn a_damaged_claim_keeps_every_disk_file() {
    let world = World::new();
    world.import("a", 1);
    let claim = world.directory.path().join(format!("data/images/claims/{}.json", vm(1).uid));
    std::fs::write(claim, "{").unwrap();
    assert!(matches!(world.store.remove(&name("a")), Err(StoreError::DamagedClaim { .. })));
    assert_eq!(world.blobs().len(), 1);
}

#[test]
fn concurrent_imports_of_all_kinds_leave_a_store_that_agrees_with_itself() {
    let world = World::new();
    std::thread::scope(|scope| {
        for thread in 0..6_u8 {
            let world = &world;
            scope.spawn(move || {
                // A handle of its own, as another process has.
                let store = ImageStore::open(&world.directory.path().join("data")).unwrap();
                let disk = world.directory.path().join(format!("of-{thread}"));
                for round in 0..5_u8 {
                    // Odd threads all write the same content under one name, even ones their own.
                    let (image, byte) = if thread % 2 == 1 {
                        ("same".to_owned(), round)
                    } else {
                        (format!("own-{thread}"), 100 + thread * 10 + round)
                    };
                    std::fs::write(&disk, [byte; 512]).unwrap();
                    store.import(&name(&image), &disk).unwrap();
                }
            });
        }
    });
    let names: Vec<_> = world.listed().into_iter().map(|(name, ..)| name.unwrap()).collect();
    assert_eq!(names, ["own-0", "own-2", "own-4", "same"]);
    let referred: BTreeSet<_> = world.listed().into_iter().map(|(_, file, _)| file).collect();
    assert_eq!(world.blobs().into_iter().collect::<BTreeSet<_>>(), referred);
    assert!(world.store.incoming.names().unwrap().is_empty());
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_refused_or_copied_as_it_was_before_or_after() {
    let world = World::new();
    let disk = world.directory.path().join("busy");
    std::fs::write(&disk, vec![0; 4 << 20]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::fs::FileExt;
            let file = File::options().write(true).open(&disk).unwrap();
            let mut at = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all_at(b"x", at % (4 << 20)).unwrap();
                at += 1;
            }
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        let mut refused = false;
        while !refused && std::time::Instant::now() < deadline {
            refused = matches!(world.store.import(&name("busy"), &disk), Err(ImportError::Changed(_)));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        refused
    });
    assert!(refused, "no import noticed the writer");
}

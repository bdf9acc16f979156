//! Tests of a VM's disks.

use super::*;
use crate::seed::Seed;
use crate::volumes::HoldersPlace;

struct World {
    directory: tempfile::TempDir,
    disks: DiskStore,
}

/// Each opening is another agent: the one before it is to be dropped.
fn holders(directory: &Path) -> Holders {
    let lock_dir = directory.join("locks");
    Holders::open(HoldersPlace { lock_dir: &lock_dir, uri: "test", boot_id: "boot", proc_dir: "/proc".as_ref() })
        .unwrap()
}

/// A store in `directory`, whose volume root is there too.
fn open(directory: &Path) -> DiskStore {
    let roots = VolumeRoots::new(&[directory.join("volumes")]).unwrap();
    let holders = holders(directory);
    DiskStore::open(&directory.join("data"), roots, holders).unwrap()
}

fn vm() -> VmReference {
    VmReference { uid: Uuid::from_u128(42), namespace: "ns".to_owned(), name: "guest".to_owned() }
}

fn plan(ordinal: usize, content: VolumeContent) -> VolumePlan {
    VolumePlan { ordinal, volume: format!("volume-{ordinal}"), content }
}

fn image(ordinal: usize) -> VolumePlan {
    plan(ordinal, VolumeContent::Image("demo".parse().unwrap()))
}

fn seed(ordinal: usize, user_data: &str) -> VolumePlan {
    let user_data = user_data.as_bytes().to_vec();
    plan(ordinal, VolumeContent::Seed(Seed { instance_id: vm().uid, local_hostname: vm().name, user_data }))
}

fn empty(ordinal: usize) -> VolumePlan {
    plan(ordinal, VolumeContent::Empty { capacity_bytes: 3 << 20 })
}

fn claimed(ordinal: usize, path: &Path, usage: DiskUse, ephemeral: bool) -> VolumePlan {
    let path = path.to_str().unwrap().to_owned();
    plan(ordinal, VolumeContent::Claimed(ClaimedVolume { persistent_volume: "pv".to_owned(), path, usage, ephemeral }))
}

const WRITER: DiskUse = DiskUse { writes: true, shared: false };
const READER: DiskUse = DiskUse { writes: false, shared: false };

impl World {
    /// The same after the agent has ended and another one has started.
    fn restarted(self) -> Self {
        let Self { directory, disks } = self;
        drop(disks);
        let disks = open(directory.path());
        Self { directory, disks }
    }

    /// A volume with a disk of 8192 bytes; returns its directory.
    fn volume(&self, name: &str) -> PathBuf {
        let directory = self.directory.path().canonicalize().unwrap().join("volumes").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("disk.img"), [9; 8192]).unwrap();
        directory
    }

    /// A data directory with the image `demo`, raw and of 4096 bytes.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disks = open(directory.path());
        let world = Self { directory, disks };
        world.import(1);
        world
    }

    fn import(&self, byte: u8) {
        let disk = self.directory.path().join("disk.img");
        std::fs::write(&disk, [byte; 4096]).unwrap();
        self.disks.images().import(&"demo".parse().unwrap(), &disk).unwrap();
    }

    fn vm_directory(&self) -> PathBuf {
        self.disks.path().join(vm().uid.to_string())
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.vm_directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn prepare(&self, volumes: &[VolumePlan]) -> Result<Vec<PreparedDisk>, PrepareError> {
        self.disks.prepare(&vm(), volumes).await
    }
}

fn qemu_img_info(path: &Path) -> serde_json::Value {
    let run = std::process::Command::new("qemu-img").args(["info", "--output=json", "-U"]).arg(path).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

#[tokio::test]
async fn a_copy_of_a_fresh_disk_is_what_qemu_img_makes() {
    let world = World::new();
    let made = world.prepare(&[image(0), empty(1)]).await.unwrap();
    let other = VmReference { uid: Uuid::from_u128(43), ..vm() };
    let copied = world.disks.prepare(&other, &[image(0), empty(1)]).await.unwrap();
    // Made by qemu-img again: nobody remembers the first.
    let world = world.restarted();
    let third = VmReference { uid: Uuid::from_u128(44), ..vm() };
    let made_again = world.disks.prepare(&third, &[image(0), empty(1)]).await.unwrap();
    for ((made, copied), again) in made.iter().zip(&copied).zip(&made_again) {
        let content = std::fs::read(&made.source.top.path).unwrap();
        assert!(std::fs::read(&copied.source.top.path).unwrap() == content);
        assert!(std::fs::read(&again.source.top.path).unwrap() == content);
    }
    let check = std::process::Command::new("qemu-img").arg("check").arg(&copied[0].source.top.path).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[tokio::test]
async fn a_fresh_disk_is_like_those_of_its_size_and_base_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fresh");
    std::fs::write(&path, [&[7; 10][..], &[0; 9000], &[8; 10]].concat()).unwrap();
    let base = BackingFile { path: "/base".into(), format: DiskFormat::Raw, kind: LayerKind::File };
    let disk = Qcow2Disk { name: "a".to_owned(), virtual_bytes: 512, backing: Some(base.clone()) };
    let fresh = FreshDisks::default();
    fresh.remember(&disk, &std::fs::File::open(&path).unwrap()).unwrap();
    let like = |virtual_bytes, backing| fresh.like(&Qcow2Disk { name: "b".to_owned(), virtual_bytes, backing });
    let copy = std::fs::File::create(directory.path().join("copy")).unwrap();
    like(512, Some(base.clone())).unwrap().write(&copy).unwrap();
    assert!(std::fs::read(directory.path().join("copy")).unwrap() == std::fs::read(&path).unwrap());
    assert!(like(1024, Some(base.clone())).is_none());
    assert!(like(512, None).is_none());
    assert!(like(512, Some(BackingFile { format: DiskFormat::Qcow2, ..base.clone() })).is_none());
    assert!(like(512, Some(BackingFile { path: "/other".into(), ..base })).is_none());
}

#[tokio::test]
async fn each_volume_gets_its_file_and_qemu_agrees() {
    let world = World::new();
    let prepared = world.prepare(&[image(0), seed(1, "one"), empty(2), image(3)]).await.unwrap();
    assert_eq!(world.files(), ["disk-0.qcow2", "disk-3.qcow2", "empty-2.qcow2", "seed-1.iso"]);
    let names: Vec<_> = prepared.iter().map(|disk| (disk.ordinal, disk.volume.as_str())).collect();
    assert_eq!(names, [(0, "volume-0"), (1, "volume-1"), (2, "volume-2"), (3, "volume-3")]);

    let overlay = &prepared[0].source;
    assert_eq!((overlay.top.format, overlay.backing.len()), (domain_xml::DiskFormat::Qcow2, 1));
    assert_eq!(overlay.backing[0].format, domain_xml::DiskFormat::Raw);
    let info = qemu_img_info(&overlay.top.path);
    assert_eq!(info["backing-filename"], overlay.backing[0].path.to_str().unwrap());
    assert_eq!(info["backing-filename-format"], "raw");
    assert_eq!(info["virtual-size"], 4096);
    assert_eq!(std::fs::read(&overlay.backing[0].path).unwrap(), [1; 4096]);

    assert_eq!(qemu_img_info(&prepared[2].source.top.path)["virtual-size"], 3 << 20);
    assert_eq!(prepared[1].source.top.format, domain_xml::DiskFormat::Raw);
    assert!(prepared[1].source.backing.is_empty());
    for disk in prepared {
        use std::os::unix::fs::PermissionsExt;
        assert!(disk.source.top.path.is_absolute());
        assert_eq!(
            std::fs::metadata(&disk.source.top.path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            disk.volume
        );
    }
}

#[tokio::test]
async fn preparing_again_makes_nothing_again_even_after_the_image_was_replaced() {
    let world = World::new();
    let volumes = [image(0), seed(1, "one"), empty(2)];
    let first = world.prepare(&volumes).await.unwrap();
    // What a guest would have written: behind the header, so that only a new file would lose it.
    let written = |disk: &PreparedDisk| {
        let mut bytes = std::fs::read(&disk.source.top.path).unwrap();
        bytes.extend(b"written by the guest");
        bytes
    };
    for disk in [&first[0], &first[2]] {
        std::fs::write(&disk.source.top.path, written(disk)).unwrap();
    }
    world.import(2);
    // Another process, as after a restart of the agent.
    let world = world.restarted();
    assert_eq!(world.disks.prepare(&vm(), &volumes).await.unwrap(), first);
    for disk in [&first[0], &first[2]] {
        assert!(std::fs::read(&disk.source.top.path).unwrap().ends_with(b"written by the guest"), "{}", disk.volume);
    }
}

#[tokio::test]
async fn a_disk_that_is_not_the_recorded_one_is_neither_used_nor_replaced() {
    let world = World::new();
    let path = world.prepare(&[image(0)]).await.unwrap().remove(0).source.top.path;
    let good = std::fs::read(&path).unwrap();
    let create = |args: &[&str]| {
        std::fs::remove_file(&path).unwrap();
        let run =
            std::process::Command::new("qemu-img").args(["create", "-q", "-u", "-f", "qcow2"]).args(args).status();
        assert!(run.unwrap().success());
        std::fs::read(&path).unwrap()
    };
    let text = path.to_str().unwrap();
    let base = qemu_img_info(&path)["backing-filename"].as_str().unwrap().to_owned();
    let other_base = create(&["-b", "/etc/shadow", "-F", "raw", text, "4096"]);
    let other_format = create(&["-b", &base, "-F", "qcow2", text, "4096"]);
    let other_size = create(&["-b", &base, "-F", "raw", text, "8192"]);
    let no_base = create(&[text, "4096"]);
    for bad in [other_base, other_format, other_size, no_base, b"no qcow2".to_vec(), Vec::new()] {
        std::fs::write(&path, &bad).unwrap();
        let error = world.prepare(&[image(0)]).await.unwrap_err();
        assert_eq!(error.reason(), "DiskDiffers", "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), bad, "it stays for whoever looks into it");
    }
    std::fs::write(&path, good).unwrap();
    world.prepare(&[image(0)]).await.unwrap();
}

#[tokio::test]
async fn a_link_in_place_of_a_disk_is_refused() {
    let world = World::new();
    let path = world.prepare(&[image(0)]).await.unwrap().remove(0).source.top.path;
    let elsewhere = world.directory.path().join("elsewhere.qcow2");
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let error = format!("{:#}", anyhow::Error::from(world.prepare(&[image(0)]).await.unwrap_err()));
    assert!(error.contains("it is a symbolic link"), "{error}");
}

#[tokio::test]
async fn what_an_interrupted_pass_left_is_made_anew() {
    let world = World::new();
    std::fs::create_dir(world.vm_directory()).unwrap();
    for left in ["making-disk-0.qcow2", "making-empty-2.qcow2", "seed-1.iso.unfinished"] {
        std::fs::write(world.vm_directory().join(left), "half").unwrap();
    }
    world.prepare(&[image(0), seed(1, "one"), empty(2)]).await.unwrap();
    assert_eq!(world.files(), ["disk-0.qcow2", "empty-2.qcow2", "seed-1.iso"]);
}

#[tokio::test]
async fn a_seed_follows_its_user_data() {
    let world = World::new();
    world.prepare(&[seed(0, "one")]).await.unwrap();
    let prepared = world.prepare(&[seed(0, "two")]).await.unwrap();
    let VolumeContent::Seed(expected) = seed(0, "two").content else { unreachable!() };
    assert_eq!(std::fs::read(&prepared[0].source.top.path).unwrap(), expected.to_iso().unwrap());
}

#[tokio::test]
async fn an_image_that_is_not_there_makes_nothing() {
    let world = World::new();
    let missing = plan(1, VolumeContent::Image("none".parse().unwrap()));
    let error = world.prepare(&[image(0), missing]).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImageNotFound");
    assert_eq!(error.to_string(), "image none is not on this node; import it: ovm-agent image import none FILE");
    assert!(!world.vm_directory().exists());
    assert!(world.disks.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn cleaning_takes_all_of_one_vm_and_frees_its_image() {
    let world = World::new();
    let other = VmReference { uid: Uuid::from_u128(43), ..vm() };
    world.prepare(&[image(0), seed(1, "one")]).await.unwrap();
    world.disks.prepare(&other, &[image(0)]).await.unwrap();
    assert_eq!(world.disks.list().await.unwrap(), [vm().uid, other.uid]);
    world.disks.clean(vm().uid).await.unwrap();
    world.disks.clean(vm().uid).await.unwrap();
    assert!(!world.vm_directory().exists());
    assert_eq!(world.disks.list().await.unwrap(), [other.uid]);
    world.disks.images().remove(&"demo".parse().unwrap()).unwrap_err();
    world.disks.clean(other.uid).await.unwrap();
    world.disks.images().remove(&"demo".parse().unwrap()).unwrap();
}

#[tokio::test]
async fn what_a_crash_leaves_of_either_half_is_listed() {
    let world = World::new();
    let (only_claim, only_directory) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let claimant = VmReference { uid: only_claim, ..vm() };
    world.disks.images().claim(&claimant, &[(0, "demo".parse().unwrap())]).unwrap();
    std::fs::create_dir(world.disks.path().join(only_directory.to_string())).unwrap();
    std::fs::create_dir(world.disks.path().join("lost+found")).unwrap();
    assert_eq!(world.disks.list().await.unwrap(), [only_claim, only_directory]);
}

#[tokio::test]
async fn a_claimed_disk_is_used_where_it_is_and_left_as_it_is() {
    let world = World::new();
    let volume = world.volume("data");
    let shared = |writes| DiskUse { writes, shared: true };
    for (usage, access) in [
        (WRITER, DiskAccess::Exclusive),
        (READER, DiskAccess::ReadOnly),
        (shared(true), DiskAccess::Shared),
        (shared(false), DiskAccess::SharedReadOnly),
    ] {
        let prepared = world.prepare(&[claimed(0, &volume, usage, false)]).await.unwrap();
        let source = &prepared[0].source;
        assert_eq!((source.top.path.as_path(), source.access), (volume.join("disk.img").as_path(), access));
        assert!(source.backing.is_empty() && source.top.format == domain_xml::DiskFormat::Raw);
    }
    assert!(world.files().is_empty());
    world.disks.clean(vm().uid).await.unwrap();
    assert_eq!(std::fs::read(volume.join("disk.img")).unwrap(), [9; 8192]);
}

#[tokio::test]
async fn an_ephemeral_layer_stands_on_the_claims_disk_and_goes_with_the_vm() {
    let world = World::new();
    let volume = world.volume("golden");
    let prepared = world.prepare(&[claimed(0, &volume, READER, true)]).await.unwrap();
    assert_eq!(world.files(), ["disk-0.qcow2"]);
    let info = qemu_img_info(&prepared[0].source.top.path);
    assert_eq!((&info["virtual-size"], &info["backing-filename-format"]), (&8192.into(), &"raw".into()));
    assert_eq!(info["backing-filename"], volume.join("disk.img").to_str().unwrap());
    assert_eq!(prepared[0].source.backing[0].path, volume.join("disk.img"));
    world.disks.clean(vm().uid).await.unwrap();
    assert!(!world.vm_directory().exists());
    assert_eq!(std::fs::read(volume.join("disk.img")).unwrap(), [9; 8192]);
}

#[tokio::test]
async fn an_ephemeral_layer_over_half_a_sector_is_made_and_found_again() {
    let world = World::new();
    let volume = world.volume("golden");
    std::fs::write(volume.join("disk.img"), [9; 8193]).unwrap();
    for _ in 0..2 {
        let prepared = world.prepare(&[claimed(0, &volume, READER, true)]).await.unwrap();
        assert_eq!(qemu_img_info(&prepared[0].source.top.path)["virtual-size"], 8704);
    }
}

#[tokio::test]
async fn a_disk_that_another_vm_has_is_refused_until_that_one_is_cleaned() {
    let world = World::new();
    let volume = world.volume("data");
    let twin = world.directory.path().canonicalize().unwrap().join("volumes/twin");
    std::fs::create_dir(&twin).unwrap();
    std::fs::hard_link(volume.join("disk.img"), twin.join("disk.img")).unwrap();
    let other = VmReference { uid: Uuid::from_u128(43), ..vm() };
    world.disks.prepare(&other, &[claimed(0, &volume, WRITER, false)]).await.unwrap();
    // As after a restart of the agent, and under another name of the disk.
    let world = world.restarted();
    let restarted = &world.disks;
    let refused = [seed(0, "one"), claimed(1, &twin, READER, true)];
    let error = restarted.prepare(&vm(), &refused).await.unwrap_err();
    assert_eq!(error.reason(), "DiskInUse");
    assert!(error.to_string().contains("twin/disk.img is in use by VirtualMachine ns/guest"), "{error}");
    assert!(!world.vm_directory().exists(), "something was made for a VM that is refused");
    assert_eq!(restarted.list().await.unwrap(), [other.uid]);
    restarted.clean(other.uid).await.unwrap();
    restarted.prepare(&vm(), &refused).await.unwrap();
}

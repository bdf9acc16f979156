//! Volumes in a directory of the test's own.

use std::fs;
use std::os::unix::fs::symlink;

use api::chain;

use super::*;

struct World {
    directory: tempfile::TempDir,
}

impl World {
    /// A root with a volume `good` in it, and a secret beside the root.
    fn new() -> Self {
        let world = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.path("root/deep/good")).unwrap();
        fs::write(world.path("root/deep/good/disk.img"), [7; 4096]).unwrap();
        fs::create_dir(world.path("outside")).unwrap();
        fs::write(world.path("outside/disk.img"), "secret").unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn find(&self, name: &str) -> Result<VolumeDisk, FindError> {
        VolumeRoots::new(&[self.path("root")]).unwrap().find(self.path(name).to_str().unwrap())
    }

    #[track_caller]
    fn refused(&self, name: &str, reason: &str, words: &str) {
        let error = self.find(name).unwrap_err();
        assert_eq!(error.reason(), reason, "{error:?}");
        assert!(chain(&error).contains(words), "{}", chain(&error));
    }
}

#[test]
fn a_disk_below_a_root_is_found_with_what_it_is_on_this_host() {
    let world = World::new();
    let found = world.find("root/deep/good").unwrap();
    assert_eq!((found.path.clone(), found.bytes, found.is_block), (world.path("root/deep/good/disk.img"), 4096, false));
    assert_eq!(world.find("root/deep/good/").unwrap(), found);
    fs::create_dir(world.path("root/twin")).unwrap();
    fs::hard_link(&found.path, world.path("root/twin/disk.img")).unwrap();
    assert_eq!(world.find("root/twin").unwrap().identity, found.identity, "one disk under two names");
    fs::remove_file(world.path("root/twin/disk.img")).unwrap();
    fs::copy(&found.path, world.path("root/twin/disk.img")).unwrap();
    assert_ne!(world.find("root/twin").unwrap().identity, found.identity);
}

#[test]
fn what_is_not_below_a_root_is_refused() {
    let world = World::new();
    for name in
        ["outside", "root/../outside", "root/deep/../../outside", "root//deep/good", "root/./deep/good", "rootless", ""]
    {
        world.refused(name, "VolumeNotAllowed", "--volume-root DIR");
    }
    assert_eq!(VolumeRoots::default().find("/etc").unwrap_err().reason(), "VolumeNotAllowed");
    assert_eq!(VolumeRoots::default().find("relative").unwrap_err().reason(), "VolumeNotAllowed");
}

#[test]
fn a_link_planted_in_a_root_is_refused_wherever_it_is() {
    let world = World::new();
    symlink(world.path("outside"), world.path("root/link")).unwrap();
    world.refused("root/link", "VolumeUnusable", "it is a symbolic link");
    symlink(world.path("root/deep"), world.path("root/way")).unwrap();
    world.refused("root/way/good", "VolumeUnusable", "it is a symbolic link");
    fs::create_dir(world.path("root/planted")).unwrap();
    symlink(world.path("outside/disk.img"), world.path("root/planted/disk.img")).unwrap();
    world.refused("root/planted", "VolumeUnusable", "it is a symbolic link");
}

#[test]
fn what_is_no_disk_is_refused_with_what_it_should_be() {
    let world = World::new();
    fs::create_dir_all(world.path("root/empty")).unwrap();
    world.refused("root/empty", "DiskImageMissing", "qemu-img create -f raw");
    world.refused("root/none", "VolumeUnusable", "No such file");
    fs::create_dir_all(world.path("root/nested/disk.img")).unwrap();
    world.refused("root/nested", "VolumeUnusable", "is a directory");
    world.refused("root/deep/good/disk.img", "VolumeUnusable", "a volume is a directory with disk.img");
    fs::create_dir(world.path("root/pipe")).unwrap();
    nix::unistd::mkfifo(&world.path("root/pipe/disk.img"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    world.refused("root/pipe", "VolumeUnusable", "is a fifo");
}

#[test]
fn a_root_is_a_plain_absolute_path() {
    for root in ["/", "relative", "/a/../b", ""] {
        assert!(VolumeRoots::new(&[root.into()]).is_err(), "{root:?}");
    }
    VolumeRoots::new(&["/srv/volumes/".into(), "/dev/mapper/data".into()]).unwrap();
}

#[test]
fn a_root_may_be_a_volume_and_its_own_links_are_the_operators() {
    let world = World::new();
    symlink(world.path("root/deep/good"), world.path("shortcut")).unwrap();
    let roots = VolumeRoots::new(&[world.path("shortcut")]).unwrap();
    let found = roots.find(world.path("shortcut").to_str().unwrap()).unwrap();
    assert_eq!(found.path, world.path("root/deep/good/disk.img"));
}

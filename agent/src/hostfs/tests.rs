//! Tests of file access beneath a directory.

use std::os::unix::fs::symlink;

use super::*;

fn root() -> (tempfile::TempDir, Directory) {
    let temp = tempfile::tempdir().unwrap();
    let root = Directory::open_root(temp.path()).unwrap();
    (temp, root)
}

#[test]
fn a_link_is_neither_read_nor_written_nor_entered() {
    let (temp, root) = root();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    symlink(outside.path().join("secret"), temp.path().join("file")).unwrap();
    symlink(outside.path(), temp.path().join("dir")).unwrap();

    assert!(root.open_file("file").is_err());
    assert!(root.open_or_create_file("file").is_err());
    assert!(root.create_file("file").is_err());
    assert!(root.subdirectory("dir").is_err());
    assert!(root.subdirectory_or_create("dir").is_err());
    assert!(root.remove_directory_if_exists("dir").is_err());
    assert!(!root.has_directory("dir"));
    assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "x");
}

#[test]
fn an_atomic_write_replaces_a_link_and_leaves_its_target() {
    let (temp, root) = root();
    let outside = tempfile::NamedTempFile::new().unwrap();
    symlink(outside.path(), temp.path().join("file")).unwrap();
    root.write_atomically("file", b"new").unwrap();
    assert_eq!(root.read_if_exists("file", 10).unwrap().unwrap(), b"new");
    assert_eq!(std::fs::read(outside.path()).unwrap(), b"");
}

#[test]
fn a_name_is_one_component() {
    let (_temp, root) = root();
    for name in ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\0b"] {
        assert!(root.create_file(name).is_err(), "{name:?}");
        assert!(root.subdirectory_or_create(name).is_err(), "{name:?}");
        assert!(root.remove_file_if_exists(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_fifo_is_refused_without_waiting() {
    let (temp, root) = root();
    nix::unistd::mkfifo(&temp.path().join("fifo"), Mode::S_IRWXU).unwrap();
    let error = root.open_file("fifo").unwrap_err();
    assert!(error.source.to_string().contains("a fifo"), "{error:?}");
    assert!(open_user_file(&temp.path().join("fifo")).is_err());
}

#[test]
fn files_are_private_and_directories_passable() {
    let (_temp, root) = root();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    root.write_atomically("file", b"").unwrap();
    let sub = root.subdirectory_or_create("sub").unwrap();
    assert_eq!(mode(&root.path_of("file")), 0o600);
    assert_eq!(mode(sub.path()), 0o711);
}

#[test]
fn a_file_over_the_limit_is_refused() {
    let (_temp, root) = root();
    root.write_atomically("file", b"12345").unwrap();
    assert_eq!(root.read_if_exists("file", 5).unwrap().unwrap(), b"12345");
    assert!(root.read_if_exists("file", 4).is_err());
    assert!(root.read_if_exists("none", 4).unwrap().is_none());
}

#[test]
fn removing_a_directory_takes_links_and_not_their_targets() {
    let (_temp, root) = root();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let sub = root.subdirectory_or_create("sub").unwrap();
    sub.write_atomically("file", b"x").unwrap();
    symlink(outside.path(), sub.path().join("link")).unwrap();
    assert_eq!(sub.names().unwrap(), ["file", "link"]);
    assert_eq!(sub.names().unwrap(), ["file", "link"], "a second listing starts over");
    assert!(root.remove_directory_if_exists("sub").unwrap());
    assert!(!root.remove_directory_if_exists("sub").unwrap());
    assert!(outside.path().exists());
}

#[test]
fn a_closed_directory_on_the_way_is_found() {
    let (temp, _) = root();
    let inner = temp.path().join("home/data");
    std::fs::create_dir_all(&inner).unwrap();
    let set = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for path in [temp.path(), temp.path().join("home").as_path(), &inner] {
        set(path, 0o711);
    }
    assert_eq!(first_closed_directory(&inner), None);
    set(&temp.path().join("home"), 0o700);
    assert_eq!(first_closed_directory(&inner), Some(temp.path().join("home").as_path()));
}

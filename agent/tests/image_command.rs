//! `ovm-agent image` through the real binary: what users see, a kill at every step, and a full disk.

#![expect(clippy::unwrap_used, reason = "clippy exempts #[test] functions, but not what they call")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use agent::images::{ImageName, ImageStore};

const AGENT: &str = env!("CARGO_BIN_EXE_ovm-agent");

fn image(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(AGENT).arg("image").arg("--data-dir").arg(data_dir).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn disk(directory: &Path, byte: u8) -> PathBuf {
    let path = directory.join(format!("disk-{byte}.img"));
    std::fs::write(&path, vec![byte; 64 << 10]).unwrap();
    path
}

/// All that must hold of a store whatever has been killed: it opens, each image's file is complete, and after the next change nothing is left
/// over.
fn assert_whole(data_dir: &Path, temp: &Path) {
    let store = ImageStore::open(data_dir).unwrap();
    let name: ImageName = "probe".parse().unwrap();
    store.import(&name, &disk(temp, 99)).unwrap();
    store.remove(&name).unwrap();
    let mut referred = BTreeSet::new();
    for listed in store.list().unwrap() {
        let path = store.path_of(&listed.blob);
        let sum = Command::new("sha256sum").arg(&path).output().unwrap();
        assert!(
            sum.stdout.starts_with(listed.blob.digest.hex().as_bytes()),
            "{} is not what it is named",
            path.display()
        );
        referred.insert(path);
    }
    let files = |directory: &str| -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(data_dir.join("images").join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path().canonicalize().unwrap()).collect()
    };
    assert_eq!(files("blobs"), referred);
    assert_eq!(files("incoming"), BTreeSet::new());
}

#[test]
fn import_list_and_rm_as_the_guide_shows_them() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let file = disk(temp.path(), 1);
    let file = file.to_str().unwrap();
    let imported = out(&image(&data, &["import", "kubevirt/cirros-registry-disk-demo:latest", file]));
    insta::assert_snapshot!(imported.lines().next().unwrap(), @"imported kubevirt/cirros-registry-disk-demo:latest: raw, sha256:916b144867c340614f515c7b0e5415c74832d899c05264ded2a277a6e81d81ff");
    let table = out(&image(&data, &["list"]));
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "DIGEST", "FORMAT", "SIZE", "VIRTUAL-SIZE", "IMPORTED", "USED-BY"]);
    assert_eq!(words[1][..5], ["kubevirt/cirros-registry-disk-demo:latest", "916b144867c3", "raw", "64.0Ki", "64.0Ki"]);
    assert_eq!(words[1].last(), Some(&"-"));
    assert_eq!(
        out(&image(&data, &["rm", "kubevirt/cirros-registry-disk-demo"])),
        "removed kubevirt/cirros-registry-disk-demo\n"
    );
    assert_eq!(out(&image(&data, &["list"])).lines().count(), 1);
}

#[test]
fn a_data_directory_that_qemu_cannot_reach_is_pointed_out() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let text = out(&image(&temp.path().join("data"), &["import", "a", disk(temp.path(), 1).to_str().unwrap()]));
    let fix = format!("chmod o+x {}", temp.path().canonicalize().unwrap().display());
    assert!(text.contains(&fix), "{text}");
}

#[test]
fn a_caller_without_the_right_is_told_who_has_it() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a_caller_without_the_right needs root, to be somebody else");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let data = temp.path().join("data");
    out(&image(&data, &["list"]));
    // A copy: the build directory may be closed to others.
    let agent = temp.path().join("ovm-agent");
    std::fs::copy(AGENT, &agent).unwrap();
    for data in [&data, &temp.path().join("missing")] {
        let run = Command::new(&agent)
            .args(["image", "list", "--data-dir"])
            .arg(data)
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let text = error(&run);
        assert!(text.starts_with("ovm-agent: run this as root") && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn bad_input_is_one_line_that_names_the_fix() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let vmdk = temp.path().join("disk.vmdk");
    std::fs::write(&vmdk, "KDMV").unwrap();
    let vmdk = vmdk.to_str().unwrap();
    for (arguments, part) in [
        (&["rm", "none"][..], "ovm-agent image import none FILE"),
        (&["import", "Bad Name", vmdk], "lower-case letters"),
        (&["import", "a", vmdk], "qemu-img convert -f vmdk -O qcow2"),
        (&["import", "a", "/nowhere/disk.img"], "/nowhere/disk.img: No such file"),
        (&["import", "a", "/dev/null"], "a character device, not a regular file"),
    ] {
        let text = error(&image(&data, arguments));
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn an_import_that_is_killed_at_any_step_leaves_a_store_that_opens_and_cleans_up() {
    const CALLS: &[&str] = &[
        "openat2",
        "flock",
        "ftruncate",
        "copy_file_range",
        "fchmod",
        "fsync",
        "fdatasync",
        "renameat",
        "unlinkat",
        "write",
    ];
    // More steps than an import has: reaching the end without a kill ends each row.
    const MOST_STEPS: usize = 100;
    let temp = tempfile::tempdir().unwrap();
    if !Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: an_import_that_is_killed_at_any_step needs strace and the right to trace");
        return;
    }
    let mut kills = 0;
    for call in CALLS {
        let data = temp.path().join(call);
        out(&image(&data, &["import", "a", disk(temp.path(), 1).to_str().unwrap()]));
        let mut ended = false;
        for step in 1..MOST_STEPS {
            let bytes = u8::try_from(step % 90).unwrap() + 2;
            let run = Command::new("strace")
                .args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")])
                .args(["-e", &format!("inject={call}:signal=SIGKILL:when={step}")])
                .args([AGENT, "image", "--data-dir", data.to_str().unwrap(), "import", "a"])
                .arg(disk(temp.path(), bytes))
                .output()
                .unwrap();
            let store = ImageStore::open(&data).unwrap();
            let names: Vec<_> = store.list().unwrap().into_iter().map(|l| l.image.unwrap().name).collect();
            assert_eq!(names, ["a"], "killed at {call} {step}");
            assert_whole(&data, temp.path());
            ended = run.status.success();
            if ended {
                break;
            }
            kills += 1;
        }
        assert!(ended, "{call} was still being killed after {MOST_STEPS} steps");
    }
    assert!(kills > 20, "only {kills} kills");
}

#[test]
fn a_full_disk_is_one_clear_line_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let big = temp.path().join("big.img");
    std::fs::write(&big, vec![7; 3 << 20]).unwrap();
    // The mount is seen by this shell alone, and goes with it.
    let script = "mount -t tmpfs -o size=2m tmpfs $1 && $2 image --data-dir $1 import small $3 && $2 image --data-dir $1 import big $4; \
                  echo status=$?; find $1/images -type f -printf '%P %s\n' | sort; $2 image --data-dir $1 list";
    let run = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([&data, Path::new(AGENT), &disk(temp.path(), 1), &big])
        .output();
    let run = match run {
        Ok(run) if !String::from_utf8_lossy(&run.stderr).contains("not permitted") => run,
        _ => {
            eprintln!("skipped: a_full_disk_is_one_clear_line needs root and unshare");
            return;
        }
    };
    let (text, errors) = (String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap());
    assert!(text.contains("status=1"), "{text}");
    let full = format!("ovm-agent: the file system of {} is full; free space there", data.display());
    assert!(errors.starts_with(&full) && errors.lines().count() == 1, "{errors}");
    let (_, after) = text.split_once("status=1\n").unwrap();
    let left: Vec<&str> = after.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(left.len(), 3 + 2, "a disk file, the index, the lock; and a table of two lines: {after}");
    assert!(
        left[0].starts_with("blobs/sha256-") && left[1..3] == ["index.json", "lock"] && left[4] == "small",
        "{after}"
    );
}

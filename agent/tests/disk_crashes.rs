//! What making a VM's disks leaves when it is killed at any step, or when the file system is full.
//!
//! Each test runs itself again as a child, which does the work on the data directory that it is given.

#![expect(clippy::unwrap_used, reason = "clippy exempts #[test] functions, but not what they call")]

use std::path::Path;
use std::process::{Command, Output};

use agent::disks::{DiskStore, PrepareError, PreparedDisk, VolumeContent, VolumePlan};
use agent::images::VmReference;
use agent::seed::Seed;
use agent::volumes::{Holders, HoldersPlace, VolumeRoots};
use uuid::Uuid;

/// Set for the child: the data directory.
const DATA_DIR: &str = "OVM_TEST_DATA_DIR";
/// More steps than preparing has: reaching the end without a kill ends each row.
const MOST_STEPS: usize = 100;

fn vm() -> VmReference {
    VmReference { uid: Uuid::from_u128(42), namespace: "ns".to_owned(), name: "guest".to_owned() }
}

fn volumes() -> Vec<VolumePlan> {
    let seed = Seed { instance_id: vm().uid, local_hostname: vm().name, user_data: b"#!/bin/sh\n".to_vec() };
    let contents = [
        VolumeContent::Image("demo".parse().unwrap()),
        VolumeContent::Seed(seed),
        VolumeContent::Empty { capacity_bytes: 1 << 20 },
    ];
    let plan = |(ordinal, content)| VolumePlan { ordinal, volume: format!("volume-{ordinal}"), content };
    contents.into_iter().enumerate().map(plan).collect()
}

/// A store in `data_dir`, with locks of its own.
fn open(data_dir: &Path) -> DiskStore {
    // Of this process alone: its parent lives.
    let lock_dir = data_dir.join(format!("locks-{}", std::process::id()));
    let place = HoldersPlace { lock_dir: &lock_dir, uri: "test", boot_id: "boot", proc_dir: Path::new("/proc") };
    DiskStore::open(data_dir, VolumeRoots::default(), Holders::open(place).unwrap()).unwrap()
}

fn import_demo(data_dir: &Path) -> DiskStore {
    let disks = open(data_dir);
    let file = data_dir.join("demo.img");
    std::fs::write(&file, [1; 4096]).unwrap();
    disks.images().import(&"demo".parse().unwrap(), &file).unwrap();
    std::fs::remove_file(file).unwrap();
    disks
}

fn prepare(disks: &DiskStore) -> Result<Vec<PreparedDisk>, PrepareError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(disks.prepare(&vm(), &volumes()))
}

fn clean(disks: &DiskStore) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(disks.clean(vm().uid)).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs `test` of this program once more, behind `wrapper`, with `data_dir`.
fn run_again(test: &str, wrapper: &[&str], data_dir: &Path) -> Option<Output> {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(DATA_DIR, data_dir)
        .output()
        .ok()
}

#[test]
fn a_kill_at_any_step_of_preparing_is_repaired_by_the_next_pass() {
    if let Ok(data_dir) = std::env::var(DATA_DIR) {
        prepare(&open(Path::new(&data_dir))).unwrap();
        return;
    }
    if !Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: a_kill_at_any_step_of_preparing needs strace and the right to trace");
        return;
    }
    let test = "a_kill_at_any_step_of_preparing_is_repaired_by_the_next_pass";
    let temp = tempfile::tempdir().unwrap();
    let disks = import_demo(temp.path());
    let mut kills = 0;
    for call in ["mkdirat", "fdatasync", "fsync", "renameat", "execve"] {
        let mut ended = false;
        for step in 1..MOST_STEPS {
            let inject = format!("inject={call}:signal=SIGKILL:when={step}");
            let trace = format!("trace={call}");
            let wrapper = ["strace", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            ended = run_again(test, &wrapper, temp.path()).unwrap().status.success();
            let prepared = prepare(&disks)
                .unwrap_or_else(|e| panic!("after a kill at {call} {step}: {:#}", anyhow::Error::from(e)));
            assert_eq!(prepared.len(), 3);
            assert_eq!(
                names(prepared[0].source.top.path.parent().unwrap()),
                ["disk-0.qcow2", "empty-2.qcow2", "seed-1.iso"]
            );
            let check =
                Command::new("qemu-img").args(["check", "-q"]).arg(&prepared[0].source.top.path).status().unwrap();
            assert!(check.success());
            clean(&disks);
            assert_eq!(names(&temp.path().join("vms")), Vec::<String>::new());
            assert_eq!(names(&temp.path().join("images/claims")), Vec::<String>::new());
            if ended {
                break;
            }
            kills += 1;
        }
        assert!(ended, "{call} was still being killed after {MOST_STEPS} steps");
    }
    assert!(kills > 12, "only {kills} kills");
}

#[test]
fn a_full_file_system_says_so_and_leaves_nothing_half_made() {
    if let Ok(data_dir) = std::env::var(DATA_DIR) {
        return on_a_full_file_system(Path::new(&data_dir));
    }
    let temp = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=600k tmpfs {} && exec \"$@\"", temp.path().display());
    let wrapper = ["unshare", "-m", "sh", "-c", &mount, "sh"];
    let test = "a_full_file_system_says_so_and_leaves_nothing_half_made";
    match run_again(test, &wrapper, temp.path()) {
        Some(run) if !String::from_utf8_lossy(&run.stderr).contains("not permitted") => {
            let text = String::from_utf8_lossy(&run.stdout);
            assert!(
                run.status.success() && text.contains("1 passed"),
                "{text}{}",
                String::from_utf8_lossy(&run.stderr)
            );
        }
        _ => eprintln!("skipped: a_full_file_system_says_so needs root and unshare"),
    }
}

fn on_a_full_file_system(data_dir: &Path) {
    let disks = import_demo(data_dir);
    let filler = data_dir.join("filler");
    // From no room at all to nearly enough: each write fails once.
    let mut failures = 0;
    for free_kib in (0..).step_by(16) {
        let all: Vec<u8> = vec![0; 1 << 20];
        // Fails when the file system is full, which is what it is for.
        let _ = std::fs::write(&filler, all);
        let file = std::fs::File::options().write(true).open(&filler).unwrap();
        let room = file
            .metadata()
            .unwrap()
            .len()
            .checked_sub(free_kib << 10)
            .expect("disks need less than the file system has");
        file.set_len(room).unwrap();
        match prepare(&disks) {
            Ok(_) => break,
            Err(error) => {
                failures += 1;
                assert_eq!(error.reason(), "DiskFull", "{:#}", anyhow::Error::from(error));
                let vm_directory = data_dir.join("vms").join(vm().uid.to_string());
                let left = if vm_directory.exists() { names(&vm_directory) } else { Vec::new() };
                assert!(
                    left.iter().all(|name| !name.starts_with("making-") && !name.ends_with(".unfinished")),
                    "{left:?}"
                );
                assert!(names(&data_dir.join("images/claims")).iter().all(|name| !name.ends_with(".unfinished")));
            }
        }
        clean(&disks);
    }
    assert!(failures > 2, "only {failures} failures");
    std::fs::remove_file(filler).unwrap();
    prepare(&disks).unwrap();
    clean(&disks);
}

//! The child that looks at strangers' disks: what it says, and what it cannot do.

#![expect(clippy::unwrap_used, reason = "clippy exempts #[test] functions, but not what they call")]

use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use agent::images::inspect::{Inspect as _, InspectError};
use agent::images::inspector::Inspector;
use agent::images::{DiskFormat, sandbox};

/// Set for this program run once more: what it is to try when it is shut in.
const TRY: &str = "OVM_TEST_TRY";
/// What it says if it has tried, and lives.
const DONE: &str = "tried, and alive";

fn inspect(content: &[u8]) -> Result<(DiskFormat, u64), InspectError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let found = Inspector::at(Path::new(env!("CARGO_BIN_EXE_ovm-agent"))).inspect(&file);
    found.map(|found| (found.format, found.virtual_bytes))
}

#[test]
fn it_says_what_a_disk_is_or_why_it_is_refused() {
    assert_eq!(inspect(&[7; 1000]), Ok((DiskFormat::Raw, 1024)));
    let file = tempfile::Builder::new().suffix(".qcow2").tempfile().unwrap();
    let made = |arguments: &[&str]| {
        let created = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(arguments).status().unwrap();
        assert!(created.success());
        std::fs::read(file.path()).unwrap()
    };
    let path = file.path().display().to_string();
    let good = made(&[&path, "3M"]);
    assert_eq!(inspect(&good), Ok((DiskFormat::Qcow2, 3 << 20)));
    let data = format!("{path}.data");
    let data_file = made(&["-o", &format!("data_file={data},data_file_raw=on"), &path, "1M"]);
    std::fs::remove_file(data).unwrap();
    let encrypted = {
        let mut bytes = good.clone();
        bytes[32..36].copy_from_slice(&2_u32.to_be_bytes());
        bytes
    };
    let backed = made(&["-u", "-b", "/etc/shadow", "-F", "raw", &path, "1M"]);
    for (content, words) in [
        (&backed[..], "/etc/shadow"),
        (&data_file, "another file"),
        (&encrypted, "encrypted"),
        (b"KDMV", "vmdk"),
        (b"", "empty"),
        (b"QFI\xfb\0\0\0\x03", "damaged"),
    ] {
        let Err(InspectError::Refused(why)) = inspect(content) else { unreachable!("{words} was not refused") };
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn it_can_reach_neither_files_nor_the_network_nor_other_processes() {
    if let Ok(what) = std::env::var(TRY) {
        let open = tempfile::tempfile().unwrap();
        sandbox::enter().unwrap();
        match what.as_str() {
            "what is open" => drop(open.read_at(&mut [0; 10], 0)),
            "a file" => drop(File::open("/etc/passwd")),
            "the network" => drop(TcpStream::connect("127.0.0.1:1")),
            "a program" => drop(Command::new("/bin/true").status()),
            "a signal" => drop(nix::sys::signal::kill(nix::unistd::getppid(), None)),
            "more rights" => drop(nix::unistd::setuid(nix::unistd::Uid::from_raw(0))),
            other => unreachable!("{other}"),
        }
        std::io::stdout().write_all(DONE.as_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
        std::process::exit(0);
    }
    for (what, killed) in [
        ("what is open", false),
        ("a file", true),
        ("the network", true),
        ("a program", true),
        ("a signal", true),
        ("more rights", true),
    ] {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let name = "it_can_reach_neither_files_nor_the_network_nor_other_processes";
        // On the first thread, which the sandbox is entered on.
        again.args(["--exact", name, "--test-threads=1", "--nocapture"]).env(TRY, what);
        let output = again.output().unwrap();
        let is_done = String::from_utf8_lossy(&output.stdout).contains(DONE);
        let is_killed = output.status.signal() == Some(nix::libc::SIGSYS);
        // How a process ends that has done what it may is its libraries' doing.
        assert!(is_done != killed && (is_killed || !killed), "{what}: {}", output.status);
    }
}

//! Which QEMU processes live, whatever libvirt says: a look through /proc (S5, E1).
//!
//! libvirt starts QEMU with `-name guest=<domain>,...` and `-uuid <uuid>`. Nothing else of a command line is read, and none is logged. The
//! directory is an argument: in a pod it is a read-only mount of the host's /proc. A directory that hides processes is an error, never an all-clear.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

use crate::blocking::blocking;

/// Every process's ancestor, which a /proc that hides nothing shows.
const INIT: u32 = 1;
/// A look takes milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Threads that look at a time, and so may wait for a process that hangs.
const MOST_LOOKS: usize = 8;
/// `.`, `..`, and the thread.
const LINKS_OF_ONE_THREAD: u64 = 3;

/// A QEMU process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuProcess {
    /// Process id.
    pub pid: u32,
    /// UUID of its guest.
    pub uuid: Uuid,
    /// Name of its domain; empty if its command line gives none.
    pub domain: String,
}

/// Why /proc does not tell which processes live.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("{} did not show all processes within {} s: one of them hangs in the kernel, and comes after the last one that `ps ax` shows there", path.display(), deadline.as_secs_f32())]
    Silent {
        /// The directory.
        path: PathBuf,
        /// How long was waited.
        deadline: Duration,
    },
    /// Process 1 is not there: it is no /proc, or one that hides others' processes.
    #[error(
        "{} does not show process 1: give the host's /proc with --proc-dir, mounted without hidepid, or run the agent as root",
        path.display()
    )]
    Hidden {
        /// The directory.
        path: PathBuf,
    },
}

/// Finds the QEMU processes whose guest has one of these UUIDs. Blocking, some microseconds a process of the host.
///
/// # Errors
/// If the directory, or a process's command line, cannot be read, or process 1 is missing: a process that is hidden from us may be the one. One that
/// ends meanwhile is none.
pub fn find_qemu(proc_dir: &Path, uuids: &[Uuid]) -> Result<Vec<QemuProcess>, ProcError> {
    find(proc_dir, |process| uuids.contains(&process.uuid))
}

/// As [`find_qemu`], where others do not have to wait too. What a process that hangs holds of itself, its command line's reader waits for, as `ps` does.
///
/// # Errors
/// As [`find_qemu`], and if there is no answer in time.
pub async fn look_for_qemu(
    proc_dir: &Path,
    uuids: Vec<Uuid>,
    deadline: Duration,
) -> Result<Vec<QemuProcess>, ProcError> {
    static LOOKS: Semaphore = Semaphore::const_new(MOST_LOOKS);
    let path = proc_dir.to_owned();
    let look = async {
        let permit = LOOKS.acquire().await;
        let look = move || {
            let _until_it_answers = permit;
            find_qemu(&path, &uuids)
        };
        blocking(look).await
    };
    let silent = |_| ProcError::Silent { path: proc_dir.to_owned(), deadline };
    timeout(deadline, look).await.map_err(silent)?
}

/// All QEMU processes that have a guest. Blocking, as [`find_qemu`].
///
/// # Errors
/// As [`find_qemu`].
pub fn find_all_qemu(proc_dir: &Path) -> Result<Vec<QemuProcess>, ProcError> {
    find(proc_dir, |_| true)
}

fn find(proc_dir: &Path, is_wanted: impl Fn(&QemuProcess) -> bool) -> Result<Vec<QemuProcess>, ProcError> {
    let failed = |source| ProcError::Read { path: proc_dir.to_owned(), source };
    let (mut found, mut shows_init) = (Vec::new(), false);
    for entry in fs::read_dir(proc_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        shows_init |= pid == INIT;
        match read_process(&entry.path(), pid) {
            Ok(Some(process)) if is_wanted(&process) => found.push(process),
            Ok(_) => {}
            Err(source) => return Err(ProcError::Read { path: entry.path(), source }),
        }
    }
    if shows_init { Ok(found) } else { Err(ProcError::Hidden { path: proc_dir.to_owned() }) }
}

/// Reads one process anew.
pub fn read_qemu(proc_dir: &Path, pid: u32) -> Option<QemuProcess> {
    read_process(&proc_dir.join(pid.to_string()), pid).ok().flatten()
}

/// Whether the numbers in this /proc are those by which this process may signal others: it shows us under our own. A pod's view of its host's does not.
pub fn is_own_proc(proc_dir: &Path) -> bool {
    fs::read_link(proc_dir.join("self")).is_ok_and(|own| own == Path::new(&std::process::id().to_string()))
}

fn read_process(directory: &Path, pid: u32) -> io::Result<Option<QemuProcess>> {
    match unless_ended(fs::read(directory.join("cmdline")))? {
        Some(command_line) if command_line.is_empty() => read_threads(directory, pid),
        command_line => Ok(command_line.and_then(|line| parse_command_line(&line, pid))),
    }
}

/// A process that was killed shows no command line as soon as its first thread is dead. Another one may still hang in a write to a disk that does not
/// answer, and its command line shows: the guest's disks are not free yet.
fn read_threads(directory: &Path, pid: u32) -> io::Result<Option<QemuProcess>> {
    let threads = directory.join("task");
    match unless_ended(threads.metadata())? {
        // The kernel counts threads as links. One alone is the kernel's, or of a process that is dead.
        Some(about) if about.nlink() != LINKS_OF_ONE_THREAD => {}
        _ => return Ok(None),
    }
    for thread in unless_ended(fs::read_dir(&threads))?.into_iter().flatten() {
        let Some(thread) = unless_ended(thread)? else { continue };
        let command_line = unless_ended(fs::read(thread.path().join("cmdline")))?;
        let process = command_line.and_then(|line| parse_command_line(&line, pid));
        if process.is_some() {
            return Ok(process);
        }
    }
    Ok(None)
}

/// None: the process, or thread, is no more.
fn unless_ended<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if has_ended(&error) => Ok(None),
        read => read.map(Some),
    }
}

/// Whether an error says that the process is no more: its directory is gone, or was opened just before it went.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// Reads the NUL-separated arguments of a process. None: it is no QEMU with a UUID.
fn parse_command_line(command_line: &[u8], pid: u32) -> Option<QemuProcess> {
    let mut arguments = command_line.split(|byte| *byte == 0).filter_map(|argument| std::str::from_utf8(argument).ok());
    let (mut uuid, mut domain) = (None, String::new());
    while let Some(argument) = arguments.next() {
        match argument {
            "-uuid" => uuid = arguments.next().and_then(|value| Uuid::parse_str(value).ok()),
            "-name" => domain = guest_name(arguments.next()?),
            _ => {}
        }
    }
    Some(QemuProcess { pid, uuid: uuid?, domain })
}

/// The name in `guest=NAME,debug-threads=on`; QEMU writes a comma in it twice.
fn guest_name(value: &str) -> String {
    let name = value.strip_prefix("guest=").unwrap_or(value).replace(",,", "\0");
    name.split(',').next().unwrap_or_default().replace('\0', ",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostfs::silent_mount::SilentMount;

    const UUID: &str = "5d2f1c7e-0000-4000-8000-000000000001";

    #[test]
    fn only_a_proc_that_shows_this_process_under_its_own_number_is_its_own() {
        assert!(is_own_proc(Path::new("/proc")));
        let of_a_host = proc_dir();
        assert!(!is_own_proc(of_a_host.path()));
        std::os::unix::fs::symlink("1", of_a_host.path().join("self")).unwrap();
        assert!(!is_own_proc(of_a_host.path()));
    }

    /// A /proc with process 1.
    fn proc_dir() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        process(directory.path(), "1", &["init"]);
        directory
    }

    fn process(directory: &Path, pid: &str, arguments: &[&str]) {
        fs::create_dir(directory.join(pid)).unwrap();
        fs::write(directory.join(pid).join("cmdline"), arguments.join("\0")).unwrap();
    }

    #[test]
    fn e1_a_live_qemu_is_found_by_its_uuid() {
        let directory = proc_dir();
        let qemu = ["/usr/bin/qemu-system-x86_64", "-name", "guest=ns_vm,debug-threads=on", "-S", "-uuid", UUID];
        process(directory.path(), "41", &qemu);
        process(directory.path(), "42", &["sleep", UUID]);
        process(directory.path(), "43", &[]);
        fs::create_dir(directory.path().join("sys")).unwrap();
        let uuid = Uuid::parse_str(UUID).unwrap();
        let expected = QemuProcess { pid: 41, uuid, domain: "ns_vm".to_owned() };
        assert_eq!(find_qemu(directory.path(), &[uuid]).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(find_qemu(directory.path(), &[Uuid::nil()]).unwrap(), []);
        assert_eq!(read_qemu(directory.path(), 41), Some(expected));
        assert_eq!(read_qemu(directory.path(), 43), None);
    }

    #[test]
    fn e1_a_qemu_whose_first_thread_is_dead_lives_for_as_long_as_another_one_does() {
        let directory = proc_dir();
        process(directory.path(), "41", &[]);
        let uuid = Uuid::parse_str(UUID).unwrap();
        let threads = directory.path().join("41/task");
        fs::create_dir(&threads).unwrap();
        process(&threads, "41", &[]);
        assert_eq!(find_qemu(directory.path(), &[uuid]).unwrap(), [], "all of it is dead");
        process(&threads, "42", &["/usr/bin/qemu-system-x86_64", "-name", "guest=ns_vm", "-uuid", UUID]);
        let expected = QemuProcess { pid: 41, uuid, domain: "ns_vm".to_owned() };
        assert_eq!(find_qemu(directory.path(), &[uuid]).unwrap(), [expected]);
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_is_an_error_and_no_all_clear() {
        let directory = proc_dir();
        let hanging = directory.path().join("41");
        fs::create_dir(&hanging).unwrap();
        let Some(_silent) = SilentMount::at(&hanging) else { return };
        let error = look_for_qemu(directory.path(), vec![Uuid::nil()], Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, ProcError::Silent { .. }), "{error}");
    }

    #[test]
    fn an_unreadable_directory_is_an_error_and_no_all_clear() {
        let error = find_qemu(Path::new("/nonexistent"), &[]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"));
    }

    #[test]
    fn e1_a_directory_without_process_1_is_an_error_and_no_all_clear() {
        let directory = tempfile::tempdir().unwrap();
        // What an agent that is not root sees under `hidepid=2`: its own processes.
        process(directory.path(), "41", &["ovm-agent"]);
        let error = find_qemu(directory.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("process 1") && error.contains("--proc-dir"), "{error}");
    }

    #[test]
    fn e1_a_process_that_cannot_be_read_is_an_error_and_one_that_ended_is_not() {
        let directory = proc_dir();
        fs::create_dir(directory.path().join("41")).unwrap();
        assert_eq!(find_qemu(directory.path(), &[]).unwrap(), [], "ended while it was looked at");
        // Reading a directory fails for root too, as reading another user's process does under `hidepid=1`.
        fs::create_dir(directory.path().join("41/cmdline")).unwrap();
        let error = find_qemu(directory.path(), &[]).unwrap_err();
        assert!(error.to_string().ends_with("/41"), "{error}");
    }

    #[test]
    fn a_comma_in_a_name_is_read_back() {
        assert_eq!(guest_name("guest=a,,b,debug-threads=on"), "a,b");
        assert_eq!(guest_name("plain"), "plain");
    }
}

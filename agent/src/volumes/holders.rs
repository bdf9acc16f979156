//! Which guests have which disks of this host, so that no two get one by accident.
//!
//! QEMU locks images, but not block devices (each guest has a `/dev` of its own), and not for an agent to ask before it starts a guest. So a VM takes
//! its disks here before anything is made of them, and gives them back once its domain is undefined. What is taken is written down, and outlives the
//! agent, as guests do. A disk is what the kernel calls it, not its path.
//!
//! ```text
//! <lock dir>/ovm-disks/         one host, all of its agents; on a tmpfs, which ends with the boot, as QEMU and the kernel's numbers do
//!   lock                        held while any of the others is read and written
//!   <hash of libvirt URI>.json  what the guests of one agent have; written by that agent alone
//!   <hash of libvirt URI>.alive held by that agent for as long as it lives
//! ```
//! What an agent that is gone has written counts where a QEMU of that guest lives: it takes its guests' disks again before it starts another one.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain_xml::DomainName;

use plan::sharing::{DiskUse, Holding, find_conflict};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::hostfs::{Directory, FileError};
use crate::images::VmReference;
use crate::proc::{ProcError, find_all_qemu};

/// Name of the directory.
const DIRECTORY: &str = "ovm-disks";
/// Name of the file that is locked.
const LOCK: &str = "lock";
/// How the names of the others end.
const SUFFIX: &str = ".json";
/// How the names of the files end that living agents hold.
const ALIVE_SUFFIX: &str = ".alive";
/// A node's guests have no more disks than fit in this.
const MAX_BYTES: u64 = 64 << 20;

/// The disks that the guests of an agent have taken, and those of the other agents on its host.
#[derive(Clone, Debug)]
pub struct Holders {
    lock_dir: PathBuf,
    agent: String,
    /// Common to the names of our own files.
    stem: String,
    boot_id: String,
    /// Where the host's processes are shown.
    proc_dir: PathBuf,
    _alive: Arc<File>,
}

/// Where holders are written down, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct HoldersPlace<'a> {
    /// Directory of the host's locks, common to all of its agents.
    pub lock_dir: &'a Path,
    /// The libvirt that the agent manages.
    pub uri: &'a str,
    /// This boot of the host.
    pub boot_id: &'a str,
    /// Where the host's processes are shown.
    pub proc_dir: &'a Path,
}

/// A disk that a VM wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedDisk {
    /// Name of the volume.
    pub volume: String,
    /// Its path, for people.
    pub path: PathBuf,
    /// What it is on this host ([`super::VolumeDisk::identity`]).
    pub identity: String,
    /// What the VM does with it.
    pub usage: DiskUse,
}

/// Why disks were not taken or given back.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Another guest has one.
    #[error(
        "volume {volume}: {} is in use by {holder}; stop that one, or share the disk: all of its guests readOnly, or claims that are ReadWriteMany", path.display()
    )]
    InUse {
        /// Name of the volume.
        volume: String,
        /// Path of the disk.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Whether the guests of an agent that is gone still run cannot be told.
    #[error(transparent)]
    Processes(#[from] ProcError),
}

/// The file of one agent.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The boot of the host that this is about: after another one no guest runs, and numbers of disks mean others.
    boot_id: String,
    /// The libvirt that the agent manages.
    agent: String,
    holders: Vec<Holder>,
}

/// What one VM has.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    uid: Uuid,
    namespace: String,
    name: String,
    disks: Vec<HeldDisk>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldDisk {
    identity: String,
    writes: bool,
    shared: bool,
}

/// The directory, while nobody else reads or writes there.
struct Locked<'a> {
    holders: &'a Holders,
    directory: Directory,
    _lock: File,
}

impl Holders {
    /// Those of the agent that manages a libvirt. There is one such agent on a host ([`crate::node::HostLock`]).
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn open(place: HoldersPlace<'_>) -> Result<Self, HoldError> {
        use std::fmt::Write as _;

        let mut stem = String::new();
        for byte in Sha256::digest(place.uri).iter().take(8) {
            let _ = write!(stem, "{byte:02x}"); // writing to a String cannot fail
        }
        let directory = Directory::open_or_create_root(place.lock_dir)?.subdirectory_or_create(DIRECTORY)?;
        let name = format!("{stem}{ALIVE_SUFFIX}");
        let alive = directory.open_or_create_file(&name)?;
        // Others try it for a moment, to see whether we live.
        alive.lock().map_err(|e| FileError::new("lock", directory.path_of(&name), e))?;
        Ok(Self {
            lock_dir: place.lock_dir.to_owned(),
            agent: place.uri.to_owned(),
            stem,
            boot_id: place.boot_id.to_owned(),
            proc_dir: place.proc_dir.to_owned(),
            _alive: Arc::new(alive),
        })
    }

    /// Takes the disks for a VM: all of them or none. What the VM had before is replaced. Waits for files.
    ///
    /// # Errors
    /// If another guest of this host has one and cannot share it, or the files cannot be used.
    pub fn take(&self, vm: &VmReference, wanted: &[WantedDisk]) -> Result<(), HoldError> {
        let locked = self.lock()?;
        let mut own = locked.read(&self.stem)?;
        own.holders.retain(|holder| holder.uid != vm.uid);
        if wanted.is_empty() && !locked.directory_has(&self.stem)? {
            return Ok(());
        }
        let mut held: Vec<Holding> = own.holdings("").collect();
        for other in locked.others()? {
            let mut record = locked.read(&other)?;
            if !locked.is_alive(&other)? {
                self.keep_running(&mut record)?;
            }
            let place = format!(", a guest of the agent for {}", record.agent);
            held.extend(record.holdings(&place));
        }
        let asked = wanted.iter().map(|disk| (disk.identity.as_str(), disk.usage));
        if let Some((index, holder)) = find_conflict(asked, &held) {
            let (volume, path) =
                wanted.get(index).map(|disk| (disk.volume.clone(), disk.path.clone())).unwrap_or_default();
            return Err(HoldError::InUse { volume, path, holder });
        }
        let disks = wanted.iter().map(|disk| HeldDisk {
            identity: disk.identity.clone(),
            writes: disk.usage.writes,
            shared: disk.usage.shared,
        });
        let (namespace, name) = (vm.namespace.clone(), vm.name.clone());
        own.holders.push(Holder { uid: vm.uid, namespace, name, disks: disks.collect() });
        own.holders.retain(|holder| !holder.disks.is_empty());
        locked.write(&own)
    }

    /// Gives back what a VM has. Only for one whose domain is undefined. Repeatable.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn release(&self, uid: Uuid) -> Result<(), HoldError> {
        let locked = self.lock()?;
        let mut own = locked.read(&self.stem)?;
        let before = own.holders.len();
        own.holders.retain(|holder| holder.uid != uid);
        if own.holders.len() == before { Ok(()) } else { locked.write(&own) }
    }

    /// The VMs of this agent that have disks.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn uids(&self) -> Result<Vec<Uuid>, HoldError> {
        let locked = self.lock()?;
        Ok(locked.read(&self.stem)?.holders.into_iter().map(|holder| holder.uid).collect())
    }

    /// Of what an agent that is gone has written, what guests that run have.
    fn keep_running(&self, record: &mut Record) -> Result<(), HoldError> {
        if !record.holders.is_empty() {
            let running = find_all_qemu(&self.proc_dir)?;
            let runs = |holder: &Holder| {
                let name = DomainName::new(&holder.namespace, &holder.name).to_string();
                running.iter().any(|process| process.domain == name)
            };
            record.holders.retain(runs);
        }
        Ok(())
    }

    fn lock(&self) -> Result<Locked<'_>, HoldError> {
        let directory = Directory::open_or_create_root(&self.lock_dir)?.subdirectory_or_create(DIRECTORY)?;
        let lock = directory.open_or_create_file(LOCK)?;
        // Held for as long as it takes to read and write small files; the kernel gives it back however its holder ends.
        lock.lock().map_err(|e| FileError::new("lock", directory.path_of(LOCK), e))?;
        Ok(Locked { holders: self, directory, _lock: lock })
    }
}

impl Locked<'_> {
    fn directory_has(&self, stem: &str) -> Result<bool, HoldError> {
        Ok(self.directory.names()?.iter().any(|name| name.strip_suffix(SUFFIX) == Some(stem)))
    }

    /// What the names of the other agents' files have in common.
    fn others(&self) -> Result<Vec<String>, HoldError> {
        let names = self.directory.names()?;
        let stems = names.iter().filter_map(|name| name.strip_suffix(SUFFIX));
        Ok(stems.filter(|stem| *stem != self.holders.stem).map(str::to_owned).collect())
    }

    /// Whether an agent lives.
    fn is_alive(&self, stem: &str) -> Result<bool, HoldError> {
        let name = format!("{stem}{ALIVE_SUFFIX}");
        match self.directory.open_or_create_file(&name)?.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(FileError::new("lock", self.directory.path_of(&name), error).into()),
        }
    }

    /// What an agent has written. That of another boot holds nothing any more.
    fn read(&self, stem: &str) -> Result<Record, HoldError> {
        let name = &format!("{stem}{SUFFIX}");
        let fresh =
            || Record { boot_id: self.holders.boot_id.clone(), agent: self.holders.agent.clone(), holders: Vec::new() };
        let Some(bytes) = self.directory.read_if_exists(name, MAX_BYTES)? else { return Ok(fresh()) };
        let invalid =
            |e| FileError::new("read", self.directory.path_of(name), io::Error::new(io::ErrorKind::InvalidData, e));
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        Ok(if record.boot_id == self.holders.boot_id { record } else { fresh() })
    }

    fn write(&self, record: &Record) -> Result<(), HoldError> {
        let name = format!("{}{SUFFIX}", self.holders.stem);
        let path = self.directory.path_of(&name);
        let bytes = serde_json::to_vec(record).map_err(|e| FileError::new("write", path, io::Error::other(e)))?;
        Ok(self.directory.write_atomically(&name, &bytes)?)
    }
}

impl Record {
    /// What it says, with `place` behind the name of each guest.
    fn holdings(&self, place: &str) -> impl Iterator<Item = Holding> {
        self.holders.iter().flat_map(move |holder| {
            holder.disks.iter().map(move |disk| Holding {
                disk: disk.identity.clone(),
                usage: DiskUse { writes: disk.writes, shared: disk.shared },
                holder: format!("VirtualMachine {}/{}{place}", holder.namespace, holder.name),
            })
        })
    }
}

impl HoldError {
    /// One word for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "DiskInUse",
            Self::File(_) | Self::Processes(_) => "DiskLocksFailed",
        }
    }

    /// The directory whose file system is full, if that is why.
    pub fn full_directory(&self) -> Option<&Path> {
        match self {
            Self::File(error) if error.is_full() => error.path.parent(),
            Self::File(_) | Self::InUse { .. } | Self::Processes(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(number: u128) -> VmReference {
        VmReference { uid: Uuid::from_u128(number), namespace: "ns".to_owned(), name: format!("vm{number}") }
    }

    fn disk(identity: &str, writes: bool) -> WantedDisk {
        WantedDisk {
            volume: "data".to_owned(),
            path: "/v/disk.img".into(),
            identity: identity.to_owned(),
            usage: DiskUse { writes, shared: false },
        }
    }

    /// The holders of the agent for a libvirt, with this process as the host's only one.
    fn agent(directory: &Path, uri: &str, boot_id: &str) -> Holders {
        let proc_dir = directory.join("proc");
        std::fs::create_dir_all(proc_dir.join("1")).unwrap();
        std::fs::write(proc_dir.join("1/cmdline"), "init\0").unwrap();
        let lock_dir = directory.join("locks");
        Holders::open(HoldersPlace { lock_dir: &lock_dir, uri, boot_id, proc_dir: &proc_dir }).unwrap()
    }

    #[test]
    fn one_guest_has_a_disk_until_it_gives_it_back_whoever_asks() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (agent(directory.path(), "one", "boot"), agent(directory.path(), "two", "boot"));
        one.take(&vm(1), &[disk("block:8:0", true)]).unwrap();
        one.take(&vm(1), &[disk("block:8:0", true)]).unwrap();
        let error = one.take(&vm(2), &[disk("file:1:2", true), disk("block:8:0", false)]).unwrap_err();
        assert_eq!(error.reason(), "DiskInUse");
        assert!(error.to_string().contains("/v/disk.img is in use by VirtualMachine ns/vm1; stop"), "{error}");
        // Nothing of what was refused is held.
        one.take(&vm(3), &[disk("file:1:2", true)]).unwrap();
        let error = two.take(&vm(4), &[disk("block:8:0", true)]).unwrap_err();
        assert!(error.to_string().contains("ns/vm1, a guest of the agent for one; stop"), "{error}");
        assert_eq!(one.uids().unwrap(), [vm(1).uid, vm(3).uid]);
        one.release(vm(1).uid).unwrap();
        one.release(vm(1).uid).unwrap();
        two.take(&vm(4), &[disk("block:8:0", true)]).unwrap();
    }

    #[test]
    fn an_agents_guests_keep_their_disks_when_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let one = agent(directory.path(), "one", "boot");
        one.take(&vm(1), &[disk("block:8:0", true)]).unwrap();
        drop(one);
        let process = directory.path().join("proc/77");
        std::fs::create_dir_all(&process).unwrap();
        let uuid = "5d2f1c7e-0000-4000-8000-000000000001";
        let arguments = ["qemu", "-name", "guest=ns_vm1,debug-threads=on", "-uuid", uuid, ""].join("\0");
        std::fs::write(process.join("cmdline"), arguments).unwrap();
        let two = agent(directory.path(), "two", "boot");
        assert_eq!(two.take(&vm(2), &[disk("block:8:0", true)]).unwrap_err().reason(), "DiskInUse");
        // It comes back and finds what it had.
        let one = agent(directory.path(), "one", "boot");
        assert_eq!(one.take(&vm(3), &[disk("block:8:0", true)]).unwrap_err().reason(), "DiskInUse");
        drop(one);
        // It does not, and its guest is gone.
        std::fs::remove_dir_all(process).unwrap();
        two.take(&vm(2), &[disk("block:8:0", true)]).unwrap();
    }

    #[test]
    fn readers_share_a_disk_and_one_guest_does_not_name_it_twice() {
        let directory = tempfile::tempdir().unwrap();
        let holders = agent(directory.path(), "one", "boot");
        holders.take(&vm(1), &[disk("file:1:2", false)]).unwrap();
        holders.take(&vm(2), &[disk("file:1:2", false)]).unwrap();
        let error = holders.take(&vm(3), &[disk("file:3:4", true), disk("file:3:4", true)]).unwrap_err();
        assert!(error.to_string().contains("in use by another volume of this VirtualMachine"), "{error}");
    }

    #[test]
    fn after_a_boot_of_the_host_nothing_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let one = agent(directory.path(), "one", "boot");
        one.take(&vm(1), &[disk("block:8:0", true)]).unwrap();
        agent(directory.path(), "two", "next boot").take(&vm(2), &[disk("block:8:0", true)]).unwrap();
        drop(one);
        assert!(agent(directory.path(), "one", "next boot").uids().unwrap().is_empty());
    }

    #[test]
    fn a_guest_without_volumes_is_not_written_down() {
        let directory = tempfile::tempdir().unwrap();
        agent(directory.path(), "one", "boot").take(&vm(1), &[]).unwrap();
        let names = Directory::open_root(&directory.path().join("locks/ovm-disks")).unwrap().names().unwrap();
        assert!(!names.iter().any(|name| name.ends_with(SUFFIX)), "{names:?}");
    }
}

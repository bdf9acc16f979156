//! The node's journal: what must survive the agent, libvirtd and the host, and is nowhere else.
//!
//! One file of JSON lines, `<data-dir>/journal.jsonl`. Two kinds of line are waited for until the disk has them: a start, before libvirt is asked
//! (S5), and a final state that the API could not be told (E2). The others save work after a restart and may be lost. A line that a crash cut
//! short is the last one, and is dropped: what it was to say had not been relied on yet.

mod record;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plan::node::{FinalState, GuestKey, JournalFacts, StartRecord};
use record::{Entries, Entry, Record, Start};
use uuid::Uuid;

/// Name of the file.
const FILE: &str = "journal.jsonl";
/// The file is written anew when it has grown by as many lines since.
const COMPACT_AFTER_LINES: usize = 4096;

/// The journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

/// The journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} journal {}", path.display())]
pub struct JournalError {
    /// What failed.
    pub operation: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    boot_id: String,
    /// Held while the disk is waited for, and so by nobody who only reads.
    writer: Mutex<Writer>,
    /// What the file says. Changed by who holds the writer, held for moments.
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    lines: usize,
}

impl Journal {
    /// Opens the journal in `directory`, or makes it. `boot_id` tells this boot of the host from others.
    ///
    /// # Errors
    /// If it cannot be read or written, or a line other than the last one is not ours.
    pub fn open(directory: &Path, boot_id: String) -> Result<Self, JournalError> {
        let path = directory.join(FILE);
        let failed = |operation| move |source| JournalError { operation, path: directory.join(FILE), source };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed("read")(error)),
        };
        let entries = record::replay(&text).map_err(|error| failed("read")(io::Error::other(error)))?;
        let file = write_anew(&path, &entries).map_err(failed("write"))?;
        let writer = Mutex::new(Writer { file, lines: 0 });
        Ok(Self { inner: Arc::new(Inner { path, boot_id, writer, entries: Mutex::new(entries) }) })
    }

    /// What is known of a guest's VMs.
    pub fn of_guest(&self, key: &GuestKey) -> Vec<JournalFacts> {
        let entries = self.entries();
        let own = entries.iter().filter(|(_, entry)| entry.key() == *key);
        own.map(|(uid, entry)| self.facts(uid, entry)).collect()
    }

    /// Firmware UUIDs that a guest's VMs were started with: all that names a QEMU of it once object and domain are gone (E4).
    pub fn firmware_uuids(&self, key: &GuestKey) -> Vec<Uuid> {
        let entries = self.entries();
        let own = entries.values().filter(|entry| entry.key() == *key);
        own.filter_map(|entry| entry.start.as_ref()?.firmware_uuid).collect()
    }

    /// The guests that the journal knows.
    pub fn guests(&self) -> BTreeSet<GuestKey> {
        self.entries().values().map(Entry::key).collect()
    }

    /// Every VM UID that the journal knows.
    pub fn vm_uids(&self) -> BTreeSet<String> {
        self.entries().keys().cloned().collect()
    }

    /// Writes that a start is about to be made, or that a running guest is adopted, and waits for the disk.
    ///
    /// # Errors
    /// If it is not on disk.
    pub async fn start(
        &self,
        key: &GuestKey,
        uid: &str,
        firmware_uuid: Uuid,
        running: bool,
    ) -> Result<(), JournalError> {
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        let boot = self.inner.boot_id.clone();
        let start = Start { boot, settled: running, run_id: None, firmware_uuid: Some(firmware_uuid) };
        self.append(Record::Start { uid: uid.to_owned(), namespace, name, start }, true).await
    }

    /// Writes that a start call has come to its end.
    ///
    /// # Errors
    /// If it cannot be written. It may be lost by a crash; the start is then settled again.
    pub async fn settle(&self, uid: &str, run_id: Option<u32>) -> Result<(), JournalError> {
        self.append(Record::Settled { uid: uid.to_owned(), run_id }, false).await
    }

    /// Writes a final state, and waits for the disk.
    ///
    /// # Errors
    /// If it is not on disk.
    pub async fn end(&self, key: &GuestKey, uid: &str, end: &FinalState) -> Result<(), JournalError> {
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        self.append(Record::End { uid: uid.to_owned(), namespace, name, end: end.into() }, true).await
    }

    /// Forgets a VM.
    ///
    /// # Errors
    /// If it cannot be written. It may be lost by a crash; the VM is then forgotten again.
    pub async fn forget(&self, uid: &str) -> Result<(), JournalError> {
        if !self.entries().contains_key(uid) {
            return Ok(());
        }
        self.append(Record::Forget { uid: uid.to_owned() }, false).await
    }

    async fn append(&self, record: Record, wait: bool) -> Result<(), JournalError> {
        let inner = self.inner.clone();
        let path = inner.path.clone();
        let work = move || -> io::Result<()> {
            let mut writer = lock(&inner.writer);
            if writer.lines >= COMPACT_AFTER_LINES {
                let entries = lock(&inner.entries).clone();
                writer.file = write_anew(&inner.path, &entries)?;
                writer.lines = 0;
            }
            let written = writer.file.write_all(record.to_line().as_bytes());
            // A write that fails can leave half a line, and after a failed fsync nobody knows what the disk has: the next record makes the file anew.
            written.and_then(|()| if wait { writer.file.sync_data() } else { Ok(()) }).inspect_err(|_| {
                writer.lines = COMPACT_AFTER_LINES;
            })?;
            writer.lines += 1;
            record.apply(&mut lock(&inner.entries));
            Ok(())
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
        done.map_err(|source| JournalError { operation: "write", path, source })
    }

    fn facts(&self, uid: &str, entry: &Entry) -> JournalFacts {
        let start = entry.start.as_ref().map(|start| StartRecord {
            this_boot: start.boot == self.inner.boot_id,
            settled: start.settled,
            run_id: start.run_id,
        });
        JournalFacts { vm_uid: uid.to_owned(), start, end: entry.end.as_ref().map(FinalState::from) }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        lock(&self.inner.entries)
    }
}

/// Whoever panicked with it has left it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces the file by one that holds nothing but `entries`, on disk before it has its name; returns it, open for appending.
fn write_anew(path: &Path, entries: &Entries) -> io::Result<File> {
    let unfinished = path.with_extension("unfinished");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&unfinished)?;
    let text: String = record::snapshot(entries).iter().map(Record::to_line).collect();
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&unfinished, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests;

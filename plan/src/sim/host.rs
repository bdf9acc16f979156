//! A node of the simulated world: QEMU processes, what libvirt remembers of them, and the agent's journal on disk. What each loses when
//! it is killed is as measured on libvirt 11.3.

use std::collections::BTreeMap;
use std::time::Duration;

use api::v1alpha1::AbiStatus;
use jiff::Timestamp;

use crate::cluster::ObjectKey;
use crate::node::{FinalState, ShutOffReason};

/// A domain as libvirt has it on disk.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Definition {
    pub(super) vm_uid: String,
    pub(super) grace: Duration,
    pub(super) deadline: Option<Timestamp>,
    pub(super) firmware_uuid: String,
    /// As libvirt settled it, without number.
    pub(super) abi: AbiStatus,
}

/// A domain: its definition, and what libvirt holds in memory.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Domain {
    pub(super) definition: Definition,
    /// Which process libvirt believes to be the guest.
    pub(super) process: Option<u32>,
    /// libvirt's number for the run.
    pub(super) run_id: Option<u32>,
    /// Why it is shut off; `unknown` after any restart of the daemon.
    pub(super) reason: ShutOffReason,
}

/// A QEMU process. What no restart of a daemon takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) key: ObjectKey,
    pub(super) vm_uid: String,
    pub(super) firmware_uuid: String,
    pub(super) abi: AbiStatus,
    /// Whether the guest obeys the power button.
    pub(super) obeys_acpi: bool,
    /// The power button was pressed, and the guest heard it.
    pub(super) shutting_down: bool,
}

/// What the journal says of one VM UID.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct JournalEntry {
    pub(super) key: ObjectKey,
    pub(super) start: Option<JournalStart>,
    pub(super) end: Option<FinalState>,
}

/// A journalled start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JournalStart {
    pub(super) boot: u32,
    pub(super) settled: bool,
    pub(super) run_id: Option<u32>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    PoweredOff,
    Killed,
    Destroyed,
}

/// One node.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub(super) domains: BTreeMap<ObjectKey, Domain>,
    pub(super) processes: BTreeMap<u32, Process>,
    pub(super) journal: BTreeMap<String, JournalEntry>,
    /// VM UIDs with files, by guest.
    pub(super) disks: BTreeMap<String, ObjectKey>,
    /// Counts boots of the host.
    pub(super) boot: u32,
    /// Whether the host has power.
    pub(super) powered: bool,
    /// Whether libvirtd answers.
    pub(super) libvirt_up: bool,
    /// Whether the API server can be reached.
    pub(super) api_reachable: bool,
    /// Start calls that ran into their deadline and may still take effect: by the guest's name, and with the VM UID that they were made for.
    pub(super) late_starts: Vec<(ObjectKey, String)>,
    /// How far the host's wall clock is off, in seconds.
    pub(super) clock_error: i64,
    /// How each VM's guest really ended, by VM UID.
    pub(super) ends: BTreeMap<String, End>,
    next_pid: u32,
    next_run: u32,
    /// Ends that libvirt will learn of when it is back.
    unseen: Vec<(u32, End)>,
}

impl Host {
    pub(super) fn new() -> Self {
        Self { powered: true, libvirt_up: true, api_reachable: true, ..Self::default() }
    }

    /// Whether another VM of that name has files here.
    pub(super) fn has_files_of_another(&self, key: &ObjectKey, uid: &str) -> bool {
        self.disks.iter().any(|(other, owner)| owner == key && other != uid)
    }

    /// libvirt starts the domain of that name, whichever it is by now. False if there is none, or it runs.
    pub(super) fn start(&mut self, key: &ObjectKey, obeys_acpi: bool) -> bool {
        let Some(domain) = self.domains.get_mut(key).filter(|domain| domain.process.is_none()) else { return false };
        self.next_pid += 1;
        self.next_run += 1;
        domain.process = Some(self.next_pid);
        domain.run_id = Some(self.next_run);
        self.processes.insert(
            self.next_pid,
            Process {
                key: key.clone(),
                vm_uid: domain.definition.vm_uid.clone(),
                firmware_uuid: domain.definition.firmware_uuid.clone(),
                abi: domain.definition.abi.clone(),
                obeys_acpi,
                shutting_down: false,
            },
        );
        true
    }

    /// A process ends. libvirt notes the reason, now or when it is back.
    pub(super) fn end(&mut self, pid: u32, end: End) {
        let Some(process) = self.processes.remove(&pid) else { return };
        self.ends.insert(process.vm_uid, end);
        if self.libvirt_up {
            self.note_end(pid, end);
        } else {
            self.unseen.push((pid, end));
        }
    }

    fn note_end(&mut self, pid: u32, end: End) {
        for domain in self.domains.values_mut().filter(|domain| domain.process == Some(pid)) {
            domain.process = None;
            domain.run_id = None;
            domain.reason = match end {
                End::PoweredOff => ShutOffReason::Shutdown,
                End::Killed => ShutOffReason::Crashed,
                End::Destroyed => ShutOffReason::Destroyed,
            };
        }
    }

    /// libvirtd dies. Guests do not notice.
    pub(super) fn kill_libvirt(&mut self) {
        self.libvirt_up = false;
    }

    /// libvirtd comes back: it finds its processes again, learns of those that ended meanwhile, and has forgotten every older reason.
    pub(super) fn restart_libvirt(&mut self) {
        self.libvirt_up = true;
        for domain in self.domains.values_mut().filter(|domain| domain.process.is_none()) {
            domain.reason = ShutOffReason::Unknown;
        }
        for (pid, end) in std::mem::take(&mut self.unseen) {
            self.note_end(pid, end);
        }
    }

    /// libvirt's runtime state of a live guest is lost: it says shut off, and the process lives on.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        if let Some(domain) = self.domains.get_mut(key).filter(|domain| domain.process.is_some()) {
            domain.process = None;
            domain.run_id = None;
            domain.reason = ShutOffReason::Unknown;
        }
    }

    /// The host loses power.
    pub(super) fn power_off(&mut self) {
        self.powered = false;
        self.libvirt_up = false;
        for process in std::mem::take(&mut self.processes).into_values() {
            self.ends.insert(process.vm_uid, End::Killed);
        }
        self.unseen.clear();
        self.late_starts.clear();
        for domain in self.domains.values_mut() {
            domain.process = None;
            domain.run_id = None;
            domain.reason = ShutOffReason::Unknown;
        }
    }

    /// The host boots.
    pub(super) fn boot(&mut self) {
        self.powered = true;
        self.libvirt_up = true;
        self.boot += 1;
    }

    /// Every guest that the host has anything of.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        let journalled = self.journal.values().map(|entry| &entry.key);
        let running = self.processes.values().map(|process| &process.key);
        self.domains.keys().chain(self.disks.values()).chain(journalled).chain(running)
    }

    /// The process with a guest's firmware UUID, as a look in /proc finds it.
    pub(super) fn process_of(&self, key: &ObjectKey) -> Option<(u32, &Process)> {
        self.processes.iter().find(|(_, process)| process.key == *key).map(|(pid, process)| (*pid, process))
    }
}

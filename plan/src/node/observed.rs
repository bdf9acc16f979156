//! What the node shows of a guest: its domain, its process, its disks, and what the agent remembers on disk and in memory.

use std::time::Duration;

use api::v1alpha1::{AbiStatus, ImageStatus, InterfaceStatus};
use jiff::Timestamp;

use super::{DiskFault, FinalState, Resumes};

/// Everything that the node shows of one guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedGuest {
    /// Name of this node.
    pub node_name: String,
    /// What holds the guest's domain name in libvirt.
    pub slot: DomainSlot,
    /// Whether a QEMU process of this guest lives, whatever libvirt says.
    pub proc: ProcLook,
    /// What the agent's journal on disk says of this guest, one entry a VM UID.
    pub journal: Vec<JournalFacts>,
    /// Files of the guest below the agent's data directory.
    pub disks: DisksState,
    /// This agent process defined the domain, from the disks that are ready. An earlier process's definition may name devices as an earlier boot of the host
    /// did, and they may be other disks now.
    pub is_defined_from_disks: bool,
    /// The ABI that the guest would be defined with if nothing of it is new: that of the VM's status, with the machine type resolved by libvirt's
    /// capabilities, without number. Err: the guest cannot be
    /// rendered here (a bad spec, emulation refused); the trouble says why.
    pub wanted_abi: Option<Result<AbiStatus, Trouble>>,
    /// The step that failed last, if nothing succeeded since.
    pub trouble: Option<Trouble>,
    /// When ACPI shutdown was last asked for, by this agent process.
    pub last_signal: Option<Timestamp>,
    /// Disks that failed under a guest that is paused for it; looked at only then.
    pub disk_faults: Vec<DiskFault>,
    /// Attempts of this agent process to let such a guest go on.
    pub resumes: Option<Resumes>,
    /// libvirt reported a guest panic for this run to this agent process.
    pub panic_seen: bool,
    /// What the last pass over all guests without an object decided (E6).
    pub guard: OrphanGuard,
    /// The host is shutting down: nothing is started on it any more.
    pub host_stops: bool,
}

/// What holds the guest's domain name.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DomainSlot {
    /// libvirt does not answer.
    #[default]
    Unknown,
    /// No domain has that name.
    Free,
    /// A domain of this installation and node.
    Ours(Box<DomainFacts>),
    /// A domain that is not ours to touch. The text names it and its owner.
    Foreign(String),
}

/// A domain of ours, with what its metadata says.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainFacts {
    /// UID of the VirtualMachine that it was defined for.
    pub vm_uid: String,
    /// State and reason, as libvirt reports them.
    pub state: DomainState,
    /// libvirt's number for this run: a new one at each start, none while shut off.
    pub run_id: Option<u32>,
    /// Grace period from the metadata: all that is left of an orphan's spec.
    pub grace: Duration,
    /// When the grace period of a stop that has begun is over, from the metadata.
    pub deadline: Option<Timestamp>,
    /// The ABI as libvirt settled it, hash included, without number.
    pub abi: AbiStatus,
    /// Network interfaces, with the addresses that others can reach.
    pub interfaces: Vec<InterfaceStatus>,
}

/// State of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DomainState {
    /// The guest runs, or waits for a resource.
    Running,
    /// The guest's processors stand still.
    Paused(PausedReason),
    /// The guest suspended itself to memory.
    Suspended,
    /// The guest is being shut down; QEMU still lives.
    ShuttingDown,
    /// QEMU was kept after a crash (`on_crash=preserve`).
    CrashedKept,
    /// No QEMU.
    ShutOff(ShutOffReason),
    /// A state that this version does not know.
    Other,
}

impl DomainState {
    /// Whether libvirt holds a QEMU process for the domain. An unknown state counts as one: nothing is started over it.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::ShutOff(_))
    }
}

/// Why a domain is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PausedReason {
    /// Not started yet: the start is under way.
    StartingUp,
    /// An administrator paused it.
    User,
    /// A disk failed.
    IoError,
    /// The watchdog fired.
    Watchdog,
    /// The guest panicked; libvirt is about to act on it.
    Crashed,
    /// Another reason.
    Other,
}

/// Why a domain is shut off, in libvirt's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutOffReason {
    /// libvirt was restarted since, and forgot.
    Unknown,
    /// The guest powered off, or QEMU got SIGTERM.
    Shutdown,
    /// Somebody destroyed it.
    Destroyed,
    /// QEMU died, or the guest panicked.
    Crashed,
    /// Moved to another host.
    Migrated,
    /// Saved to a file.
    Saved,
    /// QEMU did not start.
    Failed,
    /// Reverted to a snapshot.
    FromSnapshot,
    /// libvirt cut the start short: it never ran.
    Daemon,
    /// Another reason; the number is libvirt's.
    Other(u32),
}

/// Whether a QEMU process of a guest lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProcLook {
    /// Not looked.
    #[default]
    NotLooked,
    /// /proc could not be read. The text says why.
    Failed(String),
    /// No process has the guest's UUID.
    Clear,
    /// A QEMU with this guest's UUID and domain name.
    Hit {
        /// Its process id.
        pid: u32,
    },
    /// A QEMU of another domain with the same UUID.
    OtherGuest {
        /// Its process id.
        pid: u32,
        /// The domain's name, as its command line gives it.
        domain: String,
    },
}

/// What the journal says of one VM UID.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalFacts {
    /// The VM UID.
    pub vm_uid: String,
    /// A start was journalled (S5).
    pub start: Option<StartRecord>,
    /// A final state that may not be in the API yet (E2).
    pub end: Option<FinalState>,
}

/// A start, as journalled just before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRecord {
    /// The host has not booted since.
    pub this_boot: bool,
    /// The start call is known to have come to its end: it returned, or it was settled (S6). False if the call ran into its deadline, or the
    /// agent that made it died.
    pub settled: bool,
    /// libvirt's number for the run that the call started, where it is known.
    pub run_id: Option<u32>,
}

/// Files of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisksState {
    /// VM UID whose disks this agent process prepared in full.
    pub ready_for: Option<String>,
    /// VM UIDs of this guest that have files on the node, as far as the agent knows them; read at each look of a plan. Err: they could not be read,
    /// and there may be some; the text says why.
    pub present: Result<Vec<String>, String>,
    /// VM UID whose disks of PersistentVolumes this agent process gave back after its end.
    pub given_back: Option<String>,
    /// What the prepared disks stand on.
    pub images: Vec<ImageStatus>,
    /// Where the images are that the disks need, as far as this agent process asked.
    pub fetch: Option<ImageFetch>,
}

impl Default for DisksState {
    /// Nothing was prepared, and no look was made.
    fn default() -> Self {
        Self { ready_for: None, present: Ok(Vec::new()), given_back: None, images: Vec::new(), fetch: None }
    }
}

/// The images of one VM, on their way to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFetch {
    /// The VM.
    pub vm_uid: String,
    /// How far they are.
    pub state: FetchState,
}

/// How far images are on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchState {
    /// A registry has to be asked, and was not yet, or in vain.
    Missing,
    /// The registry of one is being asked, or has others to serve first.
    Asking {
        /// Since when.
        since: Timestamp,
        /// For people: which.
        message: String,
    },
    /// One is being pulled. The text says which, and how far it is, in coarse steps.
    Pulling(String),
    /// All are there. A text for each that was pulled just now.
    Fetched(Vec<String>),
}

/// Why a guest cannot be brought about right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One CamelCase word, for conditions.
    pub reason: String,
    /// For people: what failed, and what to do.
    pub message: String,
    /// When it failed last.
    pub at: Timestamp,
    /// How often in a row.
    pub failures: u32,
    /// It failed while the guest was being brought up, not while it was being stopped or reported.
    pub bringing_up: bool,
}

/// What the pass over all orphans decided for this one (E6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OrphanGuard {
    /// No pass has looked at this guest since it became an orphan.
    #[default]
    Unasked,
    /// It may go.
    Clear,
    /// Too many would go at once. The text is for the administrator.
    Held(String),
}

//! What a plan consists of.

use std::time::Duration;

use api::v1alpha1::{AbiStatus, Phase, VirtualMachineStatus};
use jiff::Timestamp;

/// What to do for one guest now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodePlan {
    /// Executed in order; the first that fails ends the pass. At most one of them destroys something.
    pub steps: Vec<Step>,
    /// Observe this much more, while `steps` are executed, and plan again at once.
    pub look: Option<Look>,
    /// Observe and plan again after this time even if nothing is reported. Zero: at once. None: when something happens, or at the next full pass.
    pub requeue: Option<Duration>,
    /// Why.
    pub report: Report,
}

/// Reads beyond the watch and libvirt's own state, each made anew and uncached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// S4 and S5: renew the Lease, then read Node and VirtualMachine, then look in /proc.
    Start,
    /// E1, E3 and E4: read OfflineVirtualMachine, then VirtualMachine, and look in /proc.
    End,
    /// E6: have all orphans of the node judged together.
    Orphans,
}

/// Where the guest is, in words for logs and for `virtctl plan`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Named state.
    pub state: &'static str,
    /// The cause, if there is something to say.
    pub because: String,
}

impl Report {
    /// A state, and why.
    pub fn new(state: &'static str, because: &str) -> Self {
        Self { state, because: because.to_owned() }
    }
}

/// One effect. Carries its own preconditions, so that a step that comes late does nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make what the disks of this VM need. Repeatable.
    PrepareDisks {
        /// The VM.
        uid: String,
    },
    /// Ask the registries of this VM's images, and pull what is missing. Begins only: how it goes on is observed. Repeatable.
    FetchImages {
        /// The VM.
        uid: String,
    },
    /// Wait no longer for images. A pull that nobody else waits for is given up.
    CancelFetch,
    /// Render the domain and define it. Refuses to define over a domain of another VM. Where libvirt settles another ABI than `expect`,
    /// the pass ends here, and the next one sees what it settled.
    Define {
        /// The VM.
        uid: String,
        /// The ABI that the status was, or is about to be, told.
        expect: AbiStatus,
    },
    /// Replace the status.
    WriteStatus(StatusWrite),
    /// Write `starting <uid>` to the journal, and wait for the disk.
    JournalStart {
        /// The VM.
        uid: String,
        /// The guest runs already: the start is settled.
        running: bool,
    },
    /// Write a final state to the journal, and wait for the disk.
    JournalEnd {
        /// The VM.
        uid: String,
        /// Its final state.
        end: FinalState,
    },
    /// Start the domain from its definition, never from a saved image (FORCE_BOOT).
    Start {
        /// The VM.
        uid: String,
    },
    /// Destroy whatever a lost start call may have started or may start yet, and note the start as settled (S6).
    SettleStart {
        /// The VM.
        uid: String,
    },
    /// Write the end of the grace period into the domain's metadata.
    SetDeadline {
        /// The VM.
        uid: String,
        /// End of the grace period.
        deadline: Timestamp,
    },
    /// Let a paused guest go on.
    Resume {
        /// The VM.
        uid: String,
    },
    /// Press the ACPI power button.
    Shutdown {
        /// The VM.
        uid: String,
    },
    /// End QEMU through libvirt. Destructive.
    Destroy {
        /// The VM.
        uid: String,
    },
    /// End a QEMU that libvirt has lost, by SIGKILL, if it is still the one that was seen. Destructive.
    KillProcess {
        /// Process id.
        pid: u32,
    },
    /// Remove the definition, with a managed save if there is one. Destructive.
    Undefine {
        /// The VM.
        uid: String,
    },
    /// Remove the files of this VM. Destructive.
    CleanDisks {
        /// The VM.
        uid: String,
    },
    /// Give back the disks of PersistentVolumes that this VM has; its own files stay. Repeatable. Destructive: others may write to them from then on.
    GiveVolumesBack {
        /// The VM.
        uid: String,
    },
    /// Take our finalizer off the VM. Destructive.
    DropFinalizer {
        /// The VM.
        uid: String,
        /// Its resourceVersion.
        resource_version: String,
    },
    /// Forget what the journal says of this VM.
    ForgetJournal {
        /// The VM.
        uid: String,
    },
    /// Set `OVM.status.placement.released` (E4).
    ReleasePlacement {
        /// UID of the OVM.
        ovm_uid: String,
        /// Its resourceVersion.
        resource_version: String,
    },
    /// Set label `kubevirt.io/nodeName` on the VM.
    SetNodeLabel {
        /// The VM.
        uid: String,
    },
    /// Record an event. Cannot fail.
    Record(GuestEvent),
}

impl Step {
    /// Whether the step takes something away that no later step can give back.
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::SettleStart { .. }
            | Self::Destroy { .. }
            | Self::KillProcess { .. }
            | Self::Undefine { .. }
            | Self::CleanDisks { .. }
            | Self::GiveVolumesBack { .. }
            | Self::DropFinalizer { .. }
            | Self::ReleasePlacement { .. } => true,
            Self::PrepareDisks { .. }
            | Self::FetchImages { .. }
            | Self::CancelFetch
            | Self::Define { .. }
            | Self::WriteStatus(_)
            | Self::JournalStart { .. }
            | Self::JournalEnd { .. }
            | Self::Start { .. }
            | Self::SetDeadline { .. }
            | Self::Resume { .. }
            | Self::Shutdown { .. }
            | Self::ForgetJournal { .. }
            | Self::SetNodeLabel { .. }
            | Self::Record(_) => false,
        }
    }

    /// Whether the step helps to bring the guest up: a failure of it is retried ever more slowly, and never delays a stop.
    pub fn is_bringing_up(&self) -> bool {
        matches!(
            self,
            Self::PrepareDisks { .. }
                | Self::FetchImages { .. }
                | Self::Define { .. }
                | Self::JournalStart { .. }
                | Self::Start { .. }
        )
    }
}

/// A replacement of `VM.status`.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusWrite {
    /// The VM.
    pub uid: String,
    /// Its resourceVersion, as precondition.
    pub resource_version: String,
    /// The whole new status.
    pub status: Box<VirtualMachineStatus>,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalState {
    /// Succeeded or Failed.
    pub phase: Phase,
    /// One CamelCase word, for condition `Ready`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When the agent learned of it.
    pub at: Timestamp,
}

/// An event on the VirtualMachine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestEvent {
    /// UID of the VM that it is about.
    pub uid: String,
    /// Normal or Warning.
    pub type_: EventType,
    /// One CamelCase word.
    pub reason: &'static str,
    /// For people. Never carries user data.
    pub message: String,
}

impl GuestEvent {
    /// An event that says that all is well.
    pub fn normal(uid: &str, reason: &'static str, message: &str) -> Self {
        Self { uid: uid.to_owned(), type_: EventType::Normal, reason, message: message.to_owned() }
    }

    /// An event of something that wants attention.
    pub fn warning(uid: &str, reason: &'static str, message: &str) -> Self {
        Self { type_: EventType::Warning, ..Self::normal(uid, reason, message) }
    }
}

/// Type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// All is well.
    Normal,
    /// Something wants attention.
    Warning,
}

//! A guest's life on its node: from what the API wants and what libvirt shows to the next few steps.
//!
//! ```text
//!  bound ──► disks ready ──► [S4 reads, /proc] ──► defined ─► published ─► journalled ─► started ──► running
//!                                                                                                     │ ends, or is told to
//!  gone ◄── finalizer dropped ◄── disks cleaned ◄── undefined ◄── final state reported ◄── [/proc] ◄──┘
//! ```
//!
//! [`plan_guest`] decides for one guest, [`plan_orphans`] for all guests without an object at once. Nothing here acts: the agent
//! executes the steps in order, stops at the first that fails, then observes and plans again. At most one step of a plan destroys
//! something. The rules (S4, E1, ...) are those of the protocol between controller, agents and API.

mod abi;
mod accelerator;
mod desired;
mod disk_fault;
mod firmware;
mod guest;
mod host_stop;
mod images;
mod lifecycle;
mod observed;
mod orphans;
mod processes;
mod renewal;
mod start;
mod start_answer;
mod status;
mod step;
mod stop;

#[cfg(test)]
mod tests;

pub use abi::{choose_machine_type, machine_family, machine_type_gone};
pub use accelerator::{Accelerator, Emulation, OfferedAccelerators, choose_accelerator};
pub use desired::{DesiredGuest, FreshVm, GuestKey, NodeView, OvmFacts, OvmView, StartCheck, VmFacts};
pub use disk_fault::{DiskFault, Resumes};
pub use firmware::{FirmwareFacts, firmware_uuid};
pub use guest::plan_guest;
pub use host_stop::{HostStopStep, RunningGuest, plan_host_stop};
pub use images::{ImageCopy, NamedImage, needs_registries};
pub use observed::{
    DisksState, DomainFacts, DomainSlot, DomainState, FetchState, ImageFetch, JournalFacts, ObservedGuest, OrphanGuard,
    PausedReason, ProcLook, ShutOffReason, StartRecord, Trouble,
};
pub use orphans::{OrphanFacts, OrphanVerdict, plan_orphans};
pub use processes::{GuestRun, ProcVerdict, judge_processes};
pub use renewal::{next_lifetime, renewal_pause, renewal_time};
pub use start_answer::{StartAnswer, StartNote, note_of_start};
pub use step::{EventType, FinalState, GuestEvent, Look, NodePlan, Report, StatusWrite, Step};

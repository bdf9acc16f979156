//! Decisions of the controller, one namespace and name at a time: OfflineVirtualMachine to VirtualMachine, placement, binding, lost and
//! fenced nodes, deletion.
//!
//! ```text
//! observe (caches) -> plan -> Rest
//!                          -> Look: read VM, OVM, VM again, then Lease and Node, uncached -> plan
//!                          -> Act:  one write with preconditions, its answer folded in    -> plan
//! ```
//! From caches nothing is written but an OVM's finalizer, and the VM that it asks for, of which nothing comes before the first write to the OVM has found it
//! unchanged (S1, S2). That one order of reads is enough for S2, D1, D3, D4 and F2 of the protocol (`docs/protocol.md`), whose
//! rules the code names where it follows them.

mod abi;
mod binder;
mod claims;
mod delete;
mod draft;
mod events;
mod eviction;
mod identity;
mod joining;
mod kinds;
mod leader;
mod lease;
mod nodes;
mod objects;
mod observed;
mod ovm;
mod placement;
mod start_failure;
mod status;
mod step;
mod template;
#[cfg(test)]
mod tests;
mod vm;

use std::time::Duration;

use jiff::Timestamp;

pub use abi::AbiRevision;
pub use binder::*;
pub use claims::{ClaimUser, ObservedClaim, VolumeConstraints, claims_of, use_of_claim};
pub use draft::plan;
pub use events::*;
pub use eviction::SeenTaint;
pub use identity::{KUBEVIRT_V0_NAMESPACE, UuidRule, kubevirt_v0_uuid};
pub use joining::*;
pub use kinds::*;
pub use leader::*;
pub use lease::*;
pub use nodes::*;
pub use objects::bound_node;
pub use observed::*;
pub use placement::*;
pub use step::*;

/// The time of a plan, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall time: what conditions and back-off timestamps are written in.
    pub wall: Timestamp,
    /// Time on a clock of this process that never jumps: what Leases are judged by.
    pub monotonic: Duration,
}

//! Both planners against a fake world, in virtual time: two controllers with stale caches, agents, a garbage collector, libvirtd and hosts that
//! die and return, answers that are lost, people who delete things.
//!
//! Everything happens in single steps, chosen by a seed (`chaos`). After each the invariants are checked (`check`, `ledger`); after the last
//! the world is left in peace, and must come to what the objects ask for. A failing seed prints what happened, and replays.
//!
//! ```text
//! cargo xtask sim --seeds 100000      any number of seeds
//! cargo xtask sim --seed 4711         one, with everything that happened
//! ```
//!
//! `scenarios/` scripts the interleavings of the protocol's own table, one test a row. `Lies` take one rule of the protocol away, by showing a planner
//! something else than it asked for: each scenario passes as it is, and goes wrong, in the way that the table says, under its lie.
//!
//! Nothing here decides anything for a guest: a fake that needs a rule of its own to hold the world together hides a bug.

mod agent;
mod api;
mod chaos;
mod check;
mod controller;
mod host;
mod ledger;
mod random;
mod reach;
mod words;
mod world;

#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;

pub use reach::{Milestone, Reach};

pub(crate) use random::Random;
use world::World;

/// What came of one seed.
#[derive(Clone, Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// The first violation of an invariant.
    pub violation: Option<String>,
    /// What the run got to.
    pub reach: Reach,
    /// What happened, a line a step; empty unless asked for.
    pub trace: Vec<String>,
}

/// Runs one seed. The same seed is the same run, traced or not.
pub fn run(seed: u64, is_traced: bool) -> Run {
    run_under(seed, is_traced, Lies::default())
}

fn run_under(seed: u64, is_traced: bool, lies: Lies) -> Run {
    let mut random = Random::new(seed);
    let mut world = World::new(is_traced);
    world.lies = lies;
    let violation = chaos::run(&mut world, &mut random).err();
    Run { seed, violation, reach: world.reach, trace: world.trace.unwrap_or_default() }
}

/// Ways in which a planner is shown what it must not rely on: each takes one rule of the protocol away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lies {
    /// S4: the agent's uncached reads of Node and VM are answered from its cache.
    start_check_from_cache: bool,
    /// E1: /proc never shows anything.
    proc_clear: bool,
    /// F1: every Lease looks expired.
    leases_expired: bool,
    /// F2: Lease and Node of a look are answered from the controller's cache.
    homes_from_cache: bool,
    /// T1: Nodes show no taints.
    taints_hidden: bool,
    /// T1: Kubernetes' own taints have other keys.
    kubernetes_taints_look_like_ours: bool,
    /// T1: every Lease looks as if it had just been renewed.
    leases_look_live: bool,
    /// S6: every journalled start looks settled.
    starts_settled: bool,
    /// S6 to the letter of its first words: a guest that runs looks off until its start is settled.
    unsettled_runs_look_off: bool,
    /// S5: the journal shows no starts.
    journal_without_starts: bool,
    /// K2: journal and files show nothing of a VM before its successor's disks are prepared.
    predecessors_hidden: bool,
    /// E5, D3: OVMs show controllers no placement.
    controllers_see_no_placement: bool,
    /// E4: OVMs show agents no placement.
    agents_see_no_placement: bool,
    /// S2: the placement of a VM that is not bound yet is not shown.
    placement_of_unbound_hidden: bool,
    /// E4: an agent sees only the domain of the VM that there is.
    only_own_domains: bool,
    /// E6: an agent never learns that a domain's VM has a successor.
    successors_hidden: bool,
    /// E6: no orphan is ever held back.
    orphans_look_clear: bool,
    /// S1: VMs look as if they had our finalizer, to controllers.
    finalizers_look_present: bool,
    /// D1: the OVM of a look is answered from the controller's cache.
    ovm_from_cache: bool,
    /// D2: the placement of an OVM looks as if it named the bound VM.
    placements_look_right: bool,
    /// D3: VMs look as if they had been written to already.
    adoptions_look_blocked: bool,
    /// S2: no VM shows which template it was made from.
    templates_look_current: bool,
    /// S2, D3: a look does not read the VM again after the OVM.
    vm_read_once: bool,
    /// S3: the records of a look are listed from a cache that has not seen one yet.
    records_hidden: bool,
    /// R1: a record gets the next number that is free, whatever its VM was bound with.
    records_get_any_number: bool,
    /// R3: every OVM shows agents the record of what was published.
    abi_looks_recorded: bool,
    /// R3: no OVM shows agents that it is being deleted.
    ovms_look_kept: bool,
}

//! Which node a guest goes to: the one decision that another scheduler would replace.
//!
//! A node fits if its agent lives and accepts guests, the guest's selector, affinity and tolerations agree with it, and there is room. Of
//! those that fit: one that offers the guest's machine type, then the most preferred, then the fewest soft taints, then the most free memory, then the first by name.

mod affinity;
mod resources;
mod taints;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use api::admission::validate_vm_spec;
use api::v1alpha1::VirtualMachineSpec;
use k8s_openapi::api::core::v1::{NodeAffinity, Toleration};

pub use resources::{GUEST_OVERHEAD_KIB, guest_requests};
pub(in crate::cluster) use taints::{taint_text, toleration};

use super::{LeaseVerdict, Now, ObservedNode, Requests, VolumeConstraints};

/// What a guest asks of its node.
#[derive(Clone, Debug)]
pub struct Constraints<'a> {
    /// Labels that the node must have.
    pub selector: Option<&'a BTreeMap<String, String>>,
    /// Required and preferred nodes.
    pub affinity: Option<&'a NodeAffinity>,
    /// Taints that the guest tolerates.
    pub tolerations: &'a [Toleration],
    /// What it takes there, overhead included.
    pub requests: Requests,
    /// The one node that it may go to (E5).
    pub pinned: Option<&'a str>,
    /// The machine type that its record, or its user, says; nodes that offer it are preferred to all others, since it starts on no other.
    pub machine_type: Option<String>,
    /// Where its volumes are.
    pub volumes: VolumeConstraints,
}

/// Why a guest has no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The VM's spec cannot be run anywhere.
    InvalidSpec(String),
    /// No node fits; the reason for each.
    NoNode(BTreeMap<String, Reason>),
    /// The guest's ABI record cannot be used.
    Record(String),
    /// Another guest has its firmware UUID.
    UuidInUse(String),
    /// A claim cannot be used now.
    Volume {
        /// One word.
        reason: &'static str,
        /// Which claim, why, and what to do.
        message: String,
    },
}

/// Why one node does not fit. In this order they are looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The guest's last VM is not known to be gone from another node.
    NotPinned {
        /// The node that it has to go to until then.
        pinned: String,
    },
    /// Its agent does not accept guests.
    NotSchedulable,
    /// Its agent is silent.
    AgentSilent,
    /// Cordoned, being deleted, or out of service.
    Cordoned,
    /// It lacks a label of the node selector, or the affinity rules it out.
    Selector,
    /// A volume of the guest is on other nodes.
    VolumeElsewhere {
        /// Name of the PersistentVolume.
        volume: String,
    },
    /// Another guest has a claim on another node.
    ClaimElsewhere {
        /// The claim.
        claim: String,
        /// That node.
        node: String,
    },
    /// It has a taint that the guest does not tolerate.
    Taint {
        /// The taint, as `key` or `key=value`.
        taint: String,
    },
    /// Not enough memory is free.
    Memory {
        /// What is missing, in KiB.
        missing_kib: u64,
    },
    /// Not enough CPU is free.
    Cpu {
        /// What is missing, in thousandths of a core.
        missing_millis: u64,
    },
}

impl<'a> Constraints<'a> {
    /// What a VM's spec asks for.
    ///
    /// # Errors
    /// When the spec breaks an admission rule (it was stored while no webhook was there to refuse it).
    pub fn of(spec: &'a VirtualMachineSpec, pinned: Option<&'a str>) -> Result<Self, Misfit> {
        let valid = validate_vm_spec(spec, "spec").map_err(|causes| {
            Misfit::InvalidSpec(causes.into_iter().map(|cause| cause.message).collect::<Vec<_>>().join(" "))
        })?;
        Ok(Self {
            selector: spec.node_selector.as_ref(),
            affinity: spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()),
            tolerations: spec.tolerations.as_deref().unwrap_or_default(),
            requests: resources::with_overhead(&valid),
            pinned,
            machine_type: None,
            volumes: VolumeConstraints::default(),
        })
    }
}

/// The name of the node to go to.
///
/// # Errors
/// Why none fits.
pub fn choose(now: Now, constraints: &Constraints<'_>, nodes: &[ObservedNode]) -> Result<String, Misfit> {
    let mut misfits = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in nodes {
        match misfit(now, constraints, node) {
            Some(reason) => {
                misfits.insert(node.facts.name.clone(), reason);
            }
            None => fitting.push(node),
        }
    }
    let best = fitting.into_iter().min_by_key(|node| {
        let preferred = constraints.affinity.map_or(0, |affinity| affinity::preference(affinity, &node.facts));
        let soft_taints = taints::untolerated_soft(&node.facts.taints, constraints.tolerations);
        (
            !offers(node, constraints),
            Reverse(preferred),
            soft_taints,
            Reverse(resources::free(node).memory_kib),
            &node.facts.name,
        )
    });
    best.map(|node| node.facts.name.clone()).ok_or(Misfit::NoNode(misfits))
}

/// Whether the node offers the guest's machine type, or does not say what it offers.
fn offers(node: &ObservedNode, constraints: &Constraints<'_>) -> bool {
    let offered = &node.facts.machine_types;
    offered.is_empty() || constraints.machine_type.as_ref().is_none_or(|wanted| offered.contains(wanted))
}

/// The first reason why a node does not fit.
fn misfit(now: Now, constraints: &Constraints<'_>, node: &ObservedNode) -> Option<Reason> {
    let facts = &*node.facts;
    if let Some(pinned) = constraints.pinned.filter(|pinned| *pinned != facts.name) {
        return Some(Reason::NotPinned { pinned: pinned.to_owned() });
    }
    if !facts.is_schedulable() {
        return Some(Reason::NotSchedulable);
    }
    if node.lease.version.is_none() || node.lease.verdict(now.monotonic) == LeaseVerdict::Expired {
        return Some(Reason::AgentSilent);
    }
    // Even a guest that tolerates every taint is not started on a node that is said to be off (S4).
    if facts.closed || facts.is_out_of_service() {
        return Some(Reason::Cordoned);
    }
    let selected = constraints.selector.into_iter().flatten().all(|(key, value)| facts.labels.get(key) == Some(value));
    if !selected || !constraints.affinity.is_none_or(|affinity| affinity::admits(affinity, facts)) {
        return Some(Reason::Selector);
    }
    if let Some((volume, _)) = constraints.volumes.affinities.iter().find(|(_, rule)| !affinity::selects(rule, facts)) {
        return Some(Reason::VolumeElsewhere { volume: volume.clone() });
    }
    if let Some((node, claim)) = constraints.volumes.pinned.iter().find(|(node, _)| *node != facts.name) {
        return Some(Reason::ClaimElsewhere { claim: claim.clone(), node: node.clone() });
    }
    if let Some(taint) = taints::untolerated(&facts.taints, constraints.tolerations) {
        return Some(Reason::Taint { taint });
    }
    let free = resources::free(node);
    let missing_kib = constraints.requests.memory_kib.saturating_sub(free.memory_kib);
    let missing_millis = constraints.requests.cpu_millis.saturating_sub(free.cpu_millis);
    if missing_kib > 0 {
        return Some(Reason::Memory { missing_kib });
    }
    (missing_millis > 0).then_some(Reason::Cpu { missing_millis })
}

impl Misfit {
    /// One word for the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidSpec(_) => "InvalidSpec",
            Self::NoNode(_) => "Unschedulable",
            Self::Record(_) => "AbiRecordUnusable",
            Self::UuidInUse(_) => "FirmwareUuidInUse",
            Self::Volume { reason, .. } => reason,
        }
    }

    /// One line per node.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::InvalidSpec(_) | Self::Record(_) | Self::UuidInUse(_) | Self::Volume { .. } => vec![self.to_string()],
            Self::NoNode(nodes) => {
                nodes.iter().map(|(node, reason)| format!("node {node}: {}", reason.detail())).collect()
            }
        }
    }
}

/// As kube-scheduler says it: `0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't match node selector or affinity.`
impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = match self {
            Self::InvalidSpec(why) | Self::Record(why) | Self::UuidInUse(why) | Self::Volume { message: why, .. } => {
                return f.write_str(why);
            }
            Self::NoNode(nodes) => nodes,
        };
        if nodes.is_empty() {
            return f.write_str("0/0 nodes are available: no node is registered; is an agent running?");
        }
        let mut counts = BTreeMap::<String, usize>::new();
        for reason in nodes.values() {
            *counts.entry(reason.summary()).or_default() += 1;
        }
        let parts: Vec<_> = counts.iter().map(|(summary, count)| format!("{count} {summary}")).collect();
        write!(f, "0/{} nodes are available: {}.", nodes.len(), parts.join(", "))
    }
}

impl Reason {
    /// What nodes with this reason are counted under.
    fn summary(&self) -> String {
        match self {
            Self::NotPinned { pinned } => format!("node(s) must wait until node {pinned} has let the old guest go"),
            Self::NotSchedulable => "node(s) accept no guests".to_owned(),
            Self::AgentSilent => "node(s) had a silent agent".to_owned(),
            Self::Cordoned => "node(s) were unschedulable".to_owned(),
            Self::Selector => "node(s) didn't match node selector or affinity".to_owned(),
            Self::VolumeElsewhere { volume } => format!("node(s) didn't have PersistentVolume {volume}"),
            Self::ClaimElsewhere { claim, node } => {
                format!("node(s) cannot have ReadWriteOnce claim {claim}, which is in use on node {node}")
            }
            Self::Taint { taint } => format!("node(s) had untolerated taint {{{taint}}}"),
            Self::Memory { .. } => "Insufficient memory".to_owned(),
            Self::Cpu { .. } => "Insufficient cpu".to_owned(),
        }
    }

    /// The reason with its numbers.
    fn detail(&self) -> String {
        match self {
            Self::Memory { missing_kib } => format!("Insufficient memory ({missing_kib} KiB missing)"),
            Self::Cpu { missing_millis } => format!("Insufficient cpu ({missing_millis}m missing)"),
            Self::NotPinned { .. }
            | Self::NotSchedulable
            | Self::AgentSilent
            | Self::Cordoned
            | Self::Selector
            | Self::VolumeElsewhere { .. }
            | Self::ClaimElsewhere { .. }
            | Self::Taint { .. } => self.summary(),
        }
    }
}

#[cfg(test)]
mod tests;

//! One line a step, so that a trace can be read.

use std::fmt;

use crate::{cluster, node};

/// A step of an agent.
pub(super) struct NodeStep<'a>(pub(super) &'a node::Step);

impl fmt::Display for NodeStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use node::Step;
        match self.0 {
            Step::PrepareDisks { uid } => write!(f, "prepare disks of {uid}"),
            Step::FetchImages { uid } => write!(f, "fetch images of {uid}"),
            Step::CancelFetch => write!(f, "cancel the fetch of images"),
            Step::Define { uid, .. } => write!(f, "define {uid}"),
            Step::WriteStatus(write) => {
                let phase = write.status.phase.unwrap_or_default();
                let ready = write.status.conditions.iter().find(|condition| condition.type_ == "Ready");
                let reason = ready.and_then(|ready| ready.reason.as_deref()).unwrap_or("-");
                write!(f, "write status of {} @{}: {phase:?} ({reason})", write.uid, write.resource_version)
            }
            Step::JournalStart { uid, running } => write!(f, "journal start of {uid}, running={running}"),
            Step::JournalEnd { uid, end } => write!(f, "journal end of {uid}: {:?} ({})", end.phase, end.reason),
            Step::Start { uid } => write!(f, "start {uid}"),
            Step::SettleStart { uid } => write!(f, "settle start of {uid}"),
            Step::SetDeadline { uid, deadline } => write!(f, "set deadline of {uid} to {deadline}"),
            Step::Resume { uid } => write!(f, "resume {uid}"),
            Step::Shutdown { uid } => write!(f, "press power button of {uid}"),
            Step::Destroy { uid } => write!(f, "destroy {uid}"),
            Step::KillProcess { pid } => write!(f, "kill process {pid}"),
            Step::Undefine { uid } => write!(f, "undefine {uid}"),
            Step::CleanDisks { uid } => write!(f, "clean disks of {uid}"),
            Step::GiveVolumesBack { uid } => write!(f, "give back volumes of {uid}"),
            Step::DropFinalizer { uid, resource_version } => write!(f, "drop finalizer of {uid} @{resource_version}"),
            Step::ForgetJournal { uid } => write!(f, "forget journal of {uid}"),
            Step::ReleasePlacement { ovm_uid, resource_version } => {
                write!(f, "release placement in OVM {ovm_uid} @{resource_version}")
            }
            Step::SetNodeLabel { uid } => write!(f, "label {uid}"),
            Step::Record(event) => write!(f, "event {}", event.reason),
        }
    }
}

/// A step of a controller.
pub(super) struct ClusterStep<'a>(pub(super) &'a cluster::Step);

impl fmt::Display for ClusterStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use cluster::{MetadataEdit, Step};
        let edit = |f: &mut fmt::Formatter<'_>, edit: &MetadataEdit| match edit {
            MetadataEdit::Finalizers(all) => write!(f, "finalizers {all:?}"),
            MetadataEdit::OwnerReferences(all) => {
                write!(f, "owners {:?}", all.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>())
            }
            MetadataEdit::Annotation { key, .. } => write!(f, "annotation {key}"),
        };
        match self.0 {
            Step::CreateVm(_) => f.write_str("create VM"),
            Step::CreateRevision(made) => write!(f, "create record {}", made.revision),
            Step::EditRevision { name, .. } => write!(f, "take over record {name}"),
            Step::DeleteRevision { name, .. } => write!(f, "delete record {name}"),
            Step::DeleteVm(at) => write!(f, "delete VM {} @{}", at.uid, at.resource_version),
            Step::EvictVm { at, .. } => write!(f, "evict VM {} @{}", at.uid, at.resource_version),
            Step::EditVm(at, change) => {
                write!(f, "VM {} @{}: ", at.uid, at.resource_version)?;
                edit(f, change)
            }
            Step::EditOvm(at, change) => {
                write!(f, "OVM {} @{}: ", at.uid, at.resource_version)?;
                edit(f, change)
            }
            Step::WriteVmStatus { at, status, .. } => {
                let (phase, node) = (status.phase.unwrap_or_default(), status.node_name.as_deref().unwrap_or("-"));
                write!(f, "status of VM {} @{}: {phase:?} on {node}", at.uid, at.resource_version)
            }
            Step::WriteOvmStatus { at, status, .. } => {
                write!(f, "status of OVM {} @{}: ", at.uid, at.resource_version)?;
                match &status.placement {
                    Some(place) => write!(f, "{} on {}, released={}", place.vm_uid, place.node_name, place.released)?,
                    None => f.write_str("no placement")?,
                }
                write!(f, ", created={}, ready={}", status.created, status.ready)
            }
        }
    }
}

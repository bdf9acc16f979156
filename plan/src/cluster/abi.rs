//! The guest ABI's records: found, copied at binding (S3), written (R1), named (R2), kept to ten.
//!
//! ```text
//! records, listed ─ newest ─> VM.status.abi at binding ─ agent publishes what libvirt settled, starts ─> differs from OVM.status.abi?
//!     ^                                                                                                    │ Running, ended or told to
//!     └────────────── revision n+1, n being the one that the VM was bound with <───────────────────────────┘ then OVM.status.abi names it
//! ```

use api::abi::{record_label, record_name};
use api::names::{ABI_OF_LABEL, ABI_RESET_ANNOTATION};
use api::v1alpha1::{AbiRecord, AbiStatus, OfflineVirtualMachine, Phase, VirtualMachine};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;

use super::draft::{Draft, Need};
use super::identity::{firmware_uuid, given_uuid};
use super::objects::{controller_of, is_deleting, phase_of, uid_of, version_of};
use super::ovm::owner_reference;
use super::placement::Misfit;
use super::{Next, Step, UuidRule, Version};

/// So many records are kept.
const KEPT: usize = 10;
/// As far as a reset can count. After what somebody numbered beyond, no other record could come.
const MAX_NUMBER: i64 = u32::MAX as i64;

/// One record, as it was listed.
#[derive(Clone, Debug, PartialEq)]
pub struct AbiRevision {
    /// Name of the ControllerRevision.
    pub name: String,
    /// Which version of the object this is.
    pub version: Version,
    /// Its number; the highest counts.
    pub revision: i64,
    /// UID of its controller.
    pub owner: Option<String>,
    /// The record, or why it cannot be read.
    pub record: Result<AbiRecord, String>,
}

impl AbiRevision {
    /// What a ControllerRevision of this OVM's label says. None: it is not a record of an OVM of this name.
    pub fn from_object(ovm: &str, object: &ControllerRevision) -> Option<Self> {
        let meta = &object.metadata;
        let name = meta.name.clone()?;
        let data = object.data.as_ref().map(|data| data.0.clone()).unwrap_or_default();
        let is_ours = name == record_name(ovm, object.revision) && (0..=MAX_NUMBER).contains(&object.revision);
        is_ours.then(|| Self {
            name,
            version: version_of(meta),
            revision: object.revision,
            owner: controller_of(meta).map(|owner| owner.uid.clone()),
            record: AbiRecord::read(&data).map_err(|error| api::chain(&error)),
        })
    }

    fn hash(&self) -> Option<String> {
        self.record.as_ref().ok().map(AbiRecord::hash)
    }
}

impl Draft<'_> {
    /// The OVM's own records, and those that nobody owns: restored, or left by an OVM that was deleted with orphaning. Those of an earlier OVM of the name
    /// go with it.
    fn records(&self, ovm: &OfflineVirtualMachine) -> impl DoubleEndedIterator<Item = &AbiRevision> {
        let uid = uid_of(&ovm.metadata).to_owned();
        let all = self.observed.revisions.iter().flatten();
        all.filter(move |one| one.owner.as_ref().is_none_or(|owner| *owner == uid))
    }

    /// The record that counts: the newest, unless it was reset.
    pub(super) fn newest_record(&self, ovm: &OfflineVirtualMachine) -> Option<&AbiRevision> {
        let reset = reset_up_to(ovm);
        self.records(ovm).next_back().filter(|one| one.revision > reset)
    }

    /// Lets go of what was reset, takes over what nobody owns, and lets go of what is more than ten old. Only where the records were listed for another
    /// reason.
    pub(super) fn plan_record_upkeep(
        &mut self,
        ovm: &OfflineVirtualMachine,
        vm: Option<&VirtualMachine>,
    ) -> Option<Next> {
        let reset = reset_up_to(ovm);
        // What a guest that runs published is recorded and named (R2) before it is forgotten: the gate R3 waits for that.
        let may_forget = vm.is_none_or(|vm| unrecorded(ovm, vm).is_none());
        let forgotten = self.records(ovm).find(|one| one.owner.is_some() && one.revision <= reset);
        if let Some(AbiRevision { name, version: at, .. }) = forgotten.filter(|_| may_forget).cloned() {
            let why = format!("the record {name} was reset");
            return Some(self.act(&why, Step::DeleteRevision { name, at }, &[Need::Revisions]));
        }
        let orphan = self.records(ovm).find(|one| one.owner.is_none() && one.revision > reset).cloned();
        if let Some(AbiRevision { name, version: at, .. }) = orphan {
            let why = format!("the record {name} has no owner: the OVM takes it over");
            let step = Step::EditRevision { name, at, owners: vec![owner_reference(ovm)] };
            return Some(self.act(&why, step, &[Need::Revisions]));
        }
        // What nobody owns, and was reset, is somebody's backup: it neither counts nor goes.
        let own = || self.records(ovm).filter(|one| one.owner.is_some());
        let oldest = own().next().filter(|_| own().count() > KEPT).cloned();
        oldest.map(|AbiRevision { name, version: at, .. }| {
            self.act(
                &format!("the record {name} is more than {KEPT} old"),
                Step::DeleteRevision { name, at },
                &[Need::Revisions],
            )
        })
    }

    /// What a VM is bound with (S3): the newest record, or for a guest without one its UUID alone.
    pub(super) fn bound_abi(&self, vm: &VirtualMachine, ovm: Option<&OfflineVirtualMachine>) -> AbiStatus {
        let newest = ovm.and_then(|ovm| self.newest_record(ovm));
        let record = newest.and_then(|newest| Some((newest.revision, newest.record.as_ref().ok()?)));
        let recorded = record.map(|(_, record)| record.firmware_uuid.as_str());
        let uuid = firmware_uuid(&self.observed.installation, &self.observed.key, vm, ovm.is_some(), recorded);
        // After a reset the numbers go on past it, with one left out: nothing that was on record is mistaken for what this guest settles.
        let reset = ovm.map(reset_up_to).filter(|reset| *reset > 0);
        let anew = AbiStatus { revision: reset.map(|reset| reset + 1), ..AbiStatus::default() };
        let abi = record.map_or(anew, |(revision, record)| record.to_status(Some(revision)));
        AbiStatus { firmware_uuid: Some(uuid.to_string()), ..abi }
    }

    /// What keeps a guest from being bound for its ABI's sake.
    pub(super) fn abi_obstacle(&self, vm: &VirtualMachine, ovm: &OfflineVirtualMachine) -> Option<Misfit> {
        if let Err(text) = api::abi::reset_up_to(&ovm.metadata) {
            return Some(Misfit::Record(format!(
                "annotation {ABI_RESET_ANNOTATION}: \"{text}\" is not the number of a record (0 to {}): set it with virtctl abi reset, or remove it",
                u32::MAX
            )));
        }
        if let Some((name, why)) = self.newest_record(ovm).and_then(|one| Some((&one.name, one.record.as_ref().err()?)))
        {
            return Some(Misfit::Record(format!("ControllerRevision {name}: {why}")));
        }
        let is_by_name = self.observed.installation.uuid_rule == UuidRule::KubevirtV0 && given_uuid(&vm.spec).is_none();
        let holder = self.observed.uuid_holder.as_ref().filter(|_| is_by_name)?;
        Some(Misfit::UuidInUse(format!(
            "{holder} has the firmware UUID that --uuid-compat=kubevirt-v0 gives this guest, since it is made of the name alone: rename one of the two, or \
             set spec.template.spec.domain.firmware.uuid of this one"
        )))
    }

    /// The machine type that a guest needs of its node, if that is known before it is there.
    pub(super) fn needed_machine_type(
        &self,
        vm: &VirtualMachine,
        ovm: Option<&OfflineVirtualMachine>,
    ) -> Option<String> {
        let asked = vm.spec.domain.machine.as_ref().map(|machine| machine.type_.as_str());
        // An alias (`q35`, `pc`) has no version, and leaves it to the record.
        let versioned = asked.filter(|asked| asked.contains('-')).map(str::to_owned);
        let newest = ovm.and_then(|ovm| self.newest_record(ovm)).and_then(|newest| newest.record.as_ref().ok());
        versioned.or_else(|| newest.map(|record| record.machine_type.clone()))
    }

    /// R1, R2: what the agent published becomes the next record, and the OVM names it. Waits until the guest runs, has ended or is to end, so that the name
    /// goes out in one write with `ready`.
    pub(super) fn plan_record(&mut self, ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> Option<Next> {
        let (abi, record) = unrecorded(ovm, vm)?;
        if self.observed.revisions.is_none() || !self.observed.order.is_uncached() {
            self.report.note("R1: the guest's ABI is not on record: look for the records");
            return Some(look_for_records());
        }
        let (bound, hash) = (abi.revision.unwrap_or(0), abi.hash.as_ref());
        if self.recorded_as(ovm, &abi).is_some() {
            let status = self.ovm_status(ovm, Some(vm));
            return self.write_ovm_status("R2: the OVM names the record", ovm, status, None);
        }
        let newest = self.records(ovm).next_back().map_or(0, |newest| newest.revision);
        if newest > bound {
            // Somebody restored a record, or another controller wrote one that is not this VM's. The write fails unless this VM is the current one.
            let mut status = vm.status.clone().unwrap_or_default();
            status.abi = Some(AbiStatus { revision: Some(newest), ..abi.clone() });
            let why =
                format!("R1: record {newest} is newer than the one that the VM was bound with, and not of this guest");
            return self.write_vm_status(&why, vm, status, None, &[]);
        }
        let next = bound.saturating_add(1);
        let made = make_revision(ovm, next, &record);
        let why = format!("R1: what libvirt settled ({}) is record {next}", hash.map_or("", String::as_str));
        Some(self.act(&why, Step::CreateRevision(Box::new(made)), &[Need::Revisions]))
    }

    /// The record of what a VM's status says, if there is one: the one that it was bound with, or the next.
    fn recorded_as(&self, ovm: &OfflineVirtualMachine, abi: &AbiStatus) -> Option<&AbiRevision> {
        let bound = abi.revision.unwrap_or(0);
        let mut near = self.records(ovm).filter(|one| one.revision == bound || one.revision == bound.saturating_add(1));
        near.find(|one| one.hash().is_some() && one.hash() == abi.hash)
    }

    /// `OVM.status.abi`, as far as the records were listed.
    pub(super) fn ovm_abi(&self, ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>) -> Option<AbiStatus> {
        let known = ovm.status.as_ref().and_then(|status| status.abi.clone());
        if self.observed.revisions.is_none() {
            return known;
        }
        let published = vm.and_then(|vm| vm.status.as_ref()?.abi.as_ref()).filter(|abi| abi.hash.is_some());
        let counts = match published {
            Some(abi) if abi.is_recorded_in(known.as_ref()) => return known,
            Some(abi) => match self.recorded_as(ovm, abi) {
                Some(recorded) => Some(recorded),
                None => return known,
            },
            None => self.newest_record(ovm),
        };
        counts.and_then(|one| Some(one.record.as_ref().ok()?.to_summary(Some(one.revision))))
    }

    /// R3, for a VM that the controller lets go itself (F2): whether its ABI is on record, or nobody is to record it.
    pub(super) fn may_let_go(&self, vm: &VirtualMachine) -> bool {
        let owner = controller_of(&vm.metadata).map(|owner| owner.uid.as_str());
        let ovm = self
            .observed
            .ovm
            .as_deref()
            .filter(|ovm| Some(uid_of(&ovm.metadata)) == owner && !is_deleting(&ovm.metadata));
        ovm.is_none_or(|ovm| unrecorded(ovm, vm).is_none())
    }
}

/// The number up to which records do not count; 0 if all do.
fn reset_up_to(ovm: &OfflineVirtualMachine) -> i64 {
    api::abi::reset_up_to(&ovm.metadata).unwrap_or(0)
}

fn look_for_records() -> Next {
    Next::Look(super::Look { revisions: true, ..super::Look::default() })
}

/// What the agent published and the OVM does not name, once it is due.
fn unrecorded(ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> Option<(AbiStatus, AbiRecord)> {
    let abi = vm.status.as_ref()?.abi.as_ref()?;
    let phase = phase_of(vm);
    let is_due = phase == Phase::Running || phase.is_final() || is_deleting(&vm.metadata);
    let is_recorded = abi.is_recorded_in(ovm.status.as_ref().and_then(|status| status.abi.as_ref()));
    if is_recorded || !is_due { None } else { Some((abi.clone(), abi.to_record()?)) }
}

/// The object of a record.
fn make_revision(ovm: &OfflineVirtualMachine, revision: i64, record: &AbiRecord) -> ControllerRevision {
    let name = ovm.metadata.name.as_deref().unwrap_or_default();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(record_name(name, revision)),
            namespace: ovm.metadata.namespace.clone(),
            labels: Some([(ABI_OF_LABEL.to_owned(), record_label(name))].into()),
            owner_references: Some(vec![owner_reference(ovm)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(record.to_data())),
        revision,
    }
}

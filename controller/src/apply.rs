//! Carries out one step of the planner. No decisions: each step is one call with the preconditions that it carries.

use std::borrow::Cow;
use std::sync::Arc;

use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use plan::cluster::{MetadataEdit, Observed, Step, Version};
use serde::Serialize;
use serde_json::{Value, json};

use crate::lean::{Kind, Lean};

/// Who our writes are by, in `managedFields`.
const FIELD_MANAGER: &str = "ovm-controller";

/// What the API server answered.
pub(crate) enum Answer {
    /// The VM as it is now; none if the write let it go.
    Vm(Option<Arc<VirtualMachine>>),
    /// The OVM as it is now; none if the write let it go.
    Ovm(Option<Arc<OfflineVirtualMachine>>),
    /// A delete was taken. What it did has to be looked at.
    Deleted,
    /// A record as it is now.
    Revision(Box<ControllerRevision>),
    /// A record that is gone, by name.
    RevisionDeleted(String),
}

/// Why a step was not carried out.
#[derive(Debug)]
pub(crate) enum ApplyError {
    /// Somebody else was faster: look again.
    Stale,
    /// It failed.
    Failed(kube::Error),
}

/// An object as it was read, with another status.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithStatus<'a, K: Kind> {
    api_version: Cow<'static, str>,
    kind: Cow<'static, str>,
    metadata: &'a ObjectMeta,
    spec: &'a K::Spec,
    status: &'a K::Status,
}

impl<'a, K: Kind> WithStatus<'a, K> {
    fn of(object: &'a K, status: &'a K::Status) -> Self {
        let (metadata, spec, _) = object.parts();
        Self { api_version: K::api_version(&()), kind: K::kind(&()), metadata, spec, status }
    }
}

/// Carries out a step.
pub(crate) async fn apply(client: &Client, observed: &Observed, step: &Step) -> Result<Answer, ApplyError> {
    let key = &observed.key;
    let vms = || Api::<Lean<VirtualMachine>>::namespaced(client.clone(), &key.namespace);
    let ovms = || Api::<Lean<OfflineVirtualMachine>>::namespaced(client.clone(), &key.namespace);
    let revisions = || Api::<ControllerRevision>::namespaced(client.clone(), &key.namespace);
    let create = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let patch = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match step {
        Step::CreateVm(vm) => vms().create(&create, &Lean((**vm).clone())).await.map(answer_vm).map_err(failed_create),
        Step::DeleteVm(at) | Step::EvictVm { at, .. } => {
            let preconditions =
                Preconditions { uid: Some(at.uid.clone()), resource_version: Some(at.resource_version.clone()) };
            let params = DeleteParams::background().preconditions(preconditions);
            vms().delete(&key.name, &params).await.map(|_| Answer::Deleted).map_err(failed)
        }
        Step::EditVm(at, edit) => {
            vms().patch(&key.name, &patch, &Patch::Merge(metadata_patch(at, edit))).await.map(answer_vm).map_err(failed)
        }
        Step::EditOvm(at, edit) => ovms()
            .patch(&key.name, &patch, &Patch::Merge(metadata_patch(at, edit)))
            .await
            .map(answer_ovm)
            .map_err(failed),
        Step::CreateRevision(revision) => {
            revisions().create(&create, revision).await.map(answer_revision).map_err(failed_create)
        }
        Step::EditRevision { name, at, owners } => {
            let metadata = metadata_patch(at, &MetadataEdit::OwnerReferences(owners.clone()));
            revisions().patch(name, &patch, &Patch::Merge(metadata)).await.map(answer_revision).map_err(failed)
        }
        Step::DeleteRevision { name, at } => {
            let preconditions =
                Preconditions { uid: Some(at.uid.clone()), resource_version: Some(at.resource_version.clone()) };
            let params = DeleteParams::background().preconditions(preconditions);
            let deleted = revisions().delete(name, &params).await;
            deleted.map(|_| Answer::RevisionDeleted(name.clone())).map_err(failed)
        }
        Step::WriteVmStatus { status, .. } => {
            let vm = WithStatus::of(observed.vm.as_deref().ok_or(ApplyError::Stale)?, status);
            vms().replace_subresource("status", &key.name, &create, &vm).await.map(answer_vm).map_err(failed)
        }
        Step::WriteOvmStatus { status, .. } => {
            let ovm = WithStatus::of(observed.ovm.as_deref().ok_or(ApplyError::Stale)?, status);
            ovms().replace_subresource("status", &key.name, &create, &ovm).await.map(answer_ovm).map_err(failed)
        }
    }
}

/// UID and resourceVersion in a patch are preconditions: the API server answers 409 if they differ.
fn metadata_patch(at: &Version, edit: &MetadataEdit) -> Value {
    let mut metadata = json!({"uid": at.uid, "resourceVersion": at.resource_version});
    match edit {
        MetadataEdit::Finalizers(finalizers) => metadata["finalizers"] = json!(finalizers),
        MetadataEdit::OwnerReferences(owners) => metadata["ownerReferences"] = json!(owners),
        MetadataEdit::Annotation { key, value } => metadata["annotations"] = json!({*key: value}),
    }
    json!({"metadata": metadata})
}

/// An object that is being deleted is gone once its last finalizer is.
fn answer_vm(Lean(vm): Lean<VirtualMachine>) -> Answer {
    let gone = vm.metadata.deletion_timestamp.is_some() && vm.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
    Answer::Vm((!gone).then(|| Arc::new(vm)))
}

fn answer_revision(revision: ControllerRevision) -> Answer {
    Answer::Revision(Box::new(revision))
}

fn answer_ovm(Lean(ovm): Lean<OfflineVirtualMachine>) -> Answer {
    let gone = ovm.metadata.deletion_timestamp.is_some() && ovm.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
    Answer::Ovm((!gone).then(|| Arc::new(ovm)))
}

fn failed(error: kube::Error) -> ApplyError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => ApplyError::Stale,
        other => ApplyError::Failed(other),
    }
}

/// A create that finds no namespace has failed: there is nothing newer to look at.
fn failed_create(error: kube::Error) -> ApplyError {
    match error {
        kube::Error::Api(status) if status.code == 409 => ApplyError::Stale,
        other => ApplyError::Failed(other),
    }
}

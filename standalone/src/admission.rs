//! The API server's admission hook: our kinds' own rules.

use apiserver::{Admission, AdmissionRequest, Cause};

/// Judges VirtualMachines and OfflineVirtualMachines, and admits everything else.
#[derive(Debug)]
pub(crate) struct VirtualMachineRules;

impl Admission for VirtualMachineRules {
    fn validate(&self, request: &AdmissionRequest<'_>) -> Vec<Cause> {
        if request.group != api::names::GROUP {
            return Vec::new();
        }
        api::admission::validate(request.kind, request.object, request.old_object)
            .into_iter()
            .map(|cause| Cause::new(cause.reason, cause.message, cause.field))
            .collect()
    }
}

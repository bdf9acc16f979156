//! Carries out what `plan::cluster` decides about claims and volumes, where nobody else binds them.

use std::time::Duration;

use api::chain;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use plan::cluster::{BindStep, plan_bindings};

use crate::context::Context;

/// Looks again after this long although no watch has told of a change: a write may have failed.
const RECHECK: Duration = Duration::from_secs(10);

/// Binds until it is dropped.
pub(crate) async fn bind(context: Context) {
    let changed = context.index().storage_changed();
    loop {
        let (claims, volumes) = context.index().storage();
        for step in plan_bindings(&claims, &volumes) {
            carry_out(&context, &step).await;
        }
        // A change that came meanwhile is not missed: the bell remembers one.
        drop(tokio::time::timeout(RECHECK, changed.notified()).await);
    }
}

/// One write. What it was decided from is in the object's resourceVersion: a late one fails, and is planned again from what the watch brings.
async fn carry_out(context: &Context, step: &BindStep) {
    let params = PostParams::default();
    let volumes = || Api::<PersistentVolume>::all(context.client.clone());
    let claims = |claim: &PersistentVolumeClaim| {
        Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default())
    };
    let (name, written) = match step {
        BindStep::Volume(volume) => {
            let name = volume.name_any();
            (name.clone(), volumes().replace(&name, &params, volume).await.map(drop))
        }
        BindStep::VolumeStatus(volume) => {
            let name = volume.name_any();
            (name.clone(), volumes().replace_status(&name, &params, volume).await.map(drop))
        }
        BindStep::Claim(claim) => {
            let name = claim.name_any();
            (name.clone(), claims(claim).replace(&name, &params, claim).await.map(drop))
        }
        BindStep::ClaimStatus(claim) => {
            let name = claim.name_any();
            (name.clone(), claims(claim).replace_status(&name, &params, claim).await.map(drop))
        }
    };
    match written {
        Ok(()) => tracing::debug!(name, "wrote a binding"),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => tracing::warn!(name, error = chain(&error), "cannot write a binding; will be tried again"),
    }
}

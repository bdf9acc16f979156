//! Wakes what lives on a node when that node's Lease expires, and marks the Node as not schedulable.

use api::chain;
use std::collections::BTreeSet;
use std::time::Duration;

use api::names::SCHEDULABLE_LABEL;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use plan::cluster::{LEASE_EXPIRY, LeaseVerdict, is_unschedulable_due};
use serde_json::json;

use crate::context::Context;
use crate::error::api_message;
use crate::observe::read_home;

/// Pause after a Node could not be marked.
const RETRY: Duration = Duration::from_secs(5);
/// One turn that takes longer is stuck: each of its calls has a deadline.
const STUCK: Duration = Duration::from_mins(5);

/// Acts on each Lease that expires, for ever.
pub(crate) async fn watch_expiry(context: Context) {
    let mut handled = BTreeSet::new();
    let alive = context.health.watch_loop("leases", STUCK);
    loop {
        alive.busy();
        let (expired, next) = look(&context);
        handled.retain(|node| expired.contains(node));
        let mut failed = false;
        for node in expired {
            if handled.contains(&node) {
                continue;
            }
            tracing::warn!(node, "the node's agent is silent");
            let keys: Vec<_> = context.index().homed(&node).collect();
            context.wake_all(keys);
            if mark_unschedulable(&context, &node).await {
                handled.insert(node);
            } else {
                failed = true;
            }
        }
        alive.idle();
        tokio::time::sleep(if failed { RETRY } else { next }).await;
    }
}

/// The nodes whose Lease is expired, and how long until another may be.
fn look(context: &Context) -> (BTreeSet<String>, Duration) {
    let monotonic = context.now().monotonic;
    let mut expired = BTreeSet::new();
    let mut next = LEASE_EXPIRY;
    for (node, fact) in context.index().leases() {
        match fact.verdict(monotonic) {
            LeaseVerdict::Expired => {
                expired.insert(node.clone());
            }
            LeaseVerdict::Live | LeaseVerdict::Unproven => {
                next = next.min(fact.expires_in(monotonic).unwrap_or_default());
            }
        }
    }
    (expired, next)
}

/// Says on the Node that it takes no guests, if it says otherwise and its agent is still silent. Whether that is settled.
async fn mark_unschedulable(context: &Context, node: &str) -> bool {
    let facts = match read_home(context, node).await {
        Ok(Some(facts)) => facts,
        Ok(None) => return true,
        Err(error) => {
            tracing::warn!(node, error = chain(&error), "cannot look at the node");
            return false;
        }
    };
    let lease = context.index().lease(node).cloned().unwrap_or_default();
    if !is_unschedulable_due(context.now(), &facts, &lease) {
        return true;
    }
    let at = &facts.version;
    let patch = json!({"metadata": {"uid": at.uid, "resourceVersion": at.resource_version, "labels": {SCHEDULABLE_LABEL: "false"}}});
    let nodes = Api::<Node>::all(context.client.clone());
    match nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(node, error = api_message(&error), "cannot mark the node");
            false
        }
    }
}

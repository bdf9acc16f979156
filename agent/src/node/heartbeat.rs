//! The node's sign of life: the Lease that fencing goes by, and the Node's label and annotation that placement goes by.
//!
//! The Lease says that the agent lives. Whether libvirt lives is said by label `kubevirt.io/schedulable` alone: a node whose libvirt hangs gets
//! no new guests, and keeps the ones that it has. Each Lease is renewed by a task of its own, which nothing else that hangs can hold up.

use std::sync::Arc;
use std::time::Duration;

use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::HostStop;
use super::register::{self, NodeFacts};
use crate::doctor::NodeChecks;
use crate::libvirt::Libvirt;
use crate::objects::{ApiError, within};

/// How often a Lease is renewed, and how long one renewal may take; it expires after 40 s.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often the Node is written though nothing of it has changed.
const NODE_INTERVAL: Duration = Duration::from_mins(1);
/// Architecture of the guests.
const ARCH: &str = "x86_64";
/// More calls than this unanswered past their deadline, and libvirt hangs.
const PARKED_CALLS_OF_A_HANG: usize = 3;

/// What the Node is told of.
pub(crate) struct Heartbeat {
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) libvirt: Libvirt,
    /// Set where the agent keeps the Node itself.
    pub(crate) registers: Option<NodeFacts>,
    /// What the Node is told of the host beside that.
    pub(crate) checks: NodeChecks,
    /// Whether the host is shutting down: then the node takes no more guests.
    pub(crate) host_stop: Arc<HostStop>,
}

/// What was written to the Node last.
#[derive(Clone, Debug)]
struct Written {
    schedulable: bool,
    /// The checks that passed, where the agent keeps the Node. What they say beside that, such as how much room there is, changes all the time.
    passed: Vec<&'static str>,
    at: Instant,
}

impl Heartbeat {
    /// Registers the Node where the agent is to.
    ///
    /// # Errors
    /// If the API is away or refuses; [`Heartbeat::run`] goes on trying.
    pub(crate) async fn register(&self) -> Result<(), ApiError> {
        match &self.registers {
            Some(facts) => register::register(&self.client, &self.node, facts).await,
            None => Ok(()),
        }
    }

    /// Beats until it is dropped. `is_registered`: [`Heartbeat::register`] has succeeded.
    pub(crate) async fn run(self, mut is_registered: bool) {
        let mut ticks = ticks();
        let mut written = None;
        let mut was_failing = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.host_stop.changed() => {}
            }
            let beat = self.beat(&mut is_registered, &mut written).await;
            if self.host_stop.is_announced() {
                // Told, or not to be told: the host does not wait for an API that is away.
                self.host_stop.let_go();
            }
            if matches!(beat, Err(ApiError::Missing { .. })) {
                // The Node was deleted under a living agent: made again where it is the agent's to make.
                (is_registered, written) = (false, None);
            }
            match (&beat, was_failing) {
                (Err(error), false) => warn!(%error, "heartbeat failed"),
                (Ok(()), true) => info!("heartbeat is back"),
                _ => {}
            }
            was_failing = beat.is_err();
        }
    }

    async fn beat(&self, is_registered: &mut bool, written: &mut Option<Written>) -> Result<(), ApiError> {
        if !*is_registered {
            self.register().await?;
            *is_registered = true;
        }
        let healthy = self.libvirt.parked_calls() <= PARKED_CALLS_OF_A_HANG && self.libvirt.probe().await.is_ok();
        let schedulable = healthy && !self.host_stop.is_announced();
        let is_due =
            written.as_ref().is_none_or(|last| last.schedulable != schedulable || last.at.elapsed() >= NODE_INTERVAL);
        if is_due {
            if written.as_ref().is_some_and(|last| last.schedulable != schedulable) {
                warn!(schedulable, libvirt_answers = healthy, "this node takes guests, or does so no more");
            }
            self.label_node(schedulable, healthy).await?;
        }
        let mut passed = Vec::new();
        if let Some(facts) = &self.registers {
            let checks = self.checks.make(&self.libvirt, healthy).await;
            passed = checks.iter().filter(|check| check.is_good).map(|check| check.condition).collect();
            if is_due || written.as_ref().is_some_and(|last| last.passed != passed) {
                register::write_status(&self.client, &self.node, facts, healthy, Some(&checks)).await?;
            }
        }
        let at = written.as_ref().filter(|_| !is_due).map_or_else(Instant::now, |last| last.at);
        *written = Some(Written { schedulable, passed, at });
        Ok(())
    }

    /// Label and annotations.
    async fn label_node(&self, schedulable: bool, healthy: bool) -> Result<(), ApiError> {
        let machine_types = if healthy { self.libvirt.machine_types(ARCH).await.ok() } else { None };
        let nodes: Api<Node> = Api::all(self.client.clone());
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let mut annotations = json!({names::HEARTBEAT_ANNOTATION: now.to_string()});
        // Placement prefers nodes that offer the machine type on a guest's record. What a libvirt that does not answer offered last stays.
        if let Some(types) = machine_types {
            annotations[names::MACHINE_TYPES_ANNOTATION] = types.join(",").into();
        }
        let patch = Patch::Merge(json!({"metadata": {
            "labels": {names::SCHEDULABLE_LABEL: schedulable.to_string()},
            "annotations": annotations,
        }}));
        within("label the node", nodes.patch_metadata(&self.node, &PatchParams::default(), &patch)).await.map(drop)
    }
}

/// Renews a Lease until it is dropped. A renewal that hangs is given up for the next.
pub(crate) async fn keep_renewed<R: Future<Output = Result<(), ApiError>>>(lease: &'static str, renew: impl Fn() -> R) {
    let mut ticks = ticks();
    let mut was_failing = false;
    loop {
        ticks.tick().await;
        let away = || ApiError::Away { operation: "renew", message: format!("no answer within {INTERVAL:?}") };
        let renewed = timeout(INTERVAL, renew()).await.unwrap_or_else(|_| Err(away()));
        match (&renewed, was_failing) {
            (Err(error), false) => warn!(lease, %error, "the lease is not renewed; it expires after 40 s"),
            (Ok(()), true) => info!(lease, "the lease is renewed again"),
            _ => {}
        }
        was_failing = renewed.is_err();
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn f1_a_renewal_that_hangs_does_not_let_the_lease_expire() {
        let renewals = AtomicU32::new(0);
        let renew = || async { if renewals.fetch_add(1, Ordering::SeqCst) == 1 { pending().await } else { Ok(()) } };
        let kept = timeout(Duration::from_secs(39), keep_renewed("of a test", renew));
        assert!(kept.await.is_err(), "it goes on for ever");
        assert!(renewals.load(Ordering::SeqCst) >= 3, "the one that hangs is given up, and another made");
    }
}

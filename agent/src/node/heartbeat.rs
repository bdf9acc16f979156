//! The node's sign of life: the Lease that fencing goes by, and the Node's label and annotation that placement goes by.
//!
//! The Lease says that the agent lives. Whether libvirt lives is said by label `kubevirt.io/schedulable` alone: a node whose libvirt hangs gets
//! no new guests, and keeps the ones that it has.

use std::sync::Arc;
use std::time::Duration;

use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::register::{self, NodeCapacity};
use crate::libvirt::Libvirt;
use crate::objects::{ApiError, NodeObjects, within};

/// How often the Lease is renewed; it expires after 40 s.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often the Node is written though nothing has changed.
const NODE_INTERVAL: Duration = Duration::from_mins(1);
/// More calls than this unanswered past their deadline, and libvirt hangs.
const PARKED_CALLS_OF_A_HANG: usize = 3;

/// What the heartbeat needs.
pub(crate) struct Heartbeat {
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) libvirt: Libvirt,
    pub(crate) objects: Arc<dyn NodeObjects>,
    /// Set where the agent keeps the Node itself.
    pub(crate) registers: Option<NodeCapacity>,
}

/// What was written to the Node last.
#[derive(Clone, Copy, Debug)]
struct Written {
    schedulable: bool,
    at: Instant,
}

impl Heartbeat {
    /// The first beat: registers the Node where the agent is to, and makes the Lease.
    ///
    /// # Errors
    /// If the API is away or refuses; [`Heartbeat::run`] goes on trying.
    pub(crate) async fn start(&self) -> Result<(), ApiError> {
        if let Some(capacity) = self.registers {
            register::register(&self.client, &self.node, capacity, go_arch()).await?;
        }
        self.objects.renew_lease().await
    }

    /// Beats until it is dropped. `is_registered`: [`Heartbeat::start`] has succeeded.
    pub(crate) async fn run(self, mut is_registered: bool) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written = None;
        let mut was_failing = false;
        loop {
            ticks.tick().await;
            let beat = self.beat(&mut is_registered, &mut written).await;
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
        if *is_registered {
            self.objects.renew_lease().await?;
        } else {
            self.start().await?;
            *is_registered = true;
        }
        if self.registers.is_some() {
            register::renew_node_lease(&self.client, &self.node).await?;
        }
        let schedulable = self.libvirt.parked_calls() <= PARKED_CALLS_OF_A_HANG && self.libvirt.probe().await.is_ok();
        let is_current =
            written.is_some_and(|last| last.schedulable == schedulable && last.at.elapsed() < NODE_INTERVAL);
        if is_current {
            return Ok(());
        }
        if written.is_some_and(|last| last.schedulable != schedulable) {
            warn!(schedulable, "libvirt's health has changed");
        }
        self.write_node(schedulable).await?;
        *written = Some(Written { schedulable, at: Instant::now() });
        Ok(())
    }

    /// Label, annotation and, where the agent keeps the Node, its condition.
    async fn write_node(&self, schedulable: bool) -> Result<(), ApiError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let patch = Patch::Merge(json!({"metadata": {
            "labels": {names::SCHEDULABLE_LABEL: schedulable.to_string()},
            "annotations": {names::HEARTBEAT_ANNOTATION: now.to_string()},
        }}));
        within("label the node", nodes.patch_metadata(&self.node, &PatchParams::default(), &patch)).await?;
        match self.registers {
            Some(capacity) => register::write_status(&self.client, &self.node, capacity, schedulable).await,
            None => Ok(()),
        }
    }
}

/// The architecture in Kubernetes' words.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! A real control plane, with Nodes and Leases that no machine stands behind.

use std::time::Duration;

use anyhow::{Context as _, Result};
use api::names::{SCHEDULABLE_LABEL, SYSTEM_NAMESPACE};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, Request, header};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tests::kube::ControlPlane;
use tests::wait::wait_for;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::load::CLIENTS;

/// Nodes, each with room for all guests.
const NODES: usize = 20;
/// How often an agent renews its Lease.
const RENEWAL: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_mins(1);
/// Agents say in our namespace that they live, and for a Node that they registered also where kubelets do.
const LEASE_NAMESPACES: [&str; 2] = [SYSTEM_NAMESPACE, "kube-node-lease"];

/// The control plane, and a client of its administrator.
pub(super) struct Cluster {
    pub(super) runtime: Runtime,
    pub(super) api: Client,
    renewals: JoinHandle<()>,
    // Last, so that it is dropped last.
    pub(super) control_plane: ControlPlane,
}

impl Cluster {
    /// Starts it, with our kinds and with nodes.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub(super) fn start() -> Result<Self> {
        let control_plane = ControlPlane::start()?;
        let runtime = Runtime::new().context("start the runtime")?;
        let api = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig())?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        runtime.block_on(install(&api))?;
        wait_for("the API server serves our kinds", DEADLINE, || {
            runtime.block_on(async {
                call(&api, Method::GET, "/apis/kubevirt.io/v1alpha1/virtualmachines", &Value::Null).await?;
                call(&api, Method::GET, "/apis/kubevirt.io/v1alpha1/offlinevirtualmachines", &Value::Null).await
            })
        })?;
        let renewals = runtime.spawn(renew_leases(api.clone()));
        Ok(Self { runtime, api, renewals, control_plane })
    }

    /// Sends many requests, as many at a time as the controller has workers.
    ///
    /// # Errors
    /// The first that fails.
    pub(super) fn send_all(&self, requests: impl IntoIterator<Item = (Method, String, Value)>) -> Result<()> {
        let sent = stream::iter(requests)
            .map(|(method, path, body)| async move { call(&self.api, method, &path, &body).await.map(drop) })
            .buffer_unordered(CLIENTS);
        self.runtime.block_on(sent.try_collect::<()>())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

/// One request with a JSON body, or without one.
///
/// # Errors
/// When the API server refuses it.
pub(super) async fn call(api: &Client, method: Method, path: &str, body: &Value) -> Result<Value> {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let what = format!("{method} {path}");
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind).body(body)?;
    api.request(request).await.with_context(|| what)
}

/// Our kinds, our namespace, Nodes and their Leases.
async fn install(api: &Client) -> Result<()> {
    for definition in api::crd::all() {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        call(api, Method::POST, path, &serde_json::to_value(definition)?).await?;
    }
    let namespace = json!({"metadata": {"name": SYSTEM_NAMESPACE}});
    call(api, Method::POST, "/api/v1/namespaces", &namespace).await?;
    for name in node_names() {
        let node = json!({"metadata": {"name": name, "labels": {SCHEDULABLE_LABEL: "true"}}});
        call(api, Method::POST, "/api/v1/nodes", &node).await?;
        let room = json!({"cpu": "100k", "memory": "1Pi", "pods": "0"});
        let status = json!({"status": {
            "allocatable": room, "capacity": room, "conditions": [{"type": "Ready", "status": "True"}],
        }});
        call(api, Method::PATCH, &format!("/api/v1/nodes/{name}/status"), &status).await?;
        for namespace in LEASE_NAMESPACES {
            let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()});
            let lease = json!({"metadata": {"name": name}, "spec": spec});
            call(api, Method::POST, &leases(namespace), &lease).await?;
        }
    }
    Ok(())
}

/// Does what twenty agents do all the time.
async fn renew_leases(api: Client) {
    loop {
        for (name, namespace) in
            node_names().flat_map(|name| LEASE_NAMESPACES.map(|namespace| (name.clone(), namespace)))
        {
            let renewed = json!({"spec": {"renewTime": now()}});
            if let Err(error) = call(&api, Method::PATCH, &format!("{}/{name}", leases(namespace)), &renewed).await {
                eprintln!("{error:#}");
            }
        }
        tokio::time::sleep(RENEWAL).await;
    }
}

fn node_names() -> impl Iterator<Item = String> {
    (0..NODES).map(|index| format!("node-{index}"))
}

fn leases(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
}

/// The time, as Leases hold it.
fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

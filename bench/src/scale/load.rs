//! What is asked of the controller: many OfflineVirtualMachines at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use api::v1alpha1::VirtualMachine;
use futures::StreamExt as _;
use http::Method;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use serde_json::{Value, json};
use tests::machines::{bare_machine, offline_machine};
use tokio::time::timeout;

use super::calls::Calls;
use super::cluster::{Cluster, call};
use super::controller::Controller;

/// Requests at a time: as many as the controller sends.
pub(super) const CLIENTS: usize = 16;
/// A burst's calls of ours beside the one for each OVM: the list whose version its watch begins at.
const OWN_LISTS: u64 = 1;
/// Without one more VM bound, something is wrong.
const STALLED: Duration = Duration::from_secs(90);
const NAMESPACE: &str = "default";
/// For what the raw rate leaves behind.
const RAW_NAMESPACE: &str = "raw";
const IMAGE: &str = "bench:latest";
/// Watches end by themselves after this.
const WATCH_SECONDS: u32 = 290;

/// OVMs that were set running at once, until all their VMs were bound.
#[derive(Debug)]
pub(super) struct Burst {
    vms: usize,
    /// From the first request to the last binding.
    took: Duration,
    /// The controller's calls.
    calls: u64,
    /// CPU time that the controller took.
    pub(super) cpu: Duration,
}

impl Burst {
    pub(super) fn vms(&self) -> f64 {
        u32::try_from(self.vms).map_or(f64::MAX, f64::from)
    }

    pub(super) fn per_second(&self) -> f64 {
        self.vms() / self.took.as_secs_f64()
    }

    pub(super) fn calls_per_vm(&self) -> f64 {
        u32::try_from(self.calls).map_or(f64::MAX, f64::from) / self.vms()
    }
}

impl Cluster {
    /// How many VirtualMachines a second the server takes from clients that do nothing else.
    ///
    /// # Errors
    /// When it refuses one.
    pub(super) fn raw_create_rate(&self, vms: usize) -> Result<f64> {
        self.send_all([(Method::POST, "/api/v1/namespaces".to_owned(), json!({"metadata": {"name": RAW_NAMESPACE}}))])?;
        let path = path_of("virtualmachines", RAW_NAMESPACE, "");
        // What only the first requests pay, such as connections.
        self.send_all((0..CLIENTS).map(|index| {
            (Method::POST, path.clone(), bare_machine(RAW_NAMESPACE, &format!("warm-up-{index}"), IMAGE))
        }))?;
        let begun = Instant::now();
        self.send_all(
            (0..vms)
                .map(|index| (Method::POST, path.clone(), bare_machine(RAW_NAMESPACE, &format!("raw-{index}"), IMAGE))),
        )?;
        let rate = u32::try_from(vms).map_or(f64::MAX, f64::from) / begun.elapsed().as_secs_f64();
        self.send_all([(Method::DELETE, path, Value::Null)])?;
        Ok(rate)
    }

    /// Creates OVMs that do not run, waits until the controller is done with them, sets all running, and waits until each has a VM that is bound.
    ///
    /// # Errors
    /// When the server refuses something, or nothing is bound for too long.
    pub(super) fn run_burst(&self, prefix: &str, vms: usize, controller: &Controller) -> Result<Burst> {
        let names = names(prefix, vms);
        let path = path_of("offlinevirtualmachines", NAMESPACE, "");
        let stopped = names.iter().map(|name| offline_machine(NAMESPACE, name, IMAGE, false));
        self.send_all(stopped.map(|ovm| (Method::POST, path.clone(), ovm)))?;
        let (calls, cpu) = (Calls::at_rest(self)?, controller.cpu_time()?);
        let begun = Instant::now();
        let bound = self.bound(&names, || {
            self.send_all(names.iter().map(|name| {
                let running = json!({"spec": {"running": true}});
                (Method::PATCH, path_of("offlinevirtualmachines", NAMESPACE, name), running)
            }))
        })?;
        let now = Calls::at_rest(self)?;
        let cpu = controller.cpu_time()?.saturating_sub(cpu);
        eprintln!("{prefix}: {vms} VMs in {:.1} s; {}", bound.duration_since(begun).as_secs_f64(), now.since(&calls));
        let calls = now.since(&calls).total().saturating_sub(u64::try_from(vms)? + OWN_LISTS);
        Ok(Burst { vms, took: bound.duration_since(begun), calls, cpu })
    }

    /// Creates OVMs that run, and waits until all are bound.
    ///
    /// # Errors
    /// As [`Self::run_burst`].
    pub(super) fn fill(&self, prefix: &str, vms: usize) -> Result<()> {
        if vms == 0 {
            return Ok(());
        }
        let names = names(prefix, vms);
        let path = path_of("offlinevirtualmachines", NAMESPACE, "");
        self.bound(&names, || {
            self.send_all(
                names.iter().map(|name| (Method::POST, path.clone(), offline_machine(NAMESPACE, name, IMAGE, true))),
            )
        })
        .map(drop)
    }

    /// Does something, and returns when the last of the VMs was bound. The server itself picks the VMs that are: what is not costs nobody anything.
    fn bound(&self, names: &[String], act: impl FnOnce() -> Result<()>) -> Result<Instant> {
        let now = self.runtime.block_on(call(
            &self.api,
            Method::GET,
            &format!("{}?limit=1", path_of("virtualmachines", NAMESPACE, "")),
            &Value::Null,
        ))?;
        let mut version = now["metadata"]["resourceVersion"].as_str().context("a list has no version")?.to_owned();
        let vms = Api::<VirtualMachine>::namespaced(self.api.clone(), NAMESPACE);
        let mut waited_for: BTreeSet<String> = names.iter().cloned().collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            let params = WatchParams::default().fields("status.nodeName!=").timeout(WATCH_SECONDS);
            let heard = async {
                loop {
                    let mut events = std::pin::pin!(vms.watch(&params, &version).await?);
                    while let Some(event) = timeout(STALLED, events.next()).await.context("no VM was bound")? {
                        let (WatchEvent::Added(vm) | WatchEvent::Modified(vm)) = event? else { continue };
                        version = vm.metadata.resource_version.unwrap_or_default();
                        waited_for.remove(&vm.metadata.name.unwrap_or_default());
                        if waited_for.is_empty() {
                            return anyhow::Ok(Instant::now());
                        }
                    }
                }
            };
            let heard = heard.await;
            let left = waited_for.len();
            // The receiver goes only with its thread.
            let _ = sender.send(heard.with_context(|| format!("{left} VMs are left to be bound")));
        });
        act()?;
        match receiver.recv() {
            Ok(heard) => heard,
            Err(_) => bail!("the watch of bound VMs ended"),
        }
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}-{index}")).collect()
}

fn path_of(plural: &str, namespace: &str, name: &str) -> String {
    let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/{namespace}/{plural}");
    if name.is_empty() { path } else { format!("{path}/{name}") }
}

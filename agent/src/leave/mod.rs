//! `ovm-agent leave`: takes this host out of its cluster.
//!
//! ```text
//! look ─► guests here? refuse, or: close the Node, taint it ─► the controller deletes its VMs, the agent stops them ─► none left
//!      ─► stop the agent ─► look once more, libvirt and /proc ─► Leases, Node, credentials
//! ```
//! Guests are stopped by the agent, within their grace periods, as for any other delete: nothing is ended here.

mod error;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use api::names::{LEAVING_TAINT, SYSTEM_NAMESPACE};
use api::v1alpha1::{Phase, VirtualMachine};
use clap::Args;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::AgentOptions;
use crate::credentials::{CredentialStore, JoinedIdentity};
use crate::hypervisor::Hypervisor as _;
use crate::images::DEFAULT_DATA_DIR;
use crate::join::{DEFAULT_KUBECONFIG, UNIT, has_systemd, systemctl, time};
use crate::libvirt::{Libvirt, LibvirtOptions};
use crate::node::{HostLock, NODE_LEASES, NodeIdentity};
use crate::objects::{ApiError, within};
use crate::proc::find_qemu;
pub use error::LeaveError;

/// How often is looked whether guests are gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an agent without a unit may take to end by itself, when it was just told to.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Take this host out of its cluster: close its Node, see that no guest is left, remove the Node and the credentials.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// Stop the guests that run here, each within its grace period; those of an OfflineVirtualMachine start elsewhere. Without it, a host with guests does not leave.
    #[arg(long)]
    pub stop_guests: bool,
    /// How long to wait until the guests have stopped.
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = time)]
    pub timeout: Duration,
    /// Kubeconfig that `join` wrote.
    #[arg(long, env = "OVM_KUBECONFIG", default_value = DEFAULT_KUBECONFIG, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Directory of the agent's state.
    #[arg(long, env = "OVM_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The libvirt that the agent manages.
    #[arg(long, env = "OVM_LIBVIRT_URI", default_value = AgentOptions::DEFAULT_LIBVIRT_URI, value_name = "URI")]
    pub libvirt_uri: String,
    /// Where the host's processes are shown.
    #[arg(long, env = "OVM_PROC_DIR", default_value = AgentOptions::DEFAULT_PROC_DIR, value_name = "DIR")]
    pub proc_dir: PathBuf,
    /// Directory of the host's locks.
    #[arg(long, env = "OVM_LOCK_DIR", default_value = AgentOptions::DEFAULT_LOCK_DIR, value_name = "DIR")]
    pub lock_dir: PathBuf,
}

/// A host that leaves.
struct Leaving {
    args: LeaveArgs,
    client: Client,
    node: String,
    identity: NodeIdentity,
    libvirt: Libvirt,
}

/// What a look found on this host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// `NAMESPACE/NAME` of VirtualMachines that are bound here and not final, and of domains of ours.
    guests: BTreeSet<String>,
    /// Every UUID that a QEMU of ours may have.
    uuids: Vec<Uuid>,
}

impl LeaveArgs {
    /// Leaves, and says on `out` what was done.
    ///
    /// # Errors
    /// Names what is in the way, and the fix. Before the guests are gone nothing is taken back but the Node's readiness for new ones.
    pub async fn run(self, out: &mut impl Write) -> Result<(), LeaveError> {
        let leaving = Leaving::new(self).await?;
        let node = leaving.node.clone();
        let mut say = |line: String| writeln!(out, "{line}").map_err(LeaveError::Print);
        let left = leaving.look().await?;
        if !left.guests.is_empty() && !leaving.args.stop_guests {
            return Err(LeaveError::Guests { node, guests: left.list() });
        }
        leaving.close().await?;
        say(format!("node {node} takes no more guests"))?;
        if leaving.args.stop_guests {
            leaving.wait_until_empty().await?;
            say("no guest is left".to_owned())?;
        }
        // One may have been on its way here.
        let left = leaving.look().await?;
        if !left.guests.is_empty() {
            return Err(LeaveError::CameMeanwhile { node, guests: left.list() });
        }
        let agent_has_ended = leaving.stop_agent().await?;
        if let Err(error) = leaving.prove_empty().await {
            drop(agent_has_ended);
            return Err(leaving.start_agent_again(error));
        }
        let half_way = |source| LeaveError::HalfWay { node: node.clone(), source: Box::new(source) };
        leaving.remove_from_cluster().await.map_err(half_way)?;
        leaving.remove_credentials().map_err(half_way)?;
        say(format!(
            "node {node} has left its cluster; images and disks are still in {}",
            leaving.args.data_dir.display()
        ))
    }
}

impl Leaving {
    async fn new(args: LeaveArgs) -> Result<Self, LeaveError> {
        let failed = |source| LeaveError::Kubeconfig { file: args.kubeconfig.clone(), source };
        let kubeconfig = Kubeconfig::read_from(&args.kubeconfig).map_err(failed)?;
        let joined = JoinedIdentity::of(&kubeconfig)?;
        let joined = joined.ok_or_else(|| LeaveError::NotJoined(args.kubeconfig.clone()))?;
        let used = JoinedIdentity::with(&kubeconfig, &joined.certificate);
        let config = kube::Config::from_custom_kubeconfig(used, &KubeConfigOptions::default()).await.map_err(failed)?;
        let client = Client::try_from(config).map_err(LeaveError::Client)?;
        let node = joined.certificate.node;
        let identity = NodeIdentity::load(&client, &args.data_dir, &node).await?;
        let libvirt = Libvirt::connect(LibvirtOptions::new(&args.libvirt_uri)).await?;
        Ok(Self { args, client, node, identity, libvirt })
    }

    /// What the API binds to this host, and what libvirt has of ours.
    async fn look(&self) -> Result<Left, LeaveError> {
        let vms: Api<VirtualMachine> = Api::all(self.client.clone());
        let vms = within("list virtual machines", vms.list(&ListParams::default())).await?;
        let mut left = Left::default();
        for vm in vms.items {
            let Some(status) = vm.status.as_ref().filter(|status| status.node_name.as_deref() == Some(&self.node))
            else {
                continue;
            };
            let uuid = status.abi.as_ref().and_then(|abi| abi.firmware_uuid.as_ref());
            left.uuids.extend(uuid.and_then(|uuid| Uuid::parse_str(uuid).ok()));
            if !status.phase.is_some_and(Phase::is_final) {
                left.guests.insert(format!("{}/{}", vm.namespace().unwrap_or_default(), vm.name_any()));
            }
        }
        for domain in self.libvirt.list().await? {
            if let Ok(metadata) = self.identity.own_metadata(&domain) {
                left.uuids.push(domain.uuid);
                left.guests.insert(format!("{}/{}", metadata.namespace, metadata.name));
            }
        }
        Ok(left)
    }

    /// No new guest; with `--stop-guests`, those that are here are to go. A Node that is gone is closed enough.
    async fn close(&self) -> Result<(), LeaveError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let Some(node) = within("read the node", nodes.get_opt(&self.node)).await? else { return Ok(()) };
        let mut spec = json!({"unschedulable": true});
        if self.args.stop_guests {
            let mut taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
            taints.retain(|taint| taint.key != LEAVING_TAINT);
            let mut all = json!(taints);
            if let Some(all) = all.as_array_mut() {
                all.push(json!({"key": LEAVING_TAINT, "effect": "NoExecute"}));
            }
            spec["taints"] = all;
        }
        // A taint that somebody else adds meanwhile is not to be lost.
        let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": spec});
        within("close the node", nodes.patch(&self.node, &PatchParams::default(), &Patch::Merge(patch))).await?;
        Ok(())
    }

    async fn wait_until_empty(&self) -> Result<(), LeaveError> {
        let deadline = Instant::now() + self.args.timeout;
        loop {
            let left = self.look().await?;
            if left.guests.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let (node, waited) = (self.node.clone(), self.args.timeout);
                return Err(LeaveError::StillThere { node, guests: left.list(), waited });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the agent; from then on none starts here as long as the lock is held.
    async fn stop_agent(&self) -> Result<HostLock, LeaveError> {
        if has_systemd() {
            systemctl(&["disable", "--now", UNIT]).map_err(Box::new)?;
        }
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match HostLock::take(&self.args.lock_dir, &self.args.libvirt_uri) {
                Ok(lock) => return Ok(lock),
                Err(error) if !has_systemd() || Instant::now() >= deadline => return Err(LeaveError::AgentRuns(error)),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Guests need their agent, and what was not proven may be one.
    fn start_agent_again(&self, why: LeaveError) -> LeaveError {
        let (node, source) = (self.node.clone(), Box::new(why));
        if has_systemd() && systemctl(&["enable", "--now", UNIT]).is_ok() {
            LeaveError::NotEmpty { node, source }
        } else {
            LeaveError::AgentIsOff { node, source }
        }
    }

    /// Nothing may have come between the first look and the end of the agent. /proc shows what libvirt has lost.
    async fn prove_empty(&self) -> Result<(), LeaveError> {
        let left = self.look().await?;
        if !left.guests.is_empty() {
            return Err(LeaveError::Guests { node: self.node.clone(), guests: left.list() });
        }
        let alive = find_qemu(&self.args.proc_dir, &left.uuids)?;
        match alive.first() {
            Some(process) => Err(LeaveError::Process { pid: process.pid, domain: process.domain.clone() }),
            None => Ok(()),
        }
    }

    /// The Node last: with it goes what says that there was one.
    async fn remove_from_cluster(&self) -> Result<(), LeaveError> {
        for namespace in [NODE_LEASES, SYSTEM_NAMESPACE] {
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
            gone(within("delete the node's lease", leases.delete(&self.node, &DeleteParams::default())).await)?;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        gone(within("delete the node", nodes.delete(&self.node, &DeleteParams::default())).await)
    }

    fn remove_credentials(&self) -> Result<(), LeaveError> {
        CredentialStore::open(&self.args.data_dir)?.clear()?;
        let file = &self.args.kubeconfig;
        std::fs::remove_file(file).map_err(|error| crate::hostfs::FileError::new("remove", file, error).into())
    }
}

/// What is gone already needs no deleting.
fn gone<T>(deleted: Result<T, ApiError>) -> Result<(), LeaveError> {
    match deleted {
        Ok(_) | Err(ApiError::Missing { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Left {
    fn list(&self) -> String {
        self.guests.iter().cloned().collect::<Vec<_>>().join(", ")
    }
}

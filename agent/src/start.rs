//! Starts an agent: takes its lock, opens its state, connects, and sets its tasks going.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{chain, names};
use events::{Recorder, Source};
use kube::Client;
use telemetry::Health;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::consoles::Consoles;
use crate::disks::DiskStore;
use crate::doctor::NodeChecks;
use crate::guest::NodeDisks;
use crate::hostfs::{Directory, FileError};
use crate::hypervisor::{Capabilities, Hypervisor};
use crate::images::inspector::Inspector;
use crate::images::{Puller, StoreError};
use crate::journal::{Journal, JournalError};
use crate::libvirt::{ConnectError, Error, Libvirt, LibvirtOptions, give_back_start_pages};
use crate::node::{
    FormerNode, GuardBoard, Heartbeat, HostLock, HostStop, IdentityError, Inputs, LockError, NodeContext, NodeFacts,
    NodeIdentity, ProcBoard, Supervisor, Surveyor, VmCache, boot_id, keep_renewed, renew_node_lease, watch_vms,
};
use crate::objects::KubeObjects;
use crate::options::AgentOptions;
use crate::proc::{ProcError, find_qemu};
use crate::stream::{StreamError, StreamServer};
use crate::volumes::{HoldError, Holders, HoldersPlace, RootError, VolumeRoots};

/// Between two questions of a start that waits.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After this the process, or a guest, is up; what only starts need can go.
const START_IS_OVER: Duration = Duration::from_secs(10);

/// Starts agents.
#[derive(Debug)]
pub struct Agent;

/// A running agent. Guests do not notice when it ends.
#[derive(Debug)]
pub struct AgentHandle {
    libvirt: Libvirt,
    vms: VmCache,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    _lock: HostLock,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory of its state cannot be made or opened.
    #[error(transparent)]
    DataDir(#[from] FileError),
    /// The host's processes are not to be seen, and a guest that libvirt lost could be started twice.
    #[error("look for running guests")]
    Processes(#[from] ProcError),
    /// Its Lease would be the one that controllers are elected by.
    #[error(
        "a node of an agent must not be named {0}, which is the name of the controllers' Lease; give --node-name another"
    )]
    ReservedName(&'static str),
    /// Its guests are another node's, and would be nobody's.
    #[error(
        "guests run here as those of node {was} ({domains}), and this agent is node {is}: give --node-name {was} (OVM_NODE_NAME), or stop these guests first"
    )]
    Renamed {
        /// The node that this host was.
        was: String,
        /// The node that it is to be.
        is: String,
        /// Names of the guests' domains.
        domains: String,
    },
    /// Another agent manages this libvirt.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The disks cannot be used.
    #[error(transparent)]
    Disks(#[from] StoreError),
    /// Which guests have which disks cannot be written down.
    #[error(transparent)]
    Holders(#[from] HoldError),
    /// A volume root cannot be one.
    #[error(transparent)]
    VolumeRoot(#[from] RootError),
    /// There is no libvirt.
    #[error(transparent)]
    Libvirt(#[from] ConnectError),
    /// libvirt does not say what the host has.
    #[error("read the host's facts")]
    Host(#[from] Error),
    /// Consoles cannot be served.
    #[error(transparent)]
    Streams(#[from] StreamError),
    /// The API does not say which installation this is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Who the agent is, and what it has on this node's disk.
struct NodeState {
    identity: NodeIdentity,
    journal: Journal,
    disks: DiskStore,
}

impl Agent {
    /// Starts the agent of a node. It ends with `cancel`, or when the handle is dropped; guests run on.
    ///
    /// # Errors
    /// If its state, its libvirt or its identity cannot be had. An API that is away is no error once it has named the installation.
    pub async fn start(
        options: AgentOptions,
        client: Client,
        cancel: CancellationToken,
    ) -> Result<AgentHandle, StartError> {
        find_qemu(&options.proc_dir, &[])?;
        if options.node_name == names::LEADER_LEASE {
            return Err(StartError::ReservedName(names::LEADER_LEASE));
        }
        Directory::open_or_create_root(&options.data_dir)?;
        let lock = HostLock::take(&options.lock_dir, &options.libvirt_uri)?;
        let boot = boot_id(&options.proc_dir)?;
        let journal = Journal::open(&options.data_dir, boot.clone())?;
        let holders = Holders::open(HoldersPlace {
            lock_dir: &options.lock_dir,
            uri: &options.libvirt_uri,
            boot_id: &boot,
            proc_dir: &options.proc_dir,
        })?;
        let disks = DiskStore::open_with_limit(
            &options.data_dir,
            options.images.store_limit_bytes,
            VolumeRoots::new(&options.volume_roots)?,
            holders,
        )?;
        let calls = options.telemetry.libvirt.clone();
        let libvirt_options = LibvirtOptions { calls, ..LibvirtOptions::new(&options.libvirt_uri) };
        let health = options.telemetry.health();
        let (libvirt, identity) = tokio::join!(
            answer(health, "libvirt's answer", options.waits, || Libvirt::connect(libvirt_options.clone())),
            answer(health, "the API server's answer", options.waits, || {
                NodeIdentity::load(&client, &options.data_dir, &options.node_name)
            })
        );
        let (libvirt, state) = (libvirt?, NodeState { identity: identity?, journal, disks });
        if let Some(FormerNode { node: was, domains }) = state.identity.former_node(&libvirt.list_domains().await?) {
            return Err(StartError::Renamed { was, is: options.node_name, domains: domains.join(", ") });
        }
        state.identity.keep_name(&options.data_dir)?;
        let registers = if options.register_node { Some(NodeFacts::read(&libvirt.host_facts().await?)) } else { None };
        let streams = match options.streams {
            Some(ref address) => Some(StreamServer::bind(address).await?),
            None => None,
        };
        let annotations = streams.as_ref().map_or_else(|| watch::channel(BTreeMap::new()).1, StreamServer::annotations);
        let objects = Arc::new(KubeObjects::new(client.clone(), options.node_name.clone(), annotations));
        let source = Source { component: names::AGENT_COMPONENT.to_owned(), host: Some(options.node_name.clone()) };
        let recorder = Recorder::start(client.clone(), source, cancel.clone());
        let host_stop = Arc::new(HostStop::new(options.run_dir.clone()));
        // Taken before anything is started.
        drop(host_stop.permit());
        let heartbeat = Heartbeat {
            client: client.clone(),
            node: options.node_name.clone(),
            libvirt: libvirt.clone(),
            registers,
            checks: NodeChecks::new(options.data_dir.clone(), options.emulation),
            host_stop: Arc::clone(&host_stop),
        };
        let data_dir = options.data_dir.clone();
        let context = Arc::new(make_context(options, state, libvirt.clone(), objects, recorder, host_stop));
        let vms = context.vms.clone();
        context.telemetry.look_at(vms.clone(), libvirt.clone(), data_dir);
        let mut handle = AgentHandle { libvirt, vms, cancel, tasks: JoinSet::new(), _lock: lock };
        if let Some(streams) = streams {
            let consoles = handle.consoles();
            handle.spawn(streams.run(client.clone(), consoles));
        }
        Ok(handle.run(context, heartbeat, client).await)
    }
}

/// Asks, until there is an answer if it `waits`, and says meanwhile what for.
async fn answer<T, E: std::error::Error>(
    health: &Health,
    what: &'static str,
    waits: bool,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut told = "asked".to_owned();
    loop {
        health.set(what, Err(told.clone()));
        match ask().await {
            Err(error) if waits => {
                let error = chain(&error);
                if error != told {
                    warn!(error, "the start waits for {what}");
                    told = error;
                }
            }
            answered => {
                health.set(what, Ok(()));
                return answered;
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Gives back what only starts need, each time when the last one is a while ago: the process's own, then guests'.
async fn give_back_after_starts(context: Arc<NodeContext>) {
    loop {
        while timeout(START_IS_OVER, context.started.notified()).await.is_ok() {}
        give_back_start_pages();
        context.started.notified().await;
    }
}

/// What all workers share, over the real libvirt, API and disks.
fn make_context(
    options: AgentOptions,
    state: NodeState,
    libvirt: Libvirt,
    objects: Arc<KubeObjects>,
    recorder: Recorder,
    host_stop: Arc<HostStop>,
) -> NodeContext {
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(libvirt);
    let images = Arc::clone(state.disks.images());
    let puller = Arc::new(Puller::new(images, Arc::new(Inspector::default()), options.images.pull));
    NodeContext {
        node: options.node_name,
        identity: state.identity,
        capabilities: Capabilities::new(Arc::clone(&hypervisor), options.emulation),
        hypervisor,
        guests: objects.clone(),
        node_objects: objects.clone(),
        disks: Arc::new(NodeDisks::new(state.disks, objects, puller)),
        journal: state.journal,
        recorder,
        telemetry: options.telemetry,
        vms: VmCache::default(),
        guard: GuardBoard::default(),
        proc_dir: options.proc_dir,
        processes: ProcBoard::default(),
        host_stop,
        pass_wanted: Notify::new(),
        started: Notify::new(),
    }
}

impl AgentHandle {
    /// Sets the agent's tasks going.
    async fn run(mut self, context: Arc<NodeContext>, heartbeat: Heartbeat, client: Client) -> Self {
        let registered = heartbeat.register().await;
        if let Err(error) = &registered {
            warn!(%error, "the API does not take this node yet");
        }
        let (changed, changes) = mpsc::unbounded_channel();
        let events = self.libvirt.events();
        info!(
            node = context.node,
            libvirt = self.libvirt.uri(),
            installation = context.identity.installation(),
            "agent runs"
        );
        let watch = watch_vms(client, context.node.clone(), context.vms.clone(), changed);
        let warm = Arc::clone(&context);
        // libvirt asks QEMU what it can do at the first question, for seconds: not while a user waits for a guest.
        self.spawn(async move { drop(warm.capabilities.machine(None).await) });
        self.keep_leases(&context, &heartbeat);
        self.spawn(heartbeat.run(registered.is_ok()));
        self.spawn(watch);
        let (found, surveys) = mpsc::channel(1);
        self.spawn(Surveyor::new(Arc::clone(&context)).run(found));
        let starts = Arc::clone(&context);
        self.spawn(Supervisor::new(context).run(Inputs { events, changed: changes, surveys }));
        self.spawn(give_back_after_starts(starts));
        self
    }

    /// F1: our Lease, and the Node's own where there is no kubelet to renew it.
    fn keep_leases(&mut self, context: &NodeContext, heartbeat: &Heartbeat) {
        let (objects, telemetry) = (Arc::clone(&context.node_objects), context.telemetry.clone());
        self.spawn(async move {
            let renew = async || objects.renew_lease().await.inspect(|()| telemetry.beat());
            keep_renewed("ours", renew).await;
        });
        if heartbeat.registers.is_some() {
            let (client, node) = (heartbeat.client.clone(), heartbeat.node.clone());
            self.spawn(async move { keep_renewed("the Node's", || renew_node_lease(&client, &node)).await });
        }
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(task).await;
        });
    }

    /// Opens consoles.
    pub fn consoles(&self) -> Consoles {
        Consoles { libvirt: self.libvirt.clone(), vms: self.vms.clone() }
    }

    /// Waits until the agent has ended.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_that_waits_asks_until_there_is_an_answer_and_says_why_it_waits() {
        let health = Health::default();
        let mut asked = 0;
        let answered = answer(&health, "libvirt's answer", true, async || {
            asked += 1;
            if asked == 2 {
                assert_eq!(health.missing(), ["libvirt's answer: no socket"]);
            }
            if asked < 3 { Err(std::io::Error::other("no socket")) } else { Ok(asked) }
        });
        assert_eq!(answered.await.unwrap(), 3);
        assert!(health.missing().is_empty());
        let refused =
            answer(&health, "libvirt's answer", false, async || Err::<(), _>(std::io::Error::other("no socket")));
        assert!(refused.await.is_err());
    }
}

//! Starts an agent: takes its lock, opens its state, connects, and sets its tasks going.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use api::names;
use events::{Recorder, Source};
use kube::{Client, ResourceExt};
use plan::node::GuestKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::AgentOptions;
use crate::disks::DiskStore;
use crate::guest::NodeDisks;
use crate::hypervisor::{Capabilities, Hypervisor};
use crate::images::StoreError;
use crate::journal::{Journal, JournalError};
use crate::libvirt::{ConnectError, Error, Libvirt, LibvirtOptions};
use crate::node::{
    GuardBoard, Heartbeat, HostLock, IdentityError, LockError, NodeCapacity, NodeContext, NodeIdentity, Supervisor,
    VmCache, boot_id, watch_vms,
};
use crate::objects::KubeObjects;

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

/// Opens consoles of this node's guests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Consoles {
    libvirt: Libvirt,
    vms: VmCache,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory of its state cannot be made.
    #[error("make data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
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
    /// There is no libvirt.
    #[error(transparent)]
    Libvirt(#[from] ConnectError),
    /// libvirt does not say what the host has.
    #[error("read the host's facts")]
    Host(#[from] Error),
    /// The API does not say which installation this is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why a console was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// No such guest on this node.
    #[error("virtual machine {namespace}/{name} ({uid}) does not run on this node")]
    NotHere {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// libvirt did not open it.
    #[error("open the console")]
    Libvirt(#[from] Error),
}

/// A console: what the guest writes can be read, what is written the guest reads.
pub trait DuplexStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> DuplexStream for T {}

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
        fs::create_dir_all(&options.data_dir)
            .map_err(|source| StartError::DataDir { path: options.data_dir.clone(), source })?;
        let lock = HostLock::take(&options.lock_dir, &options.libvirt_uri)?;
        let journal = Journal::open(&options.data_dir, boot_id(&options.proc_dir))?;
        let disks = DiskStore::open(&options.data_dir)?;
        let (libvirt, identity) = tokio::join!(
            Libvirt::connect(LibvirtOptions::new(&options.libvirt_uri)),
            NodeIdentity::load(&client, &options.data_dir, &options.node_name)
        );
        let (libvirt, identity) = (libvirt?, identity?);
        let objects = Arc::new(KubeObjects::new(client.clone(), options.node_name.clone()));
        let recorder = Recorder::start(
            client.clone(),
            Source { component: names::AGENT_COMPONENT.to_owned(), host: Some(options.node_name.clone()) },
            cancel.clone(),
        );
        let hypervisor: Arc<dyn Hypervisor> = Arc::new(libvirt.clone());
        let context = Arc::new(NodeContext {
            node: options.node_name.clone(),
            identity,
            capabilities: Capabilities::new(Arc::clone(&hypervisor), options.emulation),
            hypervisor,
            guests: objects.clone(),
            node_objects: objects.clone(),
            disks: Arc::new(NodeDisks::new(disks, objects.clone())),
            journal,
            recorder,
            vms: VmCache::default(),
            guard: GuardBoard::default(),
            proc_dir: options.proc_dir.clone(),
            pass_wanted: Notify::new(),
        });
        let registers = if options.register_node {
            let host = libvirt.host_facts().await?;
            Some(NodeCapacity { memory_kib: host.memory_kib, cpus: host.cpus })
        } else {
            None
        };
        let heartbeat =
            Heartbeat { client: client.clone(), node: options.node_name, libvirt: libvirt.clone(), objects, registers };
        let handle = AgentHandle { libvirt, vms: context.vms.clone(), cancel, tasks: JoinSet::new(), _lock: lock };
        Ok(handle.run(context, heartbeat, client).await)
    }
}

impl AgentHandle {
    /// Sets the agent's tasks going.
    async fn run(mut self, context: Arc<NodeContext>, heartbeat: Heartbeat, client: Client) -> Self {
        let beaten = heartbeat.start().await;
        if let Err(error) = &beaten {
            warn!(%error, "the API does not take this node's heartbeat yet");
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
        self.spawn(heartbeat.run(beaten.is_ok()));
        self.spawn(watch);
        self.spawn(Supervisor::new(context).run(events, changes));
        self
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

impl Consoles {
    /// Opens the serial console of a guest, and takes it from whoever has it open.
    ///
    /// # Errors
    /// If the guest does not run here, or libvirt refuses.
    pub async fn open_serial(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Box<dyn DuplexStream>, ConsoleError> {
        let domain = self.running_domain(namespace, name, uid).await?;
        Ok(Box::new(self.libvirt.open_console(domain).await?))
    }

    /// Opens the display of a guest, as RFB.
    ///
    /// # Errors
    /// If the guest does not run here, or libvirt refuses.
    pub async fn open_display(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Box<dyn DuplexStream>, ConsoleError> {
        let domain = self.running_domain(namespace, name, uid).await?;
        Ok(Box::new(self.libvirt.open_graphics(domain).await?))
    }

    /// UUID of the running domain of a VM.
    async fn running_domain(&self, namespace: &str, name: &str, uid: &str) -> Result<Uuid, ConsoleError> {
        let key = GuestKey { namespace: namespace.to_owned(), name: name.to_owned() };
        let not_here =
            || ConsoleError::NotHere { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() };
        if self.vms.get(&key).and_then(|vm| vm.uid()).as_deref() != Some(uid) {
            return Err(not_here());
        }
        let domain_name = domain_xml::DomainName::new(namespace, name);
        let found = self.libvirt.find_domain_by_name(domain_name.as_str()).await?;
        let domain = found.filter(|domain| domain.state.is_active()).ok_or_else(not_here)?;
        let is_its_own = domain
            .metadata
            .as_deref()
            .and_then(|xml| domain_xml::parse_metadata(xml).ok())
            .is_some_and(|own| own.uid == uid);
        if !is_its_own {
            return Err(not_here());
        }
        Ok(domain.uuid)
    }
}

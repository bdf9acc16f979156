//! One scenario's world: a libvirtd of its own, an API server in this process, an agent, and the test in the controller's place.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use agent::images::ImageStore;
use agent::{Agent, AgentHandle, AgentOptions, StartError};
use api::names;
use api::subresources::VirtualMachineUserData;
use api::v1alpha1::{Phase, VirtualMachine};
use apiserver::{ApiServer, LocalService, Mount, Options, User};
use axum::extract::{Path, State};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Event, Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use plan::node::Emulation;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::boot_sector;
use tests::libvirtd::{PrivateLibvirtd, why_unsupported};
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
/// Name of the node.
pub(crate) const NODE: &str = "node1";

/// A guest of 512 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guest {
    /// Halts for ever, deaf to the power button.
    Deaf,
    /// Waits for the power button, and powers off.
    Obedient,
    /// Powers off at once.
    Brief,
    /// Panics at once.
    Panics,
}

impl Guest {
    const ALL: [Self; 4] = [Self::Deaf, Self::Obedient, Self::Brief, Self::Panics];

    fn image(self) -> &'static str {
        match self {
            Self::Deaf => "test/deaf:latest",
            Self::Obedient => "test/obedient:latest",
            Self::Brief => "test/brief:latest",
            Self::Panics => "test/panics:latest",
        }
    }

    fn boot_sector(self) -> &'static [u8; 512] {
        match self {
            Self::Deaf => &boot_sector::IDLE,
            Self::Obedient => &boot_sector::OBEYS_POWER_BUTTON,
            Self::Brief => &boot_sector::POWER_OFF,
            Self::Panics => &boot_sector::PANIC,
        }
    }
}

/// A way to the API server that can be cut, or lose every call about Nodes.
#[derive(Clone)]
struct Wire {
    service: LocalService,
    cut: Arc<AtomicBool>,
    nodes_hang: Arc<AtomicBool>,
}

impl tower::Service<http::Request<kube::client::Body>> for Wire {
    type Response = <LocalService as tower::Service<http::Request<kube::client::Body>>>::Response;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<kube::client::Body>) -> Self::Future {
        if self.cut.load(Ordering::SeqCst) {
            return Box::pin(async { Err(std::io::Error::other("the wire is cut")) });
        }
        if self.nodes_hang.load(Ordering::SeqCst) && request.uri().path().starts_with("/api/v1/nodes") {
            return Box::pin(std::future::pending());
        }
        let answer = self.service.call(request);
        Box::pin(async move { Ok(answer.await.expect("the service never fails")) })
    }
}

/// The world.
pub(crate) struct World {
    agent: Option<(AgentHandle, CancellationToken)>,
    options: AgentOptions,
    wire: Wire,
    pub(crate) client: Client,
    server: ApiServer,
    _state: TempDir,
    pub(crate) libvirtd: PrivateLibvirtd,
}

/// What the controller answers agents with: what the Secrets of a VM hold.
fn user_data_of(client: Client) -> Mount {
    let answer = async |State(client): State<Client>, Path((namespace, name)): Path<(String, String)>| {
        let vm = Api::<VirtualMachine>::namespaced(client.clone(), &namespace).get(&name).await.unwrap();
        let mut found = VirtualMachineUserData::new(
            vm.uid().unwrap(),
            std::collections::BTreeMap::new(),
            std::collections::BTreeMap::new(),
        );
        let seeds = vm.spec.volumes.iter().flatten().filter_map(|volume| volume.cloud_init_no_cloud.as_ref());
        for secret in seeds.filter_map(|seed| seed.secret_ref.as_ref()) {
            let stored = Api::<Secret>::namespaced(client.clone(), &namespace).get_opt(&secret.name).await.unwrap();
            let data = stored.and_then(|stored| stored.data?.remove("userdata"));
            found.user_data.extend(data.map(|data| (secret.name.clone(), data)));
        }
        axum::Json(found)
    };
    Mount {
        group: names::SUBRESOURCE_GROUP.to_owned(),
        version: names::VERSION.to_owned(),
        resources: Vec::new(),
        router: axum::Router::new()
            .route(&api::subresources::path("{namespace}", "{name}", "userdata"), axum::routing::get(answer))
            .with_state(client),
    }
}

impl World {
    /// A world with a running agent; None where the host cannot run one.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        if let Some(reason) = why_unsupported() {
            eprintln!("SKIPPED {test}: {reason}");
            return None;
        }
        let log = tracing_subscriber::fmt().with_env_filter("info,agent=debug").with_test_writer().try_init();
        drop(log); // another test of this process has set it up
        let libvirtd = PrivateLibvirtd::start().unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut options = Options::new(state.path().join("api"), ([127, 0, 0, 1], 0).into());
        options.custom_resources = api::crd::all();
        let server = ApiServer::open(options).await.unwrap();
        let client = Client::new(server.local_service(User::system("system:test")), "default");
        server.mount(user_data_of(client.clone()));
        let service = server.local_service(User::system("system:agent"));
        let wire = Wire { service, cut: Arc::default(), nodes_hang: Arc::default() };
        let options = AgentOptions {
            libvirt_uri: libvirtd.uri(),
            emulation: Emulation::Always,
            register_node: true,
            lock_dir: state.path().join("lock"),
            ..AgentOptions::new(NODE, libvirtd.directory().join("agent"))
        };
        let mut world = Self { agent: None, options, wire, client, server, _state: state, libvirtd };
        world.import_images();
        world.make_namespace().await;
        world.start_agent().await;
        Some(world)
    }

    fn import_images(&self) {
        fs::create_dir_all(&self.options.data_dir).unwrap();
        let store = ImageStore::open(&self.options.data_dir).unwrap();
        for guest in Guest::ALL {
            let file = self.libvirtd.directory().join("import.raw");
            boot_sector::write_disk(&file, guest.boot_sector()).unwrap();
            store.import(&guest.image().parse().unwrap(), &file).unwrap();
        }
    }

    async fn make_namespace(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        if namespaces.get_opt("default").await.unwrap().is_none() {
            let namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
            namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        }
    }

    pub(crate) async fn start_agent(&mut self) {
        self.try_to_start_agent().await.unwrap();
    }

    pub(crate) async fn try_to_start_agent(&mut self) -> Result<(), StartError> {
        let cancel = CancellationToken::new();
        let client = Client::new(self.wire.clone(), "default");
        let handle = Agent::start(self.options.clone(), client, cancel.clone()).await?;
        self.agent = Some((handle, cancel));
        Ok(())
    }

    /// Where the next agent sees processes.
    pub(crate) fn set_proc_dir(&mut self, directory: impl Into<PathBuf>) {
        self.options.proc_dir = directory.into();
    }

    /// Starts the agent without an API: it has to know what it was told before.
    pub(crate) async fn start_agent_while_api_is_away(&mut self) {
        assert!(self.wire.cut.load(Ordering::SeqCst));
        self.start_agent().await;
    }

    /// Ends the agent wherever it is, as a kill would.
    pub(crate) async fn stop_agent(&mut self) {
        let (handle, cancel) = self.agent.take().unwrap();
        cancel.cancel();
        handle.ended().await;
    }

    pub(crate) fn agent(&self) -> &AgentHandle {
        &self.agent.as_ref().unwrap().0
    }

    /// Cuts the agent off from the API, or lets it back.
    pub(crate) fn cut_api(&self, cut: bool) {
        self.wire.cut.store(cut, Ordering::SeqCst);
    }

    /// Calls about Nodes are never answered from now on.
    pub(crate) fn hang_nodes(&self) {
        self.wire.nodes_hang.store(true, Ordering::SeqCst);
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone()
    }

    pub(crate) fn vms(&self) -> Api<VirtualMachine> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes a VM and binds it to the node, as the controller does; returns its UID.
    pub(crate) async fn create_bound(&self, name: &str, guest: Guest, grace_seconds: i64) -> String {
        let uid = self.create(name, spec(guest, grace_seconds)).await;
        self.bind(name, NODE).await;
        uid
    }

    /// Makes a VM with our finalizer; returns its UID.
    pub(crate) async fn create(&self, name: &str, spec: Value) -> String {
        let vm = json!({
            "apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": "default", "finalizers": [names::VM_FINALIZER]},
            "spec": spec,
        });
        let created = self.vms().create(&PostParams::default(), &serde_json::from_value(vm).unwrap()).await.unwrap();
        created.uid().unwrap()
    }

    pub(crate) async fn bind(&self, name: &str, node: &str) {
        let status = json!({"status": {"nodeName": node, "phase": "Scheduled"}});
        self.vms().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.vms().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Puts a finalizer of somebody else on a VM, so that it can be looked at after the agent has let it go.
    pub(crate) async fn hold(&self, name: &str) {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": [names::VM_FINALIZER, "test/hold"]}}));
        self.vms().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn create_secret(&self, secret: Value) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), "default");
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    }

    /// Takes all finalizers off, as a user's hand might.
    pub(crate) async fn strip(&self, name: &str) {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        self.vms().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until the VM is as wanted.
    pub(crate) async fn wait_vm(
        &self,
        name: &str,
        what: &str,
        is_so: impl Fn(&VirtualMachine) -> bool,
    ) -> VirtualMachine {
        let vms = self.vms();
        wait(what, async || {
            let vm = vms.get_opt(name).await.unwrap();
            match vm {
                Some(vm) if is_so(&vm) => Ok(vm),
                other => Err(format!("{:?}", other.map(|vm| (vm.metadata.deletion_timestamp, vm.status)))),
            }
        })
        .await
    }

    pub(crate) async fn wait_phase(&self, name: &str, phase: Phase) -> VirtualMachine {
        self.wait_vm(name, &format!("{name} is {phase:?}"), |vm| phase_of(vm) == phase).await
    }

    pub(crate) async fn wait_gone(&self, name: &str) {
        let vms = self.vms();
        wait(&format!("{name} is gone"), async || match vms.get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(vm) => Err(format!("{:?}", vm.metadata)),
        })
        .await;
    }

    /// libvirt's word for the state of a domain; empty if there is none.
    pub(crate) fn domain_state(&self, name: &str) -> String {
        self.libvirtd.virsh(&["domstate", "--reason", &format!("default_{name}")]).unwrap_or_default()
    }

    pub(crate) async fn wait_domain(&self, name: &str, state: &str) {
        wait(&format!("domain {name} is {state:?}"), async || match self.domain_state(name) {
            is if is == state => Ok(()),
            is => Err(is),
        })
        .await;
    }

    /// The events of a VM: type, reason, message, in the order in which they were made.
    pub(crate) async fn events(&self, name: &str) -> Vec<(String, String, String)> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let all = events.list(&ListParams::default().fields(&format!("involvedObject.name={name}"))).await.unwrap();
        let mut all = all.items;
        all.sort_by_key(|event| {
            event.metadata.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok())
        });
        let text = |field: Option<String>| field.unwrap_or_default();
        all.into_iter().map(|event| (text(event.type_), text(event.reason), text(event.message))).collect()
    }

    /// The QEMU processes of a domain.
    pub(crate) fn qemu_pids(&self, name: &str) -> Vec<i32> {
        let marker = format!("guest=default_{name},");
        let place = self.libvirtd.directory().display().to_string();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).into_owned();
            (line.contains(&marker) && line.contains(&place)).then_some(pid)
        });
        pids.collect()
    }

    /// Ends everything in order.
    pub(crate) async fn end(mut self) {
        if self.agent.is_some() {
            self.stop_agent().await;
        }
        self.server.shutdown().await;
    }
}

/// A machine with one disk.
pub(crate) fn spec(guest: Guest, grace_seconds: i64) -> Value {
    json!({
        "terminationGracePeriodSeconds": grace_seconds,
        "domain": {
            "resources": {"requests": {"memory": "16M"}},
            "devices": {"disks": [{"name": "root", "volumeName": "root", "disk": {}}]},
        },
        "volumes": [{"name": "root", "registryDisk": {"image": guest.image()}}],
    })
}

pub(crate) fn phase_of(vm: &VirtualMachine) -> Phase {
    vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

/// Reason of a condition; empty if there is none.
pub(crate) fn reason(vm: &VirtualMachine, type_: &str) -> String {
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.filter(|condition| condition.type_ == type_).find_map(|condition| condition.reason.clone());
    found.unwrap_or_default()
}

/// Looks until it is so.
pub(crate) async fn wait<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(is) if tokio::time::Instant::now() >= until => panic!("waited in vain until {what}; it is: {is}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

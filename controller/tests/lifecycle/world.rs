//! An API server in process, the controller, and nodes whose agents pretend that guests run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what a scenario builds on must work, else it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::names::{OVM_FINALIZER, SCHEDULABLE_LABEL, SYSTEM_NAMESPACE, VM_FINALIZER};
use api::v1alpha1::{
    OfflineVirtualMachine, OfflineVirtualMachineStatus, Phase, PhaseTransitionTimestamp, VirtualMachine,
    VirtualMachineStatus,
};
use apiserver::{Admission, AdmissionRequest, ApiServer, Cause, Operation, User};
use controller::ControllerOptions;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a scenario waits for anything, in steps of 5 ms.
const PATIENCE: u32 = 3000;

/// What refuses objects while it is told to.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    refusal: Arc<Mutex<Option<&'static str>>>,
}

impl Gate {
    pub(crate) fn set(&self, refusal: Option<&'static str>) {
        *self.refusal.lock().unwrap() = refusal;
    }
}

impl Admission for Gate {
    fn validate(&self, request: &AdmissionRequest<'_>) -> Vec<Cause> {
        let refusal = self.refusal.lock().unwrap().filter(|_| request.kind == "VirtualMachine");
        refusal
            .filter(|_| request.operation == Operation::Create)
            .map(|text| Cause::new("FieldValueInvalid", text.to_owned(), "spec".to_owned()))
            .into_iter()
            .collect()
    }
}

/// Everything that a scenario runs in. It ends with this value.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) gate: Gate,
    agents: Arc<Mutex<Agents>>,
    controller: (CancellationToken, JoinHandle<()>),
    _end: DropGuard,
    _directory: tempfile::TempDir,
}

/// What the pretended agents do.
#[derive(Default)]
struct Agents {
    nodes: BTreeSet<String>,
    /// Guests that are to end, and how.
    ends: BTreeMap<String, Phase>,
    /// Seconds that a guest is said to have run when it starts.
    age: u64,
}

impl World {
    /// With nodes of these names.
    pub(crate) async fn start(nodes: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::default();
        let mut options = apiserver::Options::new(directory.path(), "127.0.0.1:0".parse().unwrap());
        options.custom_resources = api::crd::all();
        options.admission = Arc::new(gate.clone());
        let server = ApiServer::open(options).await.unwrap();
        let client = || Client::new(server.local_service(User::system("test")), "default");
        let cancel = CancellationToken::new();
        let agents = Arc::new(Mutex::new(Agents { age: 60, ..Agents::default() }));
        let controller = start_controller(client(), ControllerOptions::default());
        let end = cancel.clone().drop_guard();
        let world = Self { client: client(), gate, agents, controller, _end: end, _directory: directory };
        world
            .eventually("our namespace", || async { world.namespaces().get_opt(SYSTEM_NAMESPACE).await.unwrap() })
            .await;
        for node in nodes {
            world.add_node(node).await;
        }
        let acting = (world.client.clone(), Arc::clone(&world.agents));
        tokio::spawn(cancel.run_until_cancelled_owned(async move { act_for_ever(acting.0, acting.1).await }));
        world
    }

    pub(crate) async fn add_node(&self, name: &str) {
        let node: Node = object(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {SCHEDULABLE_LABEL: "true"}},
        }));
        let nodes = Api::<Node>::all(self.client.clone());
        let mut node = nodes.create(&PostParams::default(), &node).await.unwrap();
        node.status = Some(object(json!({"allocatable": {"memory": "8Gi", "cpu": "4"}})));
        nodes.replace_status(name, &PostParams::default(), &node).await.unwrap();
        let lease: Lease = object(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": name},
        }));
        self.leases().create(&PostParams::default(), &lease).await.unwrap();
        self.agents.lock().unwrap().nodes.insert(name.to_owned());
    }

    /// Ends the controller, and starts another that knows nothing.
    pub(crate) async fn restart_controller(&mut self) {
        self.restart_controller_with(ControllerOptions::default()).await;
    }

    /// Another controller takes over, which was told something else.
    pub(crate) async fn restart_controller_with(&mut self, options: ControllerOptions) {
        let next = start_controller(self.client.clone(), options);
        let (end, ended) = std::mem::replace(&mut self.controller, next);
        end.cancel();
        ended.await.unwrap();
    }

    /// The node's agent does nothing any more.
    pub(crate) fn silence(&self, node: &str) {
        self.agents.lock().unwrap().nodes.remove(node);
    }

    /// The guest ends by itself.
    pub(crate) fn end_guest(&self, name: &str, phase: Phase) {
        self.agents.lock().unwrap().ends.insert(name.to_owned(), phase);
    }

    /// Guests that start from now on are said to have run for this long.
    pub(crate) fn set_age(&self, seconds: u64) {
        self.agents.lock().unwrap().age = seconds;
    }

    pub(crate) async fn renew(&self, node: &str) {
        let patch = json!({"spec": {"renewTime": format!("{:.6}", Timestamp::now())}});
        self.leases().patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) fn ovms(&self) -> Api<OfflineVirtualMachine> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn vms(&self) -> Api<VirtualMachine> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client.clone())
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE)
    }

    pub(crate) async fn create_ovm(&self, name: &str, running: bool) -> OfflineVirtualMachine {
        self.ovms().create(&PostParams::default(), &ovm(name, running)).await.unwrap()
    }

    pub(crate) async fn patch_ovm(&self, name: &str, patch: Value) {
        self.ovms().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) async fn delete_vm(&self, name: &str) {
        self.vms().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// The VM, once it runs.
    pub(crate) async fn running(&self, name: &str) -> VirtualMachine {
        self.vm_when(name, "runs", |vm| phase(vm) == Phase::Running && vm.metadata.deletion_timestamp.is_none()).await
    }

    pub(crate) async fn vm_when(
        &self,
        name: &str,
        what: &str,
        found: impl Fn(&VirtualMachine) -> bool,
    ) -> VirtualMachine {
        let what = format!("VM {name} {what}");
        self.eventually(&what, || async { self.vms().get_opt(name).await.unwrap().filter(|vm| found(vm)) }).await
    }

    /// The OVM's status, once it is so.
    pub(crate) async fn status_when(
        &self,
        name: &str,
        what: &str,
        found: impl Fn(&OfflineVirtualMachineStatus) -> bool,
    ) -> OfflineVirtualMachineStatus {
        let read = || async {
            self.ovms().get_opt(name).await.unwrap().and_then(|ovm| ovm.status).filter(|status| found(status))
        };
        self.eventually(&format!("OVM {name} {what}"), read).await
    }

    pub(crate) async fn printable(&self, name: &str, word: &str) -> OfflineVirtualMachineStatus {
        self.status_when(name, word, |status| status.printable_status.as_deref() == Some(word)).await
    }

    pub(crate) async fn gone(&self, name: &str) {
        self.eventually("VM gone", || async { self.vms().get_opt(name).await.unwrap().is_none().then_some(()) }).await;
    }

    pub(crate) async fn ovm_gone(&self, name: &str) {
        self.eventually("OVM gone", || async { self.ovms().get_opt(name).await.unwrap().is_none().then_some(()) })
            .await;
    }

    /// Reason, message and count of each event of an object, once there are as many.
    pub(crate) async fn events(&self, name: &str, at_least: usize) -> Vec<Event> {
        let events = Api::<Event>::namespaced(self.client.clone(), "default");
        self.eventually("events", || async {
            let mut all = events.list(&ListParams::default()).await.unwrap().items;
            all.retain(|event| event.involved_object.name.as_deref() == Some(name));
            (all.len() >= at_least).then_some(all)
        })
        .await
    }

    /// Waits for something, and says what it waited for in vain.
    pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(&self, what: &str, look: impl Fn() -> F) -> T {
        for _ in 0..PATIENCE {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ovms = self.ovms().list(&ListParams::default()).await.unwrap().items;
        let vms = self.vms().list(&ListParams::default()).await.unwrap().items;
        panic!("waited in vain: {what}\n{ovms:#?}\n{vms:#?}");
    }

    /// Moves the clock, as if nothing had happened meanwhile.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }
}

fn start_controller(client: Client, options: ControllerOptions) -> (CancellationToken, JoinHandle<()>) {
    let cancel = CancellationToken::new();
    let running = controller::run(options, client, cancel.clone());
    (cancel, tokio::spawn(async move { running.await.unwrap() }))
}

impl Drop for World {
    fn drop(&mut self) {
        self.controller.0.cancel();
    }
}

pub(crate) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn ovm(name: &str, running: bool) -> OfflineVirtualMachine {
    object(json!({
        "apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "metadata": {"name": name},
        "spec": {"running": running, "template": {
            "metadata": {"creationTimestamp": null, "labels": {"kubevirt.io/ovm": name}},
            "spec": {"domain": {"devices": {}, "machine": {"type": ""}, "resources": {"requests": {"memory": "64M"}}}},
        }},
    }))
}

pub(crate) fn vm(name: &str) -> VirtualMachine {
    let mut vm = VirtualMachine::new(name, ovm(name, true).spec.template.spec);
    vm.metadata.namespace = Some("default".to_owned());
    vm
}

pub(crate) fn phase(vm: &VirtualMachine) -> Phase {
    vm.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

pub(crate) fn uid(vm: &VirtualMachine) -> String {
    vm.metadata.uid.clone().unwrap()
}

pub(crate) fn node_of(vm: &VirtualMachine) -> String {
    vm.status.as_ref().unwrap().node_name.clone().unwrap()
}

pub(crate) fn firmware_uuid(vm: &VirtualMachine) -> String {
    vm.status.as_ref().unwrap().abi.as_ref().unwrap().firmware_uuid.clone().unwrap()
}

/// The agents of all nodes: look at everything, do what is due, again.
async fn act_for_ever(client: Client, agents: Arc<Mutex<Agents>>) {
    loop {
        let vms = Api::<VirtualMachine>::all(client.clone()).list(&ListParams::default()).await.unwrap().items;
        let ovms = Api::<OfflineVirtualMachine>::all(client.clone()).list(&ListParams::default()).await.unwrap().items;
        for vm in &vms {
            let node = vm.status.as_ref().and_then(|status| status.node_name.clone()).unwrap_or_default();
            if agents.lock().unwrap().nodes.contains(&node) {
                act_on_vm(&client, &agents, vm.clone()).await;
            }
        }
        for ovm in ovms {
            release(&client, &agents, ovm).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs and ends one guest. A write that comes too late is made again at the next look.
async fn act_on_vm(client: &Client, agents: &Mutex<Agents>, mut vm: VirtualMachine) {
    let vms = Api::<VirtualMachine>::namespaced(client.clone(), vm.metadata.namespace.as_deref().unwrap());
    let name = vm.metadata.name.clone().unwrap();
    let now = phase(&vm);
    let end = agents.lock().unwrap().ends.get(&name).copied();
    let age = agents.lock().unwrap().age;
    let next = match (now, vm.metadata.deletion_timestamp.is_some(), end) {
        (Phase::Scheduled, false, _) => Some(Phase::Running),
        (Phase::Scheduled | Phase::Running, true, _) => Some(Phase::Succeeded),
        (Phase::Running, false, Some(end)) => Some(end),
        _ => None,
    };
    if let Some(next) = next {
        let at = Timestamp::now() - Duration::from_secs(if next == Phase::Running { age } else { 0 });
        enter(vm.status.get_or_insert_default(), next, at);
        if vms.replace_status(&name, &PostParams::default(), &vm).await.is_ok() && next != Phase::Running {
            agents.lock().unwrap().ends.remove(&name);
        }
    } else if now.is_final() && vm.metadata.deletion_timestamp.is_some() {
        let left: Vec<_> =
            vm.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != VM_FINALIZER).collect();
        let version = vm.metadata.resource_version.clone();
        let patch = json!({"metadata": {"finalizers": left, "resourceVersion": version}});
        if left.len() < vm.metadata.finalizers.iter().flatten().count() {
            let _ = vms.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        }
    }
}

fn enter(status: &mut VirtualMachineStatus, phase: Phase, at: Timestamp) {
    status.phase = Some(phase);
    status.phase_transition_timestamps.push(PhaseTransitionTimestamp { phase, phase_transition_timestamp: Time(at) });
}

/// E4: the placement of a VM that is gone is released by its node.
async fn release(client: &Client, agents: &Mutex<Agents>, mut ovm: OfflineVirtualMachine) {
    let namespace = ovm.metadata.namespace.clone().unwrap();
    let Some(placement) = ovm.status.as_mut().and_then(|status| status.placement.as_mut()) else { return };
    if placement.released || !agents.lock().unwrap().nodes.contains(&placement.node_name) {
        return;
    }
    let name = ovm.metadata.name.clone().unwrap();
    let vm = Api::<VirtualMachine>::namespaced(client.clone(), &namespace).get_opt(&name).await.unwrap();
    if vm.is_none_or(|vm| vm.metadata.uid.as_deref() != Some(&placement.vm_uid)) {
        placement.released = true;
        let ovms = Api::<OfflineVirtualMachine>::namespaced(client.clone(), &namespace);
        let _ = ovms.replace_status(&name, &PostParams::default(), &ovm).await;
    }
}

/// Whether the OVM has our finalizer.
pub(crate) fn is_held(ovm: &OfflineVirtualMachine) -> bool {
    ovm.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == OVM_FINALIZER)
}

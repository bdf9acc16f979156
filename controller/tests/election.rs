//! Several controllers on one API server, in process: one acts, another takes over, and none acts on another program's kinds.

#![expect(clippy::unwrap_used, reason = "what a scenario builds on must work, else it fails")]

use std::time::Duration;

use api::names::{LEADER_LEASE, PART_OF_LABEL, SYSTEM_NAMESPACE};
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use apiserver::{ApiServer, User};
use controller::{ControllerOptions, ElectionTerms};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// As in a cluster, twenty times as fast.
const TERMS: ElectionTerms = ElectionTerms {
    duration: Duration::from_millis(1500),
    deadline: Duration::from_secs(1),
    retry: Duration::from_millis(100),
};

struct World {
    server: ApiServer,
    client: Client,
    _directory: tempfile::TempDir,
}

struct Replica {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = apiserver::Options::new(directory.path(), "127.0.0.1:0".parse().unwrap());
        options.custom_resources = api::crd::all();
        let server = ApiServer::open(options).await.unwrap();
        let client = Client::new(server.local_service(User::system("test")), "default");
        Self { server, client, _directory: directory }
    }

    fn replica(&self) -> Replica {
        let client = Client::new(self.server.local_service(User::system("controller")), "default");
        let options = ControllerOptions { election: Some(TERMS), ..ControllerOptions::default() };
        let cancel = CancellationToken::new();
        let running = controller::run(options, client, cancel.clone());
        Replica { cancel, task: tokio::spawn(async move { running.await.unwrap() }) }
    }

    async fn holder(&self) -> Option<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        leases.get_opt(LEADER_LEASE).await.unwrap()?.spec?.holder_identity.filter(|holder| !holder.is_empty())
    }

    /// Somebody other than `before` leads.
    async fn led(&self, before: Option<&str>) -> String {
        self.eventually("a leader", || async { self.holder().await.filter(|holder| Some(holder.as_str()) != before) })
            .await
    }

    async fn create(&self, name: &str) {
        let ovm: OfflineVirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "metadata": {"name": name},
            "spec": {"running": true, "template": {"spec": {"domain": {"devices": {}}}}},
        }))
        .unwrap();
        let ovms: Api<OfflineVirtualMachine> = Api::default_namespaced(self.client.clone());
        ovms.create(&PostParams::default(), &ovm).await.unwrap();
    }

    async fn has_vm(&self, name: &str) -> bool {
        let vms: Api<VirtualMachine> = Api::default_namespaced(self.client.clone());
        vms.get_opt(name).await.unwrap().is_some()
    }

    async fn acted_on(&self, name: &str) {
        self.eventually("a VirtualMachine", || async { self.has_vm(name).await.then_some(()) }).await;
    }

    async fn eventually<T, F: Future<Output = Option<T>>>(&self, what: &str, mut look: impl FnMut() -> F) -> T {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "no {what} in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn one_leads_a_resignation_hands_over_at_once_and_a_death_after_the_lease() {
    let world = World::start().await;
    let first = world.replica();
    let holder = world.led(None).await;
    world.create("a").await;
    world.acted_on("a").await;

    let second = world.replica();
    let third = world.replica();
    first.cancel.cancel();
    first.task.await.unwrap();
    let begun = tokio::time::Instant::now();
    let next = world.led(Some(&holder)).await;
    assert!(begun.elapsed() < TERMS.duration, "the Lease was given up, not left to lapse");
    world.create("b").await;
    world.acted_on("b").await;

    // Which of the two it is cannot be told: one is killed, and if it did not lead, the other as well.
    second.task.abort();
    world.create("c").await;
    world.acted_on("c").await;
    let holder = world.led(None).await;
    if holder == next {
        let fourth = world.replica();
        third.task.abort();
        world.led(Some(&next)).await;
        world.create("d").await;
        world.acted_on("d").await;
        fourth.cancel.cancel();
    }
}

#[tokio::test]
async fn a_leader_that_is_robbed_of_its_lease_stops() {
    let world = World::start().await;
    let first = world.replica();
    world.led(None).await;
    world.create("a").await;
    world.acted_on("a").await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), SYSTEM_NAMESPACE);
    let robber = json!({"spec": {"holderIdentity": "robber"}});
    leases.patch(LEADER_LEASE, &PatchParams::default(), &Patch::Merge(robber)).await.unwrap();
    tokio::time::sleep(TERMS.retry * 4).await;
    world.create("b").await;
    tokio::time::sleep(TERMS.retry * 4).await;
    assert!(!world.has_vm("b").await, "it does not act");
    world.acted_on("b").await;
    assert_ne!(world.holder().await.as_deref(), Some("robber"), "a silent robber is succeeded");
    first.cancel.cancel();
}

#[tokio::test]
async fn on_kinds_that_are_not_ours_it_does_nothing_but_say_so() {
    let world = World::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let label = |value: Option<&str>| json!({"metadata": {"labels": {PART_OF_LABEL: value}}});
    let relabel = async |value: Option<&str>| {
        let patch = Patch::Merge(label(value));
        definitions.patch("virtualmachines.kubevirt.io", &PatchParams::default(), &patch).await.unwrap();
    };
    relabel(None).await;
    let replica = world.replica();
    let events: Api<Event> = Api::default_namespaced(world.client.clone());
    world
        .eventually("an event", || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            all.items.into_iter().find(|event| event.reason.as_deref() == Some("ForeignDefinition"))
        })
        .await;
    world.create("a").await;
    tokio::time::sleep(TERMS.retry * 4).await;
    assert_eq!((world.holder().await, world.has_vm("a").await), (None, false));

    relabel(Some("ovm")).await;
    world.acted_on("a").await;
    relabel(Some("kubevirt")).await;
    world.eventually("resignation", || async { world.holder().await.is_none().then_some(()) }).await;
    world.create("b").await;
    tokio::time::sleep(TERMS.retry * 4).await;
    assert!(!world.has_vm("b").await);
    assert!(!replica.task.is_finished(), "it waits for better days");
    replica.cancel.cancel();
    replica.task.await.unwrap();
}

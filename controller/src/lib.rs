//! Effects in the cluster: OfflineVirtualMachines to VirtualMachines, and VirtualMachines to nodes.
//!
//! ```text
//! watches -> index -> queue of keys -> reconcile: observe -> plan::cluster::plan -> apply -> (again, until the plan rests)
//! Leases  -> expiry -> keys that live on the node
//! signing requests of hosts that join -> joining: plan::cluster -> approve or deny
//!
//! definitions ours? -> watches listed -> leading? -> a term: reconcile, expiry     (each arrow back again when it is not so any more)
//! ```
//! One task at a time works on one namespace and name; what to do is decided in `plan::cluster` alone. [`run`] is the entry for the
//! `ovm-controller` binary and for `ovm-standalone`; [`console`] is the subresource API, which `ovm-standalone` mounts and [`serve`] offers to a
//! cluster's API server.

pub mod console;

mod apply;
mod binder;
mod context;
mod error;
mod index;
mod installation;
mod joining;
mod kinds;
mod leader;
mod lean;
mod leases;
mod metrics;
mod observe;
mod options;
mod queue;
mod reconcile;
mod refusal;
mod seen;
pub mod serve;
mod watch;

use api::names::CONTROLLER_COMPONENT;
use events::{Recorder, Source};
use futures::future::OptionFuture;
use kube::Client;
use plan::cluster::KindsVerdict;
use prometheus_client::registry::Registry;
use telemetry::{Health, Server};
use tokio::sync::watch::{Receiver, channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use error::ControllerError;
pub use options::{ControllerOptions, MetricsOptions, NicModel, NicModelError, UuidCompat, UuidCompatError};
pub use plan::cluster::ElectionTerms;

use crate::watch::spawn_all;
use context::Context;
use installation::Surroundings;
use leader::{Election, serve_terms};
use metrics::Metrics;

/// What the health says of the caches.
const CACHES: &str = "caches";

/// Runs the controller until `cancel`. Guests do not notice that it ends. An API server that is away, definitions that are missing or another program's,
/// and another controller that leads are waited out.
///
/// # Errors
/// When metrics cannot be served where they are asked for.
pub async fn run(options: ControllerOptions, client: Client, cancel: CancellationToken) -> Result<(), ControllerError> {
    run_and_serve(options, None, client, cancel).await
}

/// As [`run`], with webhook and aggregated API, which are served whenever the definitions are ours, leader or not.
///
/// # Errors
/// As [`run`].
pub async fn run_and_serve(
    options: ControllerOptions,
    server: Option<serve::Server>,
    client: Client,
    cancel: CancellationToken,
) -> Result<(), ControllerError> {
    let (metrics, health) = (Metrics::default(), options.health.clone());
    if let Some(served) = &options.metrics {
        let mut registry = Registry::with_prefix("ovm_controller");
        metrics.register(&mut registry);
        served.api_calls.register(&mut registry);
        let refreshed = metrics.clone();
        let server = Server::new(registry, health.clone(), move || refreshed.refresh());
        server.listen(served.listen, cancel.clone()).await?;
    }
    let source = Source { component: CONTROLLER_COMPONENT.to_owned(), host: None };
    let recorder = Recorder::start(client.clone(), source, cancel.clone());
    let controller = Controller { options, client, recorder, metrics, health };
    controller.run(server, &cancel).await;
    Ok(())
}

/// What lasts as long as the process.
struct Controller {
    options: ControllerOptions,
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
    health: Health,
}

/// A term of office. Dropping it says that it is over.
struct Term(Context);

type Kinds = Receiver<Option<KindsVerdict>>;

impl Controller {
    /// Works whenever the kinds are ours.
    async fn run(&self, server: Option<serve::Server>, cancel: &CancellationToken) {
        let (verdict, mut kinds) = channel(None);
        let watching = kinds::watch_kinds(self.client.clone(), self.health.clone(), self.recorder.clone(), verdict);
        // The server serves a little longer than `cancel`, and the watch as long as it.
        let _watching = AbortOnDropHandle::new(tokio::spawn(watching));
        let serving = server.map(|server| tokio::spawn(server.run(self.client.clone(), kinds.clone(), cancel.clone())));
        while let Some(ours) = while_ours(&mut kinds, cancel).await {
            self.work(&ours).await;
        }
        if let Some(Err(error)) = OptionFuture::from(serving).await {
            tracing::error!(%error, "the server of webhook and aggregated API panicked");
        }
    }

    /// Fills the caches and works from them until `cancel`, as often as this process leads.
    async fn work(&self, cancel: &CancellationToken) {
        self.health.set(CACHES, Err("not listed yet".to_owned()));
        let learning = installation::learn(&self.client, &self.options, &self.health);
        let Some(Surroundings { installation, pods_are_served }) = cancel.run_until_cancelled(learning).await else {
            return;
        };
        tracing::info!(cluster = %installation.cluster_uid, network = installation.network, "controller starts");
        let (recorder, metrics, health) = (self.recorder.clone(), self.metrics.clone(), self.health.clone());
        let context = Context::new(self.client.clone(), installation, recorder, metrics, health);
        let watches = spawn_all(&context, pods_are_served);
        // Bound to a name, because the watches end with it.
        let Some(_watches) = cancel.run_until_cancelled(watches.listed()).await else { return };
        self.health.set(CACHES, Ok(()));
        self.metrics.look_at(Some(context.clone()));
        match self.options.election {
            None => {
                cancel.run_until_cancelled(Box::pin(serve_term(context, self.options.bind_claims))).await;
            }
            Some(terms) => {
                let (mut election, office) = Election::new(self.client.clone(), &host_name(), terms);
                let terms = serve_terms(office, || Box::pin(serve_term(context.clone(), self.options.bind_claims)));
                cancel.run_until_cancelled(async { tokio::join!(election.run(), terms) }).await;
                election.resign().await;
            }
        }
        self.metrics.look_at(None);
        self.health.set(CACHES, Err("not filled".to_owned()));
    }
}

/// Acts until it is dropped.
async fn serve_term(context: Context, binds_claims: bool) {
    let term = Term::begin(context);
    let binding = async {
        if binds_claims {
            binder::bind(term.0.clone()).await;
        }
    };
    tokio::join!(
        leases::watch_expiry(term.0.clone()),
        reconcile::work(term.0.clone()),
        joining::settle_requests(term.0.clone()),
        binding
    );
}

impl Term {
    fn begin(context: Context) -> Self {
        context.begin_term();
        context.metrics.terms.inc();
        context.metrics.leader.set(1);
        Self(context)
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.0.queue.close();
        self.0.metrics.leader.set(0);
    }
}

/// A token that lasts for as long as the kinds are ours; none once `cancel` is.
async fn while_ours(kinds: &mut Kinds, cancel: &CancellationToken) -> Option<CancellationToken> {
    let is_ours = |verdict: &Option<KindsVerdict>| *verdict == Some(KindsVerdict::Ours);
    let known = cancel.run_until_cancelled(kinds.wait_for(is_ours)).await?;
    drop(known.ok()?);
    let ours = cancel.child_token();
    let (token, mut changes) = (ours.clone(), kinds.clone());
    tokio::spawn(async move {
        token.run_until_cancelled(async { drop(changes.wait_for(|verdict| !is_ours(verdict)).await) }).await;
        token.cancel();
    });
    Some(ours)
}

/// For people: who holds the Lease.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

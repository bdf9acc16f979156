//! The agent's metrics and health, documented in `docs/metrics.md`. Labels come from bounded sets, and never name an object.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use telemetry::{ApiCalls, Health, ListenError, Server};
use tokio_util::sync::CancellationToken;

use crate::libvirt::Libvirt;
use crate::node::VmCache;

/// Seconds of a libvirt call: from a look at the daemon's memory to the longest deadline.
const CALL_BUCKETS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// Seconds of a full pass.
const PASS_BUCKETS: [f64; 7] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// A heartbeat older than this, and the controller takes the node for silent.
const SILENCE: Duration = Duration::from_secs(40);
/// Where images are, below the data directory.
const IMAGES: &str = "images/blobs";

type OneLabel = [(&'static str, &'static str); 1];
type TwoLabels = [(&'static str, &'static str); 2];
type Failure = [(&'static str, String); 2];

/// What the agent counts, and what it is asked at each scrape. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Whether its loops live, and whether it is ready.
    pub(crate) health: Health,
    pub(crate) libvirt: LibvirtCalls,
    pub(crate) passes: Counter,
    pub(crate) pass_seconds: Histogram,
    domains: Family<OneLabel, Gauge>,
    step_failures: Family<Failure, Counter>,
    vms: Family<OneLabel, Gauge>,
    parked: Gauge,
    image_bytes: Gauge,
    heartbeat_age: Gauge<f64, AtomicU64>,
    heartbeat: Arc<Mutex<Option<Instant>>>,
    source: Arc<Mutex<Option<Source>>>,
}

/// Counts calls to libvirt.
#[derive(Clone, Debug)]
pub struct LibvirtCalls {
    calls: Family<TwoLabels, Counter>,
    seconds: Family<OneLabel, Histogram>,
}

/// What a scrape looks at.
#[derive(Debug)]
struct Source {
    vms: VmCache,
    libvirt: Libvirt,
    data_dir: PathBuf,
}

impl Default for LibvirtCalls {
    fn default() -> Self {
        Self { calls: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)) }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            health: Health::default(),
            libvirt: LibvirtCalls::default(),
            passes: Counter::default(),
            pass_seconds: Histogram::new(PASS_BUCKETS),
            domains: Family::default(),
            step_failures: Family::default(),
            vms: Family::default(),
            parked: Gauge::default(),
            image_bytes: Gauge::default(),
            heartbeat_age: Gauge::default(),
            heartbeat: Arc::default(),
            source: Arc::default(),
        }
    }
}

impl LibvirtCalls {
    /// Notes one call.
    pub(crate) fn note(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        self.calls.get_or_create(&[("operation", operation), ("outcome", outcome)]).inc();
        self.seconds.get_or_create(&[("operation", operation)]).observe(took.as_secs_f64());
    }
}

impl Telemetry {
    /// Serves it, from the agent's start on.
    ///
    /// # Errors
    /// If the address is not this host's, or taken.
    pub async fn listen(
        &self,
        address: SocketAddr,
        api_calls: &ApiCalls,
        cancel: CancellationToken,
    ) -> Result<(), ListenError> {
        let mut registry = Registry::with_prefix("ovm_agent");
        self.register(&mut registry);
        api_calls.register(&mut registry);
        let refreshed = self.clone();
        Server::new(registry, self.health.clone(), move || refreshed.refresh()).listen(address, cancel).await?;
        Ok(())
    }

    /// The health that this is part of: of the agent, or of the process that it runs in.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The agent's part of readiness. From here on it is not ready until it has started, libvirt answers and the API server takes its Lease.
    pub fn look_after_readiness(&self) {
        let asked = self.clone();
        self.health.check("start", move || asked.lock().as_ref().map(drop).ok_or_else(|| "still under way".to_owned()));
        let asked = self.clone();
        self.health.check("libvirt", move || asked.libvirt_state());
        let asked = self.clone();
        self.health.check("API server", move || asked.api_state());
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("virtualmachines", "Objects bound to this node, by status.phase", self.vms.clone());
        registry.register("domains", "Domains of ours at the last full pass, by state", self.domains.clone());
        registry.register("libvirt_calls", "Calls to libvirt, by operation and outcome", self.libvirt.calls.clone());
        registry.register(
            "libvirt_call_duration_seconds",
            "Until the answer, or until nobody waited for it any more",
            self.libvirt.seconds.clone(),
        );
        registry.register("libvirt_parked_calls", "Calls unanswered past their deadline", self.parked.clone());
        registry.register("passes", "Full passes over the node", self.passes.clone());
        registry.register("pass_duration_seconds", "Time of such a pass", self.pass_seconds.clone());
        registry.register("step_failures", "Steps for guests that failed", self.step_failures.clone());
        registry.register("heartbeat_age_seconds", "Since the last successful heartbeat", self.heartbeat_age.clone());
        registry.register("image_store_bytes", "What the node's images take on disk", self.image_bytes.clone());
    }

    /// The agent has started: scrapes look at these from now on.
    pub(crate) fn look_at(&self, vms: VmCache, libvirt: Libvirt, data_dir: PathBuf) {
        *self.lock() = Some(Source { vms, libvirt, data_dir });
    }

    /// Our Lease was renewed.
    pub(crate) fn beat(&self) {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A step for a guest failed.
    pub(crate) fn step_failed(&self, step: &'static str, reason: &str) {
        self.step_failures.get_or_create(&[("step", step.to_owned()), ("reason", reason.to_owned())]).inc();
    }

    /// What a full pass found.
    pub(crate) fn surveyed(&self, active: usize, inactive: usize) {
        self.domains.get_or_create(&[("state", "active")]).set(count(active));
        self.domains.get_or_create(&[("state", "inactive")]).set(count(inactive));
    }

    fn refresh(&self) {
        if let Some(age) = self.silent_for() {
            self.heartbeat_age.set(age.as_secs_f64());
        }
        let source = self.lock();
        let Some(source) = source.as_ref() else { return };
        self.parked.set(count(source.libvirt.parked_calls()));
        let mut phases = BTreeMap::<_, usize>::new();
        for phase in source.vms.phases() {
            *phases.entry(phase.as_str()).or_default() += 1;
        }
        self.vms.clear();
        for (phase, number) in phases {
            self.vms.get_or_create(&[("phase", phase)]).set(count(number));
        }
        // A node has tens of images: one look at their folder.
        if let Ok(bytes) = bytes_in(&source.data_dir.join(IMAGES)) {
            self.image_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    fn libvirt_state(&self) -> Result<(), String> {
        match self.lock().as_ref() {
            Some(source) if !source.libvirt.is_connected() => Err("not connected".to_owned()),
            _ => Ok(()),
        }
    }

    fn api_state(&self) -> Result<(), String> {
        match self.silent_for() {
            None => Err("has not taken this node's Lease yet".to_owned()),
            Some(age) if age > SILENCE => Err(format!("has not taken this node's Lease for {} s", age.as_secs())),
            Some(_) => Ok(()),
        }
    }

    fn silent_for(&self) -> Option<Duration> {
        self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    /// A panic elsewhere leaves the value whole: it is used on.
    fn lock(&self) -> MutexGuard<'_, Option<Source>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the files of a folder take on disk; a sparse file takes less than its size.
fn bytes_in(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in folder.read_dir()? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn an_agent_is_ready_once_its_lease_is_taken() {
        let telemetry = Telemetry::default();
        assert!(telemetry.api_state().unwrap_err().contains("not taken"));
        telemetry.beat();
        assert_eq!(telemetry.api_state(), Ok(()));
    }

    #[test]
    fn metrics_have_their_documented_names() {
        let telemetry = Telemetry::default();
        telemetry.libvirt.note("start", "deadline", Duration::from_mins(1));
        telemetry.step_failed("Start", "StartFailed");
        telemetry.surveyed(3, 1);
        let mut registry = Registry::with_prefix("ovm_agent");
        telemetry.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "ovm_agent_libvirt_calls_total{operation=\"start\",outcome=\"deadline\"} 1",
            "ovm_agent_step_failures_total{step=\"Start\",reason=\"StartFailed\"} 1",
            "ovm_agent_domains{state=\"active\"} 3",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let documented = include_str!("../../docs/metrics.md");
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
            assert!(documented.contains(name), "{name} is not documented");
        }
    }

    #[test]
    fn images_are_measured_by_what_they_take() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), vec![1; 10_000]).unwrap();
        std::fs::File::create(folder.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        let bytes = bytes_in(folder.path()).unwrap();
        assert!((10_000..1 << 20).contains(&bytes), "{bytes}");
    }
}

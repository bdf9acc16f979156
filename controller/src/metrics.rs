//! The controller's metrics, documented in `docs/metrics.md`. Labels come from bounded sets, and never name an object.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::v1alpha1::Phase;
use plan::cluster::LeaseVerdict;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::context::Context;

/// Seconds of one pass: from nothing to do to a row of slow calls.
const BUCKETS: [f64; 8] = [0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0];
/// Words of `printableStatus` that are told apart. Conditions bring their reasons in, so the set is ours, but open.
const WORDS: usize = 32;
/// What the rest counts as.
const OTHER: &str = "other";

/// How one pass over a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing was left to do.
    Settled,
    /// A call failed, and is tried again.
    Retry,
    /// The objects changed faster than the pass.
    OutOfTurns,
}

type OneLabel = [(&'static str, &'static str); 1];
type OneWord = [(&'static str, String); 1];

/// What is counted as it happens, and what is looked up at each scrape. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    passes: Family<OneLabel, Counter>,
    pass_seconds: Histogram,
    pub(crate) leader: Gauge,
    pub(crate) terms: Counter,
    queue_depth: Gauge,
    queue_oldest: Gauge<f64, AtomicU64>,
    ovms: Family<OneWord, Gauge>,
    vms: Family<OneLabel, Gauge>,
    nodes: Family<OneLabel, Gauge>,
    /// What a scrape looks at; none until the caches are filled.
    source: Arc<Mutex<Option<Context>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            passes: Family::default(),
            pass_seconds: Histogram::new(BUCKETS),
            leader: Gauge::default(),
            terms: Counter::default(),
            queue_depth: Gauge::default(),
            queue_oldest: Gauge::default(),
            ovms: Family::default(),
            vms: Family::default(),
            nodes: Family::default(),
            source: Arc::default(),
        }
    }
}

impl Metrics {
    /// Names the metrics in a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", version);
        registry.register("reconcile", "Passes over one namespace and name, by outcome", self.passes.clone());
        registry.register("reconcile_duration_seconds", "Time of such a pass", self.pass_seconds.clone());
        registry.register("leader", "1 on the replica that acts", self.leader.clone());
        registry.register("leader_terms", "How often this replica began to lead", self.terms.clone());
        registry.register("queue_depth", "Keys that are due and not being worked on", self.queue_depth.clone());
        registry.register(
            "queue_oldest_seconds",
            "How long the oldest of them has been due",
            self.queue_oldest.clone(),
        );
        registry.register("offlinevirtualmachines", "Objects by status.printableStatus", self.ovms.clone());
        registry.register("virtualmachines", "Objects by status.phase", self.vms.clone());
        registry.register("node_leases", "Leases of nodes' agents, by what follows from them", self.nodes.clone());
    }

    /// Notes one pass.
    pub(crate) fn passed(&self, outcome: Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Settled => "settled",
            Outcome::Retry => "retry",
            Outcome::OutOfTurns => "out_of_turns",
        };
        self.passes.get_or_create(&[("outcome", outcome)]).inc();
        self.pass_seconds.observe(took.as_secs_f64());
    }

    /// From now on scrapes look at these caches, or at none.
    pub(crate) fn look_at(&self, source: Option<Context>) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// Looks at the caches, for one scrape.
    pub(crate) fn refresh(&self) {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(context) = source.as_ref() else { return };
        let backlog = context.queue.backlog();
        self.queue_depth.set(count(backlog.depth));
        self.queue_oldest.set(backlog.oldest.as_secs_f64());
        let monotonic = context.now().monotonic;
        let index = context.index();
        let (ovms, vms) = index.objects();
        set(
            &self.ovms,
            cap(tally(ovms.map(str::to_owned))).into_iter().map(|(word, count)| ([("status", word)], count)),
        );
        set(&self.vms, tally(vms.map(Phase::as_str)).into_iter().map(|(phase, count)| ([("phase", phase)], count)));
        let verdicts = index.leases().map(|(_, fact)| match fact.verdict(monotonic) {
            LeaseVerdict::Live => "live",
            LeaseVerdict::Unproven => "unproven",
            LeaseVerdict::Expired => "expired",
        });
        set(&self.nodes, tally(verdicts).into_iter().map(|(verdict, count)| ([("verdict", verdict)], count)));
    }
}

fn tally<T: Ord>(words: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

/// The most frequent words; the rest together.
fn cap(counts: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: usize = sorted.iter().skip(WORDS).map(|(_, count)| count).sum();
    sorted.truncate(WORDS);
    sorted.into_iter().chain((rest > 0).then(|| (OTHER.to_owned(), rest))).collect()
}

/// A family that has these values, and no others.
fn set<L>(family: &Family<L, Gauge>, values: impl Iterator<Item = (L, usize)>)
where
    L: Clone + std::hash::Hash + Eq,
{
    family.clear();
    for (labels, number) in values {
        family.get_or_create(&labels).set(count(number));
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bounded_and_none_is_lost() {
        let words =
            (0..100).map(|number| format!("Reason{number}")).chain(["Running".to_owned(), "Running".to_owned()]);
        let capped = cap(tally(words));
        assert_eq!(capped.len(), WORDS + 1);
        assert_eq!((capped["Running"], capped.values().sum::<usize>()), (2, 102));
    }
}

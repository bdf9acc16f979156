//! A NoExecute taint ends the guests that do not tolerate it (T1), as it ends pods:
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.
//!
//! Only where the node's agent lives, which then stops the guest in order. A silent node's guests are fencing's business alone (F1): the taints that
//! Kubernetes puts on a Node whose kubelet is silent, and the one that fences, end nobody.

use std::time::Duration;

use api::names::{HYPERVISOR_TAINT, OUT_OF_SERVICE_TAINT};
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::draft::{Draft, Need};
use super::objects::{bound_node, is_deleting, phase_of, version_of};
use super::placement::{taint_text, toleration};
use super::{LeaseVerdict, Next, Now, Operation, Step};

const NO_EXECUTE: &str = "NoExecute";
/// Taints that say that a kubelet is silent, that the node is off, or that pods keep away.
const IGNORED: [&str; 4] =
    [HYPERVISOR_TAINT, OUT_OF_SERVICE_TAINT, "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// A taint that may end guests, and since when this process has seen it. Kubernetes counts `tolerationSeconds` in the same way.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenTaint {
    /// The taint.
    pub taint: Taint,
    /// Monotonic time at which it was first seen.
    pub since: Duration,
}

/// What a node's taints mean for one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It stays.
    Stays,
    /// It goes in this time, unless the taint does.
    GoesIn(Duration),
    /// It goes. The text is the taint.
    Goes(String),
}

impl SeenTaint {
    /// The taints of a Node that may end guests; one that was there before keeps its time.
    pub fn of_node(taints: &[Taint], before: &[Self], monotonic: Duration) -> Vec<Self> {
        let counts = taints.iter().filter(|taint| taint.effect == NO_EXECUTE && !IGNORED.contains(&taint.key.as_str()));
        counts
            .map(|taint| {
                let same = |seen: &&Self| seen.taint.key == taint.key && seen.taint.value == taint.value;
                let since = before.iter().find(same).map_or(monotonic, |seen| seen.since);
                Self { taint: taint.clone(), since }
            })
            .collect()
    }

    /// What it means for a guest with these tolerations. The first that matches counts, as for pods.
    fn verdict(&self, now: Now, tolerations: &[Toleration]) -> Verdict {
        let Some(toleration) = toleration(&self.taint, tolerations) else {
            return Verdict::Goes(taint_text(&self.taint));
        };
        let Some(seconds) = toleration.toleration_seconds else { return Verdict::Stays };
        let tolerated = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        match self.since.saturating_add(tolerated).checked_sub(now.monotonic).filter(|left| !left.is_zero()) {
            Some(left) => Verdict::GoesIn(left),
            None => Verdict::Goes(taint_text(&self.taint)),
        }
    }
}

impl Draft<'_> {
    /// T1: the delete of a bound VM whose node has a taint that it does not, or no longer, tolerate. Its OVM makes another, which goes elsewhere.
    pub(super) fn plan_eviction(&mut self, vm: &VirtualMachine, ovm: Option<&OfflineVirtualMachine>) -> Option<Next> {
        let node = bound_node(vm)?;
        let home = self.home(node)?;
        let is_live = home.lease.verdict(self.now.monotonic) == LeaseVerdict::Live;
        if !is_live || is_deleting(&vm.metadata) || phase_of(vm).is_final() {
            return None;
        }
        let tolerations = vm.spec.tolerations.as_deref().unwrap_or_default();
        let mut taint = None;
        for seen in &home.no_execute {
            match seen.verdict(self.now, tolerations) {
                Verdict::Stays => {}
                Verdict::GoesIn(left) => self.requeue(left),
                Verdict::Goes(text) => taint = taint.or(Some(text)),
            }
        }
        let taint = taint?;
        if self.is_backing_off(Operation::Delete, ovm.and_then(|ovm| ovm.metadata.generation)) {
            return None;
        }
        let because = format!("node {node} has taint {taint}, which it does not tolerate");
        let step = Step::EvictVm { at: version_of(&vm.metadata), because: because.clone() };
        Some(self.act(&format!("T1: {because}: delete the VM"), step, &[Need::OvmAfterVm, Need::Home(node)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: Option<&str>, effect: &str) -> Taint {
        Taint { key: key.to_owned(), value: value.map(str::to_owned), effect: effect.to_owned(), time_added: None }
    }

    fn tolerates(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    #[test]
    fn only_no_execute_taints_of_people_count() {
        let mut taints: Vec<Taint> = IGNORED.iter().map(|key| taint(key, None, NO_EXECUTE)).collect();
        taints.push(taint("hot", Some("very"), NO_EXECUTE));
        taints.push(taint("full", None, "NoSchedule"));
        let seen = SeenTaint::of_node(&taints, &[], Duration::from_secs(7));
        assert_eq!(seen, [SeenTaint { taint: taint("hot", Some("very"), NO_EXECUTE), since: Duration::from_secs(7) }]);
    }

    #[test]
    fn a_taint_that_stays_keeps_its_time_and_another_value_is_another_taint() {
        let before = SeenTaint::of_node(&[taint("hot", Some("1"), NO_EXECUTE)], &[], Duration::from_secs(7));
        let since = |value: &str| {
            let seen = SeenTaint::of_node(&[taint("hot", Some(value), NO_EXECUTE)], &before, Duration::from_secs(9));
            seen.first().map(|seen| seen.since.as_secs())
        };
        assert_eq!((since("1"), since("2")), (Some(7), Some(9)));
    }

    #[test]
    fn toleration_seconds_are_counted_from_the_taint_s_first_sight() {
        let seen = SeenTaint { taint: taint("hot", Some("very"), NO_EXECUTE), since: Duration::from_secs(100) };
        let at =
            |seconds: u64, tolerations: &[Toleration]| seen.verdict(Now::at(Duration::from_secs(seconds)), tolerations);
        assert_eq!(at(100, &[]), Verdict::Goes("hot=very".to_owned()));
        assert_eq!(at(100, &[tolerates("cold", None)]), Verdict::Goes("hot=very".to_owned()));
        assert_eq!(at(9999, &[tolerates("hot", None)]), Verdict::Stays);
        assert_eq!(at(110, &[tolerates("hot", Some(30))]), Verdict::GoesIn(Duration::from_secs(20)));
        assert_eq!(at(130, &[tolerates("hot", Some(30))]), Verdict::Goes("hot=very".to_owned()));
        assert_eq!(at(100, &[tolerates("hot", Some(-1))]), Verdict::Goes("hot=very".to_owned()), "no time at all");
        assert!(matches!(at(100, &[tolerates("hot", Some(i64::MAX))]), Verdict::GoesIn(_)));
        let both = [tolerates("hot", Some(30)), tolerates("hot", None)];
        assert_eq!(at(110, &both), Verdict::GoesIn(Duration::from_secs(20)), "the first that matches counts");
    }
}

//! Taints and tolerations, as for pods: <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

use api::names::HYPERVISOR_TAINT;
use k8s_openapi::api::core::v1::{Taint, Toleration};

/// The first taint that keeps the guest away, as `key` or `key=value`. Ours, which keeps pods off a node without a kubelet, does not count.
pub(super) fn untolerated(taints: &[Taint], tolerations: &[Toleration]) -> Option<String> {
    let hard = taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let counts = hard.filter(|taint| taint.key != HYPERVISOR_TAINT);
    counts.filter(|taint| toleration(taint, tolerations).is_none()).map(taint_text).next()
}

/// A taint as `key` or `key=value`.
pub(in crate::cluster) fn taint_text(taint: &Taint) -> String {
    match taint.value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) => format!("{}={value}", taint.key),
        None => taint.key.clone(),
    }
}

/// How many taints only ask to keep away, and are not tolerated.
pub(super) fn untolerated_soft(taints: &[Taint], tolerations: &[Toleration]) -> usize {
    taints.iter().filter(|taint| taint.effect == "PreferNoSchedule" && toleration(taint, tolerations).is_none()).count()
}

/// The first toleration that matches a taint.
pub(in crate::cluster) fn toleration<'a>(taint: &Taint, tolerations: &'a [Toleration]) -> Option<&'a Toleration> {
    tolerations.iter().find(|toleration| {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let effect = text(&toleration.effect);
        let key = text(&toleration.key);
        let operator = text(&toleration.operator);
        let value = match operator.as_str() {
            "Exists" => true,
            "" | "Equal" => text(&toleration.value) == text(&taint.value),
            _ => false,
        };
        // An empty key tolerates every taint, but only with Exists.
        let key = if key.is_empty() { operator == "Exists" } else { key == taint.key };
        key && value && (effect.is_empty() || effect == taint.effect)
    })
}

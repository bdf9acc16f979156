//! Back-off between starts of a guest that does not stay up.
//!
//! Only a guest that never reached Running, or ended within ten seconds of it, counts; each VM at most once. A guest that has run for ten
//! seconds, and `running: false`, end the series.

use std::time::Duration;

use api::v1alpha1::{OfflineVirtualMachine, Phase, StartFailure, VirtualMachine};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::objects::{entered, is_deleting, phase_of, uid_of};

/// A guest that ran for this long has started.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Delay after the first failure; it doubles with each further one.
const FIRST_DELAY_SECONDS: u64 = 10;
/// Longest delay.
const LONGEST_DELAY_SECONDS: u64 = 300;

/// `status.startFailure` as it follows from the OVM and its VM.
pub(super) fn next(ovm: &OfflineVirtualMachine, vm: Option<&VirtualMachine>, now: Timestamp) -> Option<StartFailure> {
    if !ovm.spec.running {
        return None;
    }
    let current = current(ovm);
    let Some(vm) = vm else { return current.cloned() };
    let phase = phase_of(vm);
    if ran_for(vm, now).is_some_and(|ran| ran >= SETTLED_AFTER) {
        return None;
    }
    let uid = uid_of(&vm.metadata);
    let counted = current.is_some_and(|failure| failure.last_failed_vm_uid.as_deref() == Some(uid));
    if !phase.is_final() || is_deleting(&vm.metadata) || counted {
        return current.cloned();
    }
    let count = current.map_or(0, |failure| failure.consecutive_fail_count).saturating_add(1);
    Some(StartFailure {
        consecutive_fail_count: count,
        last_failed_vm_uid: Some(uid.to_owned()),
        retry_after_timestamp: Some(Time(now.saturating_add(delay(count)).unwrap_or(now))),
    })
}

/// How long to wait before the next VM is created. Never longer than the delay itself, should the clock have gone back: where it went back so far that looking
/// again would find the same, the wait is over.
pub(super) fn retry_in(ovm: &OfflineVirtualMachine, now: Timestamp) -> Option<Duration> {
    let failure = current(ovm)?;
    let left = Duration::try_from(failure.retry_after_timestamp.as_ref()?.0.duration_since(now)).ok()?;
    let delay = delay(failure.consecutive_fail_count);
    Some(left).filter(|left| !left.is_zero() && *left <= delay * 2).map(|left| left.min(delay))
}

/// While a series of failures stands: how long until the running guest ends it.
pub(super) fn young_for(ovm: &OfflineVirtualMachine, vm: &VirtualMachine, now: Timestamp) -> Option<Duration> {
    current(ovm)?;
    SETTLED_AFTER.checked_sub(ran_for(vm, now)?).filter(|left| !left.is_zero())
}

fn current(ovm: &OfflineVirtualMachine) -> Option<&StartFailure> {
    ovm.status.as_ref()?.start_failure.as_ref()
}

/// How long the guest has run, or did; none if it never did.
fn ran_for(vm: &VirtualMachine, now: Timestamp) -> Option<Duration> {
    let start = entered(vm, Phase::Running)?;
    let end = entered(vm, Phase::Succeeded).or_else(|| entered(vm, Phase::Failed)).unwrap_or(now);
    Some(Duration::try_from(end.duration_since(start)).unwrap_or_default())
}

fn delay(count: u32) -> Duration {
    let doubled = 1_u64
        .checked_shl(count.saturating_sub(1))
        .map_or(u64::MAX, |factor| factor.saturating_mul(FIRST_DELAY_SECONDS));
    Duration::from_secs(doubled.min(LONGEST_DELAY_SECONDS))
}

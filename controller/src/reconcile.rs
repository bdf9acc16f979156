//! The loop of one key: observe, plan, carry out, until the plan rests.

use api::chain;
use std::sync::Arc;
use std::time::Duration;

use events::{EventType, Notice, reference};
use plan::cluster::{
    AbiRevision, Claim, Look, Next, ObjectKey, Operation, ReadOrder, Step, StepFailure, event_for, plan, retry_delay,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::apply::{Answer, ApplyError, apply};
use crate::context::Context;
use crate::error::api_message;
use crate::metrics::Outcome;
use crate::observe::{Observation, observe_cached, observe_look};

/// Keys that are worked on at once. More would only wait for the API server.
const WORKERS: usize = 16;
/// Turns of one pass. A pass needs ten at most; more means that somebody writes against us, and others should get their turn.
const TURNS: u32 = 24;
/// When a pass that ran out of turns goes on.
const BREATH: Duration = Duration::from_secs(1);
/// All workers busy for this long are stuck: each of their calls has a deadline.
const STUCK: Duration = Duration::from_mins(5);

/// Works on keys as they become due, until it is dropped; then the passes end where they are.
pub(crate) async fn work(context: Context) {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let mut passes = JoinSet::new();
    let alive = context.health.watch_loop("reconcile", STUCK);
    loop {
        alive.busy();
        let Ok(permit) = Arc::clone(&workers).acquire_owned().await else { return };
        alive.idle();
        let key = context.queue.next().await;
        while passes.try_join_next().is_some() {}
        let context = context.clone();
        passes.spawn(async move {
            let span = tracing::info_span!("reconcile", namespace = key.namespace, name = key.name);
            let begun = Instant::now();
            let (outcome, again) = reconcile(&context, &key).instrument(span).await;
            context.metrics.passed(outcome, begun.elapsed());
            context.queue.finish(key, again);
            drop(permit);
        });
    }
}

/// One pass over one key. When to look again although nothing changed.
async fn reconcile(context: &Context, key: &ObjectKey) -> (Outcome, Option<Duration>) {
    let mut observation = observe_cached(context, key);
    for _ in 0..TURNS {
        let plan = plan(context.now(), &observation.observed);
        tracing::debug!(next = ?plan.next, report = %plan.report);
        let look = match plan.next {
            Next::Rest => {
                settle(context, key, &observation);
                return (Outcome::Settled, plan.requeue);
            }
            Next::Look(look) => look,
            Next::Act(step) => match carry_out(context, &mut observation, &step).await {
                Turn::Folded => continue,
                Turn::LookAgain => Look::default(),
                Turn::Retry(delay) => return (Outcome::Retry, Some(delay)),
            },
        };
        observation = match observe_look(context, key, &look, observation).await {
            Ok(observation) => observation,
            Err(error) => return (Outcome::Retry, Some(note_trouble(context, key, &chain(&error)))),
        };
    }
    tracing::warn!("the objects keep changing under this controller");
    (Outcome::OutOfTurns, Some(BREATH))
}

/// What follows a step.
enum Turn {
    /// The observation holds its answer, or that it failed, or what kept it from being made.
    Folded,
    /// What was observed is out of date.
    LookAgain,
    /// It failed.
    Retry(Duration),
}

async fn carry_out(context: &Context, observation: &mut Observation, step: &Step) -> Turn {
    let claim = claim_of(step);
    let key = observation.observed.key.clone();
    if claim.is_some_and(|claim| !context.index().claim(&key, claim.clone(), observation.claims)) {
        // Others were promised room meanwhile. The objects are as they were: only the places are looked at again.
        observation.look_at_places(context);
        return Turn::Folded;
    }
    let applied = apply(&context.client, &observation.observed, step).await;
    if let (Err(_), Some(claim)) = (&applied, claim) {
        context.index().unclaim(&key, &claim.vm_uid);
    }
    match applied {
        Ok(answer) => {
            publish(context, observation, step, Ok(()));
            fold(context, observation, step, answer);
            if matches!(step, Step::CreateVm(_)) {
                // Which claims it names was not known before it was there.
                observation.look_at_places(context);
            }
            Turn::Folded
        }
        Err(ApplyError::Stale) => Turn::LookAgain,
        Err(ApplyError::Failed(error)) => {
            let message = api_message(&error);
            publish(context, observation, step, Err(&message));
            let delay = note_trouble(context, &observation.observed.key, &message);
            match step.operation() {
                Some(operation) => {
                    observation.observed.failure = Some(note_failure(context, observation, operation, message));
                    Turn::Folded
                }
                None => Turn::Retry(delay),
            }
        }
    }
}

/// Takes an answer into the observation and the caches.
fn fold(context: &Context, observation: &mut Observation, step: &Step, answer: Answer) {
    let observed = &mut observation.observed;
    match answer {
        Answer::Vm(vm) => {
            if let Some(vm) = &vm {
                context.index().put_vm(vm);
            }
            observed.vm_written(vm);
        }
        Answer::Ovm(ovm) => {
            if let Some(ovm) = &ovm {
                context.index().put_ovm(ovm);
            }
            observed.ovm_written(ovm);
        }
        Answer::Deleted => observed.order = ReadOrder::CACHED,
        Answer::Revision(revision) => {
            if let Some(revision) = AbiRevision::from_object(&observed.key.name, &revision) {
                observed.revision_written(revision);
            }
        }
        Answer::RevisionDeleted(name) => observed.revision_deleted(&name),
    }
    if step.operation().is_some() {
        observed.failure = None;
        if let Some(trouble) = context.troubles().get_mut(&observed.key) {
            trouble.step = None;
        }
    }
}

fn claim_of(step: &Step) -> Option<&Claim> {
    match step {
        Step::WriteVmStatus { claim, .. } | Step::WriteOvmStatus { claim, .. } => claim.as_ref(),
        Step::CreateVm(_)
        | Step::DeleteVm(_)
        | Step::EvictVm { .. }
        | Step::EditVm(..)
        | Step::EditOvm(..)
        | Step::CreateRevision(_)
        | Step::EditRevision { .. }
        | Step::DeleteRevision { .. } => None,
    }
}

/// Records the event that a step is worth.
fn publish(context: &Context, observation: &Observation, step: &Step, outcome: Result<(), &str>) {
    let observed = &observation.observed;
    let Some(note) = event_for(step, observed, outcome) else { return };
    let about = if note.on_vm { observed.vm.as_deref().map(reference) } else { observed.ovm.as_deref().map(reference) };
    let Some(about) = about else { return };
    if note.warning {
        tracing::error!(reason = note.reason, "{}", note.message);
    } else {
        tracing::info!(reason = note.reason, "{}", note.message);
    }
    let type_ = if note.warning { EventType::Warning } else { EventType::Normal };
    context.recorder.record(Notice { about, type_, reason: note.reason.to_owned(), message: note.message });
}

/// Notes a failed call. The delay until the next try.
fn note_trouble(context: &Context, key: &ObjectKey, message: &str) -> Duration {
    let mut troubles = context.troubles();
    let trouble = troubles.entry(key.clone()).or_default();
    trouble.attempts = trouble.attempts.saturating_add(1);
    let delay = retry_delay(trouble.attempts);
    tracing::warn!(error = message, attempts = trouble.attempts, ?delay, "will be tried again");
    delay
}

/// Notes a failed create or delete, for the next plans.
fn note_failure(context: &Context, observation: &Observation, operation: Operation, error: String) -> StepFailure {
    let observed = &observation.observed;
    let earlier = observed.failure.as_ref().filter(|earlier| earlier.operation == operation);
    let failure = StepFailure {
        operation,
        error,
        attempts: earlier.map_or(0, |earlier| earlier.attempts).saturating_add(1),
        at: context.now().monotonic,
        generation: observed.ovm.as_ref().and_then(|ovm| ovm.metadata.generation),
    };
    context.troubles().entry(observed.key.clone()).or_default().step = Some(failure.clone());
    failure
}

/// A pass that rests ends a row of failed calls. What is known of a failed create or delete stays while there is an OVM to say it on.
fn settle(context: &Context, key: &ObjectKey, observation: &Observation) {
    let mut troubles = context.troubles();
    if let Some(trouble) = troubles.get_mut(key) {
        trouble.attempts = 0;
        if trouble.step.is_none() || observation.observed.ovm.is_none() {
            troubles.remove(key);
        }
    }
}

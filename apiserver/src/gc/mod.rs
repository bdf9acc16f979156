//! Garbage collection: dependents of owners that are gone, foreground and orphan deletion, emptying of namespaces.
//!
//! It hears of every committed change and looks at what the change may have made collectable; after a restart it looks
//! at everything once. What it does are ordinary deletes and updates with preconditions, so doing it twice does no harm.
//!
//! | an object | is |
//! |---|---|
//! | whose owners are all gone | deleted |
//! | with owners that are gone and owners that live | rid of the references to the former |
//! | with finalizer `orphan`, being deleted | released once no dependent names it |
//! | with finalizer `foregroundDeletion`, being deleted | released once no blocking dependent is left |

mod namespace;
mod owners;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::server::Core;
use crate::status::{ApiError, chain};
use crate::store::{Change, ChangeKind};

use queue::{Queue, Work};

/// How long failed work waits: a full disk does not get better by asking at once.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How long work waits that met a conflict: most are over at once, some as long as other objects are there.
const CONFLICT_DELAY: Duration = Duration::from_millis(200);

/// Collects until shutdown.
pub(crate) async fn run(core: Arc<Core>, mut changes: UnboundedReceiver<Change>) {
    let mut queue = Queue::default();
    match core.store.collectable().await {
        Ok(uids) => uids.into_iter().for_each(|uid| queue.push(Work::Object(uid))),
        Err(error) => tracing::error!(error = %chain(&error), "cannot look for garbage of the last run"),
    }
    loop {
        while let Ok(change) = changes.try_recv() {
            plan(&mut queue, change);
        }
        let Some(work) = queue.pop() else {
            tokio::select! {
                () = core.shutdown.cancelled() => return,
                change = changes.recv() => match change {
                    Some(change) => plan(&mut queue, change),
                    None => return,
                },
                () = queue.wait_for_retry() => {}
            }
            continue;
        };
        if core.shutdown.is_cancelled() {
            return;
        }
        match execute(&core, &mut queue, &work).await {
            Ok(()) => {}
            // Somebody else wrote in between, or something is in the way: look again at what is there then.
            Err(error) if error.code == StatusCode::CONFLICT => queue.retry(work, CONFLICT_DELAY),
            Err(error) => {
                tracing::warn!(?work, %error, "garbage collection failed, will try again");
                queue.retry(work, RETRY_DELAY);
            }
        }
    }
}

/// What a change makes worth a look.
fn plan(queue: &mut Queue, change: Change) {
    match change.what {
        ChangeKind::Written { owners_changed, deleting } => {
            if owners_changed || deleting {
                queue.push(Work::Object(change.uid));
            }
        }
        ChangeKind::Gone => {
            queue.push(Work::Dependents(change.uid));
            if queue.is_terminating(&change.key.namespace) {
                queue.push(Work::Namespace(change.key.namespace));
            }
        }
    }
    // An owner may have waited for exactly this.
    for owner in change.former_owners {
        queue.push(Work::Object(owner));
    }
}

async fn execute(core: &Arc<Core>, queue: &mut Queue, work: &Work) -> Result<(), ApiError> {
    match work {
        Work::Object(uid) => owners::collect(core, queue, uid).await,
        Work::Dependents(uid) => {
            for (_, dependent) in core.store.dependents(uid).await? {
                if let Ok(object) = crate::object::Object::parse(&dependent.json) {
                    queue.push(Work::Object(object.uid().to_owned()));
                }
            }
            Ok(())
        }
        Work::Namespace(name) => namespace::empty(core, queue, name).await,
    }
}

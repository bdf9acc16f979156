//! All pulls of this node: one for each image, however many wait for it.
//!
//! Whoever wants an image asks the registry what its name means, with their own credentials; only then they share what is there, or on its way. A pull that
//! nobody waits for any more is cancelled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jiff::Timestamp;
use plan::node::{ImageCopy, NamedImage};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::error::StoreError;
use super::index::{Blob, Digest, Image, Pulled};
use super::inspect::Inspect;
use super::name::ImageName;
use super::pull::{Progress, PullError, PullRequest, PullSettings, pull};
use super::store::ImageStore;
use crate::registry::{PullSecrets, Registry};

/// Pulls from one registry at a time: a slow one keeps its own images waiting, and nobody else's.
const PULLS_PER_REGISTRY: usize = 3;
/// Pulls at a time in all: one registry has many names. Each has a thread, and memory to unpack.
const PULLS_PER_NODE: usize = 12;

/// Pulls images into a store.
pub struct Puller {
    store: Arc<ImageStore>,
    inspect: Arc<dyn Inspect>,
    settings: PullSettings,
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By registry with repository, and what is pulled from there: another server that names the same digest is another pull.
    flights: BTreeMap<(String, Digest), Weak<Flight>>,
    /// By registry.
    turns: BTreeMap<String, Arc<Semaphore>>,
}

type Outcome = Option<Result<(), Arc<PullError>>>;

/// One pull, and those who wait for it. Ends with the last of them.
struct Flight {
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Outcome>,
    _task: AbortOnDropHandle<()>,
}

/// How an image came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// What it is at its registry.
    pub manifest: Digest,
    /// It was pulled just now, by this call or one that it joined.
    pub is_new: bool,
    /// The registry did not answer, and what was pulled before is good enough.
    pub is_stale: bool,
}

/// What is known of an image that a VM names `name`; `image` is what the store has under that name.
pub fn named_image(name: &ImageName, image: Option<&Image>) -> NamedImage {
    let copy = |image: &Image| match &image.pulled {
        None => ImageCopy::Imported,
        Some(pulled) => ImageCopy::Pulled { with_credentials: pulled.with_credentials },
    };
    NamedImage { is_floating: name.is_floating(), copy: image.map(copy) }
}

impl Puller {
    /// Pulls into `store`, by these settings; disks are looked at by `inspect`.
    pub fn new(store: Arc<ImageStore>, inspect: Arc<dyn Inspect>, settings: PullSettings) -> Self {
        let turns = Arc::new(Semaphore::new(PULLS_PER_NODE));
        Self { store, inspect, settings, turns, state: Mutex::default() }
    }

    /// Sees to it that the store has what `name` means at its registry now.
    ///
    /// # Errors
    /// If the registry does not say or does not give it, or it is refused, or does not fit.
    pub async fn fetch(
        &self,
        name: &ImageName,
        secrets: &PullSecrets,
        progress: &watch::Sender<Progress>,
    ) -> Result<Fetched, Arc<PullError>> {
        let asked = Timestamp::now();
        let registry = Registry::open(&self.settings.registries_dir, name, secrets).map_err(failed)?;
        let resolved = match registry.resolve().await {
            Ok(resolved) => resolved,
            Err(error) if error.is_transient() => {
                let (known, copy) = self.look(name).await?;
                let manifest = copy.filter(|_| known.does_without_answer()).map(|pulled| pulled.manifest);
                let manifest = manifest.ok_or_else(|| failed(error))?;
                return Ok(Fetched { manifest, is_new: false, is_stale: true });
            }
            Err(error) => return Err(failed(error)),
        };
        let pulled = Pulled { manifest: resolved.digest, with_credentials: resolved.with_credentials };
        let fetched = |is_new| Fetched { manifest: pulled.manifest.clone(), is_new, is_stale: false };
        if self.name_pulled(name, &pulled, asked).await?.is_some() {
            return Ok(fetched(false));
        }
        let flight = self.join(name, registry, &pulled, asked);
        flight.wait(progress).await?;
        // The one who began it had another name for it, perhaps.
        match self.name_pulled(name, &pulled, asked).await? {
            Some(_) => Ok(fetched(true)),
            None => Err(failed(StoreError::NotFound(name.clone()))),
        }
    }

    /// The pull of this image: the one under way, or a new one.
    fn join(&self, name: &ImageName, registry: Registry, pulled: &Pulled, asked: Timestamp) -> Arc<Flight> {
        let mut state = self.lock();
        state.flights.retain(|_, flight| flight.strong_count() > 0);
        state.turns.retain(|_, turns| Arc::strong_count(turns) > 1);
        let what = (name.source().to_owned(), pulled.manifest.clone());
        let known = state.flights.get(&what).and_then(Weak::upgrade);
        if let Some(flight) = known.filter(|flight| flight.outcome.borrow().is_none()) {
            return flight;
        }
        let new_turns = || Arc::new(Semaphore::new(PULLS_PER_REGISTRY));
        let turns = Arc::clone(state.turns.entry(name.host().to_owned()).or_insert_with(new_turns));
        let (store, inspect) = (Arc::clone(&self.store), Arc::clone(&self.inspect));
        let limit_bytes = self.settings.limit_bytes;
        let request = PullRequest { name: name.clone(), pulled: pulled.clone(), asked, limit_bytes };
        let all_turns = Arc::clone(&self.turns);
        let (tell_progress, progress) = watch::channel(Progress::default());
        let (tell_outcome, outcome) = watch::channel(None);
        let task = tokio::spawn(async move {
            // Never closed.
            let _turn = turns.acquire_owned().await;
            let _turn_of_node = all_turns.acquire_owned().await;
            let result = pull(Arc::new(registry), store, inspect, request, tell_progress).await;
            tell_outcome.send_replace(Some(result.map(drop).map_err(Arc::new)));
        });
        let flight = Arc::new(Flight { progress, outcome, _task: AbortOnDropHandle::new(task) });
        state.flights.insert(what, Arc::downgrade(&flight));
        flight
    }

    /// What is known of the image of this name now, and what it was pulled as.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn look(&self, name: &ImageName) -> Result<(NamedImage, Option<Pulled>), Arc<PullError>> {
        let (store, sought) = (Arc::clone(&self.store), name.clone());
        let found = crate::blocking::blocking(move || store.find(&sought)).await.map_err(failed)?;
        Ok((named_image(name, found.as_ref()), found.and_then(|image| image.pulled)))
    }

    async fn name_pulled(
        &self,
        name: &ImageName,
        pulled: &Pulled,
        asked: Timestamp,
    ) -> Result<Option<Blob>, Arc<PullError>> {
        let (store, name, pulled) = (Arc::clone(&self.store), name.clone(), pulled.clone());
        crate::blocking::blocking(move || store.name_pulled(&name, &pulled, asked)).await.map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Waits for its end, and passes its progress on.
    async fn wait(&self, told: &watch::Sender<Progress>) -> Result<(), Arc<PullError>> {
        let (mut progress, mut outcome) = (self.progress.clone(), self.outcome.clone());
        let pass_on = async {
            loop {
                told.send_replace(progress.borrow_and_update().clone());
                if progress.changed().await.is_err() {
                    // The end is told by the other channel.
                    std::future::pending::<()>().await;
                }
            }
        };
        let end = async {
            let ended = outcome.wait_for(Option::is_some).await;
            // The task tells before it ends, but for a panic, which ends the program.
            ended.ok().and_then(|outcome| outcome.clone()).unwrap_or(Ok(()))
        };
        tokio::select! {
            result = end => result,
            () = pass_on => Ok(()),
        }
    }
}

fn failed(error: impl Into<PullError>) -> Arc<PullError> {
    Arc::new(error.into())
}

#[cfg(test)]
mod tests;

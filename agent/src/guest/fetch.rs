//! The images of one VM on their way to the node: begun by a step, watched by its worker, and given up when it is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::validated::{ValidatedSpec, VolumeSource};
use jiff::Timestamp;
use plan::node::{FetchState, GuestKey};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::disks::DiskTrouble;
use crate::images::{Fetched, ImageName, Progress, Puller};
use crate::objects::UserDataSource;
use crate::registry::PullSecrets;
use api::chain;

/// Steps in which progress is told: each is a write of the status and an event.
const STEPS: u64 = 4;
/// Below this a layer is told of once.
const WORTH_STEPS_BYTES: u64 = 64 << 20;
/// Enough of a digest to tell two apart.
const SHOWN_DIGEST_DIGITS: usize = 12;

/// Images on their way. Dropping it gives them up.
#[derive(Debug)]
pub struct Fetch {
    state: watch::Receiver<Result<FetchState, DiskTrouble>>,
    _task: Option<AbortOnDropHandle<()>>,
}

/// An image that a volume needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedImage {
    volume: String,
    image: String,
    pull_secret: Option<String>,
}

/// Where the pull secrets of one VM come from.
pub(super) struct SecretsOfVm {
    pub(super) source: Arc<dyn UserDataSource>,
    pub(super) key: GuestKey,
    pub(super) uid: Uuid,
}

/// The images of a spec, in its order.
pub(super) fn wanted_images(spec: &ValidatedSpec) -> Vec<WantedImage> {
    let wanted = |volume: &api::validated::ValidatedVolume| match &volume.source {
        VolumeSource::RegistryDisk { image, image_pull_secret } => Some(WantedImage {
            volume: volume.name.clone(),
            image: image.clone(),
            pull_secret: image_pull_secret.clone(),
        }),
        _ => None,
    };
    spec.volumes.iter().filter_map(wanted).collect()
}

impl Fetch {
    /// One that has come to its end.
    pub fn ended(state: Result<FetchState, DiskTrouble>) -> Self {
        Self { state: watch::channel(state).1, _task: None }
    }

    pub(super) fn begin(
        puller: Arc<Puller>,
        secrets: SecretsOfVm,
        wanted: Vec<WantedImage>,
        wake: Arc<Notify>,
    ) -> Self {
        let begun = wanted.first().map_or(FetchState::Fetched(Vec::new()), asking);
        let (tell, state) = watch::channel(Ok(begun));
        let task = tokio::spawn(async move {
            let tell_state = |state| {
                drop(tell.send_replace(Ok(state)));
                wake.notify_one();
            };
            let result = fetch_all(&puller, &secrets, &wanted, tell_state).await;
            drop(tell.send_replace(result.map(FetchState::Fetched)));
            wake.notify_one();
        });
        Self { state, _task: Some(AbortOnDropHandle::new(task)) }
    }

    /// How far it is.
    ///
    /// # Errors
    /// Why it failed.
    pub fn state(&self) -> Result<FetchState, DiskTrouble> {
        self.state.borrow().clone()
    }
}

/// The state until its registry has answered.
fn asking(wanted: &WantedImage) -> FetchState {
    let WantedImage { volume, image, .. } = wanted;
    FetchState::Asking {
        since: Timestamp::now(),
        message: format!("volume {volume}: image {image}: waiting for its registry"),
    }
}

async fn fetch_all(
    puller: &Puller,
    secrets: &SecretsOfVm,
    wanted: &[WantedImage],
    tell: impl Fn(FetchState),
) -> Result<Vec<String>, DiskTrouble> {
    let mut told = Vec::new();
    for image in wanted {
        tell(asking(image));
        told.extend(fetch_one(puller, secrets, image, &tell).await?);
    }
    Ok(told)
}

/// Fetches one image; says so, if it was pulled.
async fn fetch_one(
    puller: &Puller,
    secrets: &SecretsOfVm,
    wanted: &WantedImage,
    tell: impl Fn(FetchState),
) -> Result<Option<String>, DiskTrouble> {
    let trouble = |reason, message: String| DiskTrouble {
        reason,
        message: format!("volume {}: image {}: {message}", wanted.volume, wanted.image),
    };
    let name: ImageName = wanted.image.parse().map_err(|error| trouble("InvalidImageName", chain(&error)))?;
    // Of several images only one may have been missing, or an administrator has imported it since.
    let (known, _) = puller.look(&name).await.map_err(|error| trouble(error.reason(), chain(&*error)))?;
    if !known.needs_registry() {
        return Ok(None);
    }
    let secrets = match &wanted.pull_secret {
        None => PullSecrets::default(),
        Some(secret) => read_secret(secrets, secret).await.map_err(|(reason, message)| trouble(reason, message))?,
    };
    let begun = Instant::now();
    let (tell_progress, mut progress) = watch::channel(Progress::default());
    let watched = async {
        let mut last = String::new();
        while progress.changed().await.is_ok() {
            let message = in_words(wanted, &progress.borrow_and_update());
            if let Some(message) = message.filter(|message| *message != last) {
                last.clone_from(&message);
                tell(FetchState::Pulling(message));
            }
        }
        std::future::pending::<()>().await;
    };
    let fetched = tokio::select! {
        fetched = puller.fetch(&name, &secrets, &tell_progress) => fetched,
        () = watched => return Ok(None),
    };
    let fetched = fetched.map_err(|error| {
        let fix = if error.is_mended_by_import() {
            format!("; or import it on this node: ovm-agent image import {name} FILE")
        } else {
            String::new()
        };
        trouble(error.reason(), format!("{}{fix}", chain(&*error)))
    })?;
    Ok(outcome_in_words(wanted, &fetched, begun.elapsed()))
}

/// The credentials in a pull secret, for the controller to read: agents have no right to Secrets.
async fn read_secret(secrets: &SecretsOfVm, name: &str) -> Result<PullSecrets, (&'static str, String)> {
    let read = secrets.source.read_pull_secrets(&secrets.key, secrets.uid).await;
    let mut found = read.map_err(|error| (error.reason(), format!("pull secret {name:?}: {}", chain(&error))))?;
    let bytes = found.remove(name).ok_or_else(|| {
        let message = format!("pull secret {name:?} with key .dockerconfigjson is not in the guest's namespace; create it there: kubectl create secret docker-registry {name}");
        ("SecretMissing", message)
    })?;
    PullSecrets::from_docker_config(&bytes).map_err(|error| ("PullSecretInvalid", format!("secret {name:?}: {error}")))
}

fn in_words(wanted: &WantedImage, progress: &Progress) -> Option<String> {
    let layer = progress.layer.as_ref()?;
    let digest: String = layer.hex().chars().take(SHOWN_DIGEST_DIGITS).collect();
    let size = crate::images::size(progress.layer_bytes);
    let how_far = if progress.layer_bytes < WORTH_STEPS_BYTES {
        String::new()
    } else {
        let step = progress.read_bytes.saturating_mul(STEPS) / progress.layer_bytes;
        format!(", {}%", step * 100 / STEPS)
    };
    Some(format!("volume {}: pulling image {}: layer {digest} of {size}{how_far}", wanted.volume, wanted.image))
}

fn outcome_in_words(wanted: &WantedImage, fetched: &Fetched, took: Duration) -> Option<String> {
    let WantedImage { image, .. } = wanted;
    if fetched.is_stale {
        return Some(format!(
            "image {image}: its registry does not answer; the copy of this node is used, {}",
            fetched.manifest
        ));
    }
    fetched.is_new.then(|| format!("pulled image {image} in {:.1} s: {}", took.as_secs_f64(), fetched.manifest))
}

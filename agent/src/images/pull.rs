//! One image, from its registry into the store.
//!
//! ```text
//! registry (async) ──pieces──► channel ──► layer::extract ─► DiskWriter ─► incoming/… ─► header looked at ─► synced ─► blobs/…, named
//! ```
//!
//! The disk has no name before every digest was checked, its header was looked at, and all of it is on disk.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::error::StoreError;
use super::format::{DetectedFormat, DiskFormat};
use super::incoming::{DiskWriter, Incoming};
use super::index::{Blob, Digest, Pulled};
use super::inspect::{Inspect, InspectError};
use super::name::ImageName;
use super::store::ImageStore;
use crate::hostfs::FileError;
use crate::layer::{DiskName, Hidden, LayerError, LayerRules, extract, read_filled};
use crate::registry::{BlobStream, Descriptor, ImageManifest, Registry, RegistryError};

/// Pieces between network and disk: some hundred KiB.
const CHANNEL_PIECES: usize = 16;
/// For what a layer holds beside the disk.
const BESIDE_DISK_BYTES: u64 = 1 << 30;
/// Who watches is told so often.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// What every pull on this node goes by.
#[derive(Clone, Debug)]
pub struct PullSettings {
    /// Where registries are configured.
    pub registries_dir: PathBuf,
    /// The largest disk that a guest may see, in bytes.
    pub limit_bytes: u64,
}

impl PullSettings {
    /// The largest disk unless somebody says otherwise: 1 TiB.
    pub const DEFAULT_LIMIT_BYTES: u64 = 1 << 40;
    /// The same as Kubernetes writes a size, for a flag's default.
    pub const DEFAULT_LIMIT: &str = "1Ti";
}

/// How far a pull has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The layer that is read; none before its manifest was.
    pub layer: Option<Digest>,
    /// Bytes of it that have come.
    pub read_bytes: u64,
    /// Bytes that it has.
    pub layer_bytes: u64,
}

/// Why an image was not pulled. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry was of no help.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer is refused.
    #[error("layer {layer}")]
    Layer {
        /// Digest of the layer.
        layer: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// No layer holds a disk.
    #[error("it holds no disk: KubeVirt's images have one file /disk/NAME.img, .qcow2 or .raw")]
    NoDisk,
    /// A layer alone is more than a disk may be.
    #[error("layer {layer} has {bytes} bytes, more than --image-size-limit allows ({limit_bytes})")]
    LayerTooLarge {
        /// Digest of the layer.
        layer: Digest,
        /// Its size.
        bytes: u64,
        /// What it may have.
        limit_bytes: u64,
    },
    /// The disk cannot be used.
    #[error("its disk is refused")]
    Disk(#[source] InspectError),
    /// The disk is not what its name says.
    #[error("its disk is named .{named} and is {found}")]
    Misnamed {
        /// What the name ends in.
        named: &'static str,
        /// What it is.
        found: DiskFormat,
    },
    /// The guest would see more than it may.
    #[error("its disk has {bytes} bytes, more than --image-size-limit allows ({limit_bytes})")]
    DiskTooLarge {
        /// What the guest would see.
        bytes: u64,
        /// What it may see.
        limit_bytes: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullError {
    /// One word for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Registry(error) => error.reason(),
            Self::Layer { source: LayerError::Read(_), .. } => "ErrImagePull",
            Self::Layer { .. }
            | Self::NoDisk
            | Self::LayerTooLarge { .. }
            | Self::Disk(InspectError::Refused(_))
            | Self::Misnamed { .. }
            | Self::DiskTooLarge { .. } => "ErrImageInvalid",
            Self::Disk(InspectError::Failed(_)) => "ImageInspectionFailed",
            Self::Store(StoreError::Limit { .. }) => "ImageStoreFull",
            Self::Store(error) if error.is_full() => "DiskFull",
            Self::Store(_) => "ImageStoreFailed",
        }
    }

    /// Whether who has the disk in a file can do without the registry: it is away, or has no such image.
    pub fn is_mended_by_import(&self) -> bool {
        use RegistryError::{Missing, Trouble, Unreachable};
        matches!(self, Self::Registry(Unreachable { .. } | Trouble { .. } | Missing { .. }))
    }
}

/// Pulls the image of `name` that `pulled` says, and gives it that name.
///
/// # Errors
/// If any part of it cannot be had, is refused, or does not fit. Nothing of it stays.
pub async fn pull(
    registry: Arc<Registry>,
    store: Arc<ImageStore>,
    inspect: Arc<dyn Inspect>,
    request: PullRequest,
    progress: watch::Sender<Progress>,
) -> Result<Blob, PullError> {
    let manifest = registry.manifest(&request.pulled.manifest).await?;
    let diff_ids = registry.diff_ids(&manifest).await?;
    let mut hidden = Hidden::default();
    // The uppermost layer that has a disk is the one that a container would see.
    for (at, layer) in manifest.layers.iter().enumerate().rev() {
        if layer.size > request.limit_bytes {
            let (layer, bytes) = (layer.digest.clone(), layer.size);
            return Err(PullError::LayerTooLarge { layer, bytes, limit_bytes: request.limit_bytes });
        }
        let rules = LayerRules {
            digest: layer.digest.clone(),
            diff_id: diff_ids.get(at).cloned(),
            limit_bytes: request.limit_bytes,
            unpacked_limit_bytes: request.limit_bytes.saturating_add(BESIDE_DISK_BYTES),
            may_be_disk: may_be_disk(&manifest, layer),
        };
        let (pieces, receiver) = mpsc::channel(CHANNEL_PIECES);
        let taker = Taker {
            store: Arc::clone(&store),
            inspect: Arc::clone(&inspect),
            request: request.clone(),
            rules,
            hidden: std::mem::take(&mut hidden),
        };
        let taken = tokio::task::spawn_blocking(move || taker.take(PieceReader { receiver, piece: Bytes::new() }));
        let stream = BlobStream::new(Arc::clone(&registry), layer.clone());
        let fed = feed(stream, layer, pieces, &progress).await;
        let taken = taken.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        // A layer that was refused stops the network, and not the other way round.
        match (taken, fed) {
            (_, Err(error)) => return Err(error.into()),
            (Err(error), Ok(())) => return Err(error),
            (Ok(Taken::Disk(blob)), Ok(())) => return Ok(blob),
            (Ok(Taken::NoDisk(seen)), Ok(())) => hidden = seen,
        }
        if hidden.all {
            break;
        }
    }
    Err(PullError::NoDisk)
}

/// What to pull, and what for.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The name that it is to have.
    pub name: ImageName,
    /// What it is at its registry.
    pub pulled: Pulled,
    /// Since when it is wanted: what is imported under the name after that keeps it.
    pub asked: Timestamp,
    /// The largest disk that a guest may see, in bytes.
    pub limit_bytes: u64,
}

/// A layer that need not be an archive: the only one of an image, where nothing says that it is one.
fn may_be_disk(manifest: &ImageManifest, layer: &Descriptor) -> bool {
    manifest.layers.len() == 1 && (manifest.config.is_none() || !layer.media_type.contains("tar"))
}

/// Sends a blob's pieces on, until all are sent or nobody wants more.
async fn feed(
    mut stream: BlobStream,
    layer: &Descriptor,
    pieces: mpsc::Sender<Bytes>,
    progress: &watch::Sender<Progress>,
) -> Result<(), RegistryError> {
    let mut now = Progress { layer: Some(layer.digest.clone()), read_bytes: 0, layer_bytes: layer.size };
    progress.send_replace(now.clone());
    let mut told = Instant::now();
    while let Some(piece) = stream.next().await? {
        now.read_bytes += piece.len() as u64;
        if told.elapsed() >= TELL_INTERVAL || now.read_bytes == now.layer_bytes {
            told = Instant::now();
            progress.send_replace(now.clone());
        }
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The half of a pull that waits for files.
struct Taker {
    store: Arc<ImageStore>,
    inspect: Arc<dyn Inspect>,
    request: PullRequest,
    rules: LayerRules,
    hidden: Hidden,
}

enum Taken {
    Disk(Blob),
    NoDisk(Hidden),
}

impl Taker {
    fn take(self, layer: impl BufRead) -> Result<Taken, PullError> {
        let incoming = self.store.create_incoming()?;
        let writer = DiskWriter::new(&self.store, &incoming);
        let mut writer = writer.map_err(|error| self.layer_error(LayerError::Write(error)))?;
        let found =
            extract(layer, &self.rules, self.hidden.clone(), &mut writer).map_err(|error| self.layer_error(error))?;
        let Some(disk) = found.disk else { return Ok(Taken::NoDisk(found.hidden)) };
        let digest = writer.finish().map_err(|error| self.layer_error(LayerError::Write(error)))?;
        let detected = self.look_at(&incoming, disk)?;
        let blob = incoming.seal(digest, detected).map_err(StoreError::from)?;
        let PullRequest { name, pulled, asked, .. } = &self.request;
        Ok(Taken::Disk(self.store.take_in(name, &incoming, blob, Some((pulled.clone(), *asked)))?.blob))
    }

    /// What the disk is, if it may be used.
    fn look_at(&self, incoming: &Incoming<'_>, disk: DiskName) -> Result<DetectedFormat, PullError> {
        let file = incoming.open_to_read().map_err(StoreError::from)?;
        let detected = self.inspect.inspect(&file).map_err(PullError::Disk)?;
        let limit_bytes = self.request.limit_bytes;
        if detected.virtual_bytes > limit_bytes {
            return Err(PullError::DiskTooLarge { bytes: detected.virtual_bytes, limit_bytes });
        }
        match (disk, detected.format) {
            (DiskName::Qcow2, found @ DiskFormat::Raw) => Err(PullError::Misnamed { named: "qcow2", found }),
            (DiskName::Raw, found @ DiskFormat::Qcow2) => Err(PullError::Misnamed { named: "raw", found }),
            _ => Ok(detected),
        }
    }

    /// What the writer said on its way through the layer's reader is its own error again.
    fn layer_error(&self, error: LayerError) -> PullError {
        match error {
            LayerError::Write(error) => PullError::Store(
                error.downcast().unwrap_or_else(|error| FileError::new("write in", self.store.path(), error).into()),
            ),
            source => PullError::Layer { layer: self.rules.digest.clone(), source },
        }
    }
}

/// The pieces of a blob, for those who read.
struct PieceReader {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => break,
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        self.piece.advance(count);
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_filled(self, buffer)
    }
}

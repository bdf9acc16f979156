//! `ovm-agent image`: the node's images from the command line. Works on the files, beside an agent that runs or without one.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::hostfs::first_closed_directory;
use crate::image_flags::ImageFlags;
use crate::images::inspector::Inspector;
use crate::images::{
    Digest, Fetched, ImageName, ImageNameError, ImageStore, ImportError, ListedImage, Progress, PullError, Puller,
    StoreError, name_some, size,
};
use crate::options::ImageOptions;
use crate::registry::{CredentialsError, PullSecrets};

/// Enough of a digest to tell two apart, as container tools show it.
const SHOWN_DIGEST_DIGITS: usize = 12;
/// VMs shown a line of the table.
const SHOWN_VMS: usize = 3;

/// Manage the images of this node, from which VirtualMachines' registryDisks are made.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Directory of the agent's state; the images are below it.
    #[arg(long, env = "OVM_DATA_DIR", default_value = crate::images::DEFAULT_DATA_DIR, value_name = "DIR", global = true)]
    pub data_dir: PathBuf,
    /// How images are pulled and kept.
    #[command(flatten)]
    pub images: ImageFlags,
    /// What to do.
    #[command(subcommand)]
    pub verb: ImageVerb,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Copy a disk (raw or qcow2) into the store and give it a name.
    Import {
        /// Name of the image, as registryDisk.image writes it; without a tag, :latest is meant.
        name: String,
        /// The disk: raw, or qcow2 without backing file.
        file: PathBuf,
    },
    /// Pull an image from its registry, as a VirtualMachine's start would.
    Pull {
        /// Name of the image, as registryDisk.image writes it; without a tag, :latest is meant.
        name: String,
        /// Credentials for registries, in the form of a pull secret's .dockerconfigjson; podman's and docker's own file is one.
        #[arg(long, value_name = "FILE")]
        authfile: Option<PathBuf>,
    },
    /// List the images and the VirtualMachines that were started from them.
    #[command(visible_alias = "ls")]
    List,
    /// Delete the pulled images that no VirtualMachine uses. Imported ones stay.
    Prune,
    /// Take an image's name away, and delete its disk file if nothing else needs it.
    Rm {
        /// Name of the image.
        name: String,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageCommandError {
    /// Not the name of an image.
    #[error(transparent)]
    Name(#[from] ImageNameError),
    /// The file was not imported.
    #[error("import {name}")]
    Import {
        /// The image's name.
        name: String,
        /// Why.
        #[source]
        source: ImportError,
    },
    /// The image was not pulled.
    #[error("pull {name}")]
    Pull {
        /// The image's name.
        name: String,
        /// Why.
        #[source]
        source: Arc<PullError>,
    },
    /// The file with credentials cannot be used.
    #[error("{}", file.display())]
    Credentials {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// It cannot be read.
    #[error("read {}", file.display())]
    AuthFile {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system of the store is full.
    #[error("the file system of {} is full; free space there, or choose another --data-dir", data_dir.display())]
    Full {
        /// The data directory.
        data_dir: PathBuf,
        /// What failed.
        #[source]
        source: ImportError,
    },
    /// The caller may not use the store.
    #[error("run this as root, or with another --data-dir")]
    Denied(#[source] Box<ImageCommandError>),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The result could not be shown.
    #[error("write the result")]
    Output(#[from] io::Error),
}

impl ImageArgs {
    /// Does what the arguments say, and writes the result for the user to `out`.
    ///
    /// # Errors
    /// If it could not be done. The message says what to do instead.
    pub fn run(&self, out: &mut impl Write) -> Result<(), ImageCommandError> {
        self.run_verb(out)
            .map_err(|error| if is_denied(&error) { ImageCommandError::Denied(Box::new(error)) } else { error })
    }

    fn run_verb(&self, out: &mut impl Write) -> Result<(), ImageCommandError> {
        match &self.verb {
            ImageVerb::Import { name, file } => {
                let name: ImageName = name.parse()?;
                let imported = ImageStore::open(&self.data_dir)?.import(&name, file).map_err(|source| {
                    if source.is_full() {
                        ImageCommandError::Full { data_dir: self.data_dir.clone(), source }
                    } else {
                        ImageCommandError::Import { name: name.given().to_owned(), source }
                    }
                })?;
                writeln!(out, "imported {name}: {}, {}", imported.blob.format, imported.blob.digest)?;
                if let Some(before) = imported.replaced {
                    writeln!(
                        out,
                        "it was {before} before; VirtualMachines that exist keep that one until they are deleted"
                    )?;
                }
                if let Some(closed) = first_closed_directory(&self.data_dir.canonicalize()?) {
                    let closed = closed.display();
                    writeln!(
                        out,
                        "note: QEMU runs as a user of its own and may not pass {closed}: chmod o+x {closed}"
                    )?;
                }
            }
            ImageVerb::Pull { name, authfile } => self.pull(&name.parse()?, authfile.as_deref(), out)?,
            ImageVerb::Prune => {
                let pruned = ImageStore::open(&self.data_dir)?.prune()?;
                for name in &pruned.names {
                    writeln!(out, "removed {name}")?;
                }
                writeln!(out, "freed {}", size(pruned.freed_bytes))?;
            }
            ImageVerb::List => write_table(&ImageStore::open(&self.data_dir)?.list()?, out)?,
            ImageVerb::Rm { name } => {
                let name: ImageName = name.parse()?;
                ImageStore::open(&self.data_dir)?.remove(&name)?;
                writeln!(out, "removed {name}")?;
            }
        }
        Ok(())
    }
}

impl ImageArgs {
    fn pull(&self, name: &ImageName, authfile: Option<&Path>, out: &mut impl Write) -> Result<(), ImageCommandError> {
        let secrets = authfile.map(read_authfile).transpose()?.unwrap_or_default();
        let options = ImageOptions::from(self.images.clone());
        let store = Arc::new(ImageStore::open(&self.data_dir)?.with_limit(options.store_limit_bytes));
        let puller = Puller::new(Arc::clone(&store), Arc::new(Inspector::default()), options.pull);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let fetched = runtime.block_on(async {
            let (tell, progress) = watch::channel(Progress::default());
            tokio::select! {
                fetched = puller.fetch(name, &secrets, &tell) => fetched,
                () = show_progress(progress) => unreachable!("shown for ever"),
            }
        });
        let fetched = fetched.map_err(|source| ImageCommandError::Pull { name: name.given().to_owned(), source })?;
        let what = match fetched {
            Fetched { is_new: true, .. } => "pulled",
            Fetched { is_stale: true, .. } => "the registry does not answer; on this node is",
            Fetched { .. } => "there already:",
        };
        let disk = store.find(name)?.map(|image| format!(", {}, disk {}", image.blob.format, image.blob.digest));
        writeln!(out, "{what} {name}: {}{}", fetched.manifest, disk.unwrap_or_default())?;
        Ok(())
    }
}

fn read_authfile(file: &Path) -> Result<PullSecrets, ImageCommandError> {
    let bytes = std::fs::read(file).map_err(|source| ImageCommandError::AuthFile { file: file.to_owned(), source })?;
    PullSecrets::from_docker_config(&bytes)
        .map_err(|source| ImageCommandError::Credentials { file: file.to_owned(), source })
}

/// A bar for each layer, on a terminal. Never ends.
async fn show_progress(mut progress: watch::Receiver<Progress>) {
    let style = ProgressStyle::with_template(
        "{prefix} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
    );
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut shown: Option<(Digest, ProgressBar)> = None;
    // Who pulls tells for as long as this is polled.
    while progress.changed().await.is_ok() {
        let Progress { layer, read_bytes, layer_bytes } = progress.borrow_and_update().clone();
        let Some(layer) = layer else { continue };
        let is_same = shown.as_ref().is_some_and(|(known, _)| *known == layer);
        if !is_same && let Some((_, done)) = shown.take() {
            done.finish();
        }
        let (_, bar) = shown.get_or_insert_with(|| {
            let prefix: String = layer.hex().chars().take(SHOWN_DIGEST_DIGITS).collect();
            let bar = ProgressBar::new(layer_bytes).with_style(style.clone()).with_prefix(prefix);
            (layer, bar)
        });
        bar.set_position(read_bytes);
    }
    std::future::pending::<()>().await;
}

/// Whether the cause of `error` is that the caller lacks a permission.
fn is_denied(error: &ImageCommandError) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn write_table(images: &[ListedImage], out: &mut impl Write) -> io::Result<()> {
    const HEAD: [&str; 7] = ["NAME", "DIGEST", "FORMAT", "SIZE", "VIRTUAL-SIZE", "IMPORTED", "USED-BY"];
    let rows: Vec<[String; 7]> = std::iter::once(HEAD.map(str::to_owned)).chain(images.iter().map(table_row)).collect();
    let widths: [usize; 7] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for row in rows {
        let line = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>().join("   ");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn table_row(listed: &ListedImage) -> [String; 7] {
    let image = listed.image.as_ref();
    [
        image.map_or("<none>".to_owned(), |image| image.name.clone()),
        listed.blob.digest.hex().chars().take(SHOWN_DIGEST_DIGITS).collect(),
        listed.blob.format.to_string(),
        size(listed.blob.file_bytes),
        size(listed.blob.virtual_bytes),
        image.map_or("-".to_owned(), |image| image.imported.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()),
        if listed.used_by.is_empty() { "-".to_owned() } else { name_some(&listed.used_by, SHOWN_VMS) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in
            [(0, "0"), (1023, "1023"), (1024, "1.0Ki"), (12_058_624, "11.5Mi"), (u64::MAX, "16777215.9Ti")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_table_of_no_images_is_its_head() {
        let mut out = Vec::new();
        write_table(&[], &mut out).unwrap();
        assert_eq!(out, b"NAME   DIGEST   FORMAT   SIZE   VIRTUAL-SIZE   IMPORTED   USED-BY\n");
    }
}

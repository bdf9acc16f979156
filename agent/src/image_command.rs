//! `ovm-agent image`: the node's images from the command line. Works on the files, beside an agent that runs or without one.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::hostfs::first_closed_directory;
use crate::images::{ImageName, ImageNameError, ImageStore, ImportError, ListedImage, StoreError, name_some};

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
    /// List the images and the VirtualMachines that were started from them.
    #[command(visible_alias = "ls")]
    List,
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

/// A size in the largest binary unit that leaves something before the point, with one digit after it: `11.5Mi`.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{}{unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes}"),
    }
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

//! Makes one disk file, or checks the one that is there.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::fresh::FreshDisks;
use super::qemu_img::create_qcow2;
use super::{BackingFile, VolumeError};
use crate::blocking::blocking;
use crate::hostfs::{Directory, FileError};
use crate::images::DiskFormat;
use crate::images::qcow2::Qcow2Header;
use crate::seed::{MAX_USER_DATA_BYTES, Seed};

/// A disk in the making. It is deleted and made again when it is found.
const MAKING_PREFIX: &str = "making-";
/// No seed is longer: its user data, and the sectors around it.
const MAX_SEED_BYTES: u64 = MAX_USER_DATA_BYTES as u64 + (1 << 20);

/// A qcow2 file as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Qcow2Disk {
    pub(super) name: String,
    pub(super) virtual_bytes: u64,
    pub(super) backing: Option<BackingFile>,
}

/// A file that is there and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MadeFile {
    pub(super) name: String,
    pub(super) format: DiskFormat,
    pub(super) backing: Option<BackingFile>,
}

/// Checks the file if it is there, and makes it if not.
///
/// # Errors
/// If it cannot be made, or the one that is there is another disk.
pub(super) async fn make_qcow2_if_needed(
    directory: &Arc<Directory>,
    fresh: &Arc<FreshDisks>,
    disk: Qcow2Disk,
) -> Result<MadeFile, VolumeError> {
    let making = format!("{MAKING_PREFIX}{}", disk.name);
    let exists = on_files(directory, &disk, |directory, disk| check_if_exists(directory, &disk.name, disk)).await?;
    if !exists {
        let made = make_qcow2(directory, fresh, &disk, &making).await;
        if made.is_err() {
            // The first error is the one to tell. What stays is deleted before the next try.
            let _ = on_files(directory, &disk, move |directory, _| directory.remove_file_if_exists(&making)).await;
        }
        made?;
    }
    Ok(MadeFile { name: disk.name, format: DiskFormat::Qcow2, backing: disk.backing })
}

/// Makes the file under another name, and gives it its own when it is complete, checked and on disk.
async fn make_qcow2(
    directory: &Arc<Directory>,
    fresh: &Arc<FreshDisks>,
    disk: &Qcow2Disk,
    making: &str,
) -> Result<(), VolumeError> {
    let (name, known) = (making.to_owned(), fresh.like(disk));
    let is_known = known.is_some();
    let file = on_files(directory, disk, move |directory, _| {
        directory.remove_file_if_exists(&name)?;
        let file = directory.create_file(&name)?;
        known.map_or(Ok(()), |known| known.write(&file)).map_err(|e| write_error(directory, &name, e))?;
        Ok::<_, FileError>(file)
    })
    .await?;
    if !is_known {
        create_qcow2(&directory.path_of(making), disk.virtual_bytes, disk.backing.as_ref()).await?;
    }
    let (name, fresh) = (making.to_owned(), Arc::clone(fresh));
    on_files(directory, disk, move |directory, disk| {
        check(&file, &directory.path_of(&name), disk)?;
        if !is_known {
            let read_error = |e| FileError::new("read", directory.path_of(&name), e);
            fresh.remember(disk, &file).map_err(read_error)?;
        }
        file.sync_data().map_err(|e| write_error(directory, &name, e))?;
        Ok(directory.rename(&name, directory, &disk.name)?)
    })
    .await
}

fn write_error(directory: &Directory, name: &str, error: io::Error) -> FileError {
    FileError::new("write", directory.path_of(name), error)
}

/// Writes the seed, unless the file holds the same one.
///
/// # Errors
/// If it cannot be written.
pub(super) async fn write_seed_if_needed(
    directory: &Arc<Directory>,
    name: String,
    seed: Seed,
) -> Result<MadeFile, VolumeError> {
    let directory = directory.clone();
    blocking(move || {
        let image = seed.to_iso()?;
        if directory.read_if_exists(&name, MAX_SEED_BYTES)?.as_ref() != Some(&image) {
            directory.write_atomically(&name, &image)?;
        }
        Ok(MadeFile { name, format: DiskFormat::Raw, backing: None })
    })
    .await
}

async fn on_files<T: Send + 'static>(
    directory: &Arc<Directory>,
    disk: &Qcow2Disk,
    work: impl FnOnce(&Directory, &Qcow2Disk) -> T + Send + 'static,
) -> T {
    let (directory, disk) = (directory.clone(), disk.clone());
    blocking(move || work(&directory, &disk)).await
}

/// Whether the file is there. If it is, it is the disk that it has to be.
fn check_if_exists(directory: &Directory, name: &str, disk: &Qcow2Disk) -> Result<bool, VolumeError> {
    match directory.open_file(name) {
        Ok(file) => check(&file, &directory.path_of(name), disk).map(|()| true),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Checks that the header of `file` says what is on record: an overlay names exactly its recorded base, or QEMU would open what it names.
fn check(file: &File, path: &Path, disk: &Qcow2Disk) -> Result<(), VolumeError> {
    let header = Qcow2Header::read(file).map_err(|source| VolumeError::Unreadable { path: path.to_owned(), source })?;
    let differs = |difference| Err(VolumeError::Differs { path: path.to_owned(), difference });
    let backing = disk.backing.as_ref();
    let recorded = backing.map(|b| b.path.to_string_lossy().into_owned());
    if header.backing_file != recorded {
        let show = |file: Option<String>| file.unwrap_or_else(|| "nothing".to_owned());
        return differs(format!("it stands on {}, not on {}", show(header.backing_file), show(recorded)));
    }
    if header.backing_format.as_deref() != backing.map(|b| b.format.as_str()) {
        return differs("it takes the disk that it stands on for another format".to_owned());
    }
    if header.virtual_bytes != disk.virtual_bytes {
        return differs(format!("it has {} bytes, not {}", header.virtual_bytes, disk.virtual_bytes));
    }
    if header.external_data_file || header.encrypted {
        return differs("its content is encrypted, or lies in another file".to_owned());
    }
    Ok(())
}

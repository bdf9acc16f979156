//! Files of keys and certificates: private, and whole or not there.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use crate::server::StartError;

fn unusable(path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::DataDir { path, source }
}

/// Makes a directory (0700) where it is missing.
pub(super) fn make_directory(path: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable(path))
}

/// The file's text; `None` if there is no such file.
pub(super) fn read_if_present(path: &Path) -> Result<Option<String>, StartError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(path)(error)),
    }
}

/// Writes a file (0600) under another name, then renames it: readers see the old text or the new one.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StartError> {
    let temporary = path.with_extension("new");
    let write = || {
        // A file left by a crash may have another mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(unusable(path))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StartError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unusable(path)(error)),
        _ => Ok(()),
    }
}

/// As [`write_private`], and then lets a group read it.
pub(super) fn write_for_group(path: &Path, bytes: &[u8], group: u32) -> Result<(), StartError> {
    let unfinished = path.with_extension("unfinished");
    write_private(&unfinished, bytes)?;
    // Where it is the group's already, there is nothing to ask for: a hardened service may not.
    if unfinished.metadata().map_err(unusable(path))?.gid() != group {
        let failed = |source| StartError::Group { path: path.to_owned(), group, source };
        chown(&unfinished, None, Some(group)).map_err(failed)?;
    }
    let finish = || {
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o640))?;
        fs::rename(&unfinished, path)
    };
    finish().map_err(unusable(path))
}

//! What the store does for images from registries: gives names to what is there already, takes in what was pulled, and makes room.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use jiff::Timestamp;

use super::claims::VmReference;
use super::error::StoreError;
use super::incoming::ROOM_BYTES;
use super::index::{Blob, Image, Index, Pulled};
use super::name::ImageName;
use super::store::ImageStore;
use crate::hostfs::{Directory, FileError};

const BLOCK_BYTES: u64 = 512;

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names that were taken away.
    pub names: Vec<String>,
    /// Bytes that are free again.
    pub freed_bytes: u64,
}

impl ImageStore {
    /// The image of this name, if its disk file is there.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn find(&self, name: &ImageName) -> Result<Option<Image>, StoreError> {
        let _lock = self.lock_shared()?;
        Ok(self.read_index()?.get(name).filter(|image| self.has_disk_file(&image.blob)).cloned())
    }

    /// Whether this VM has claimed its images already: then it needs no registry any more.
    ///
    /// # Errors
    /// If its claim cannot be read.
    pub fn has_claim(&self, vm: &VmReference) -> Result<bool, StoreError> {
        let _lock = self.lock_shared()?;
        Ok(self.claims.get(vm.uid)?.is_some())
    }

    /// Gives `name` to the disk file that was pulled as this manifest, under whatever name of the same repository. None if there is none. An image that was
    /// imported under `name` after `asked` keeps it.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn name_pulled(&self, name: &ImageName, pulled: &Pulled, asked: Timestamp) -> Result<Option<Blob>, StoreError> {
        let _lock = self.lock_exclusive()?;
        let mut index = self.read_index()?;
        if let Some(image) = index.get(name).filter(|image| image.was_imported_since(asked)) {
            return Ok(Some(image.blob.clone()));
        }
        let Some(blob) = index.find_manifest(name, &pulled.manifest).filter(|blob| self.has_disk_file(blob)).cloned()
        else {
            return Ok(None);
        };
        if index.get(name).is_none_or(|image| image.pulled.as_ref() != Some(pulled)) {
            index.insert(name, blob.clone(), Timestamp::now(), Some(pulled.clone()));
            self.write_index(&index)?;
            self.sweep()?;
        }
        // It is about to be used: no other pull is to take it away before a VM has claimed it.
        self.note_use(std::iter::once(&blob));
        Ok(Some(blob))
    }

    /// Takes away the names of pulled images that no VM stands on, and deletes their disk files.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn prune(&self) -> Result<Pruned, StoreError> {
        let _lock = self.lock_exclusive()?;
        let before = self.used_bytes()?;
        let mut index = self.read_index()?;
        let mut names = Vec::new();
        for blob in self.evictable(&index)? {
            names.extend(index.remove_disk_file(&blob.digest));
        }
        self.write_index(&index)?;
        self.sweep()?;
        Ok(Pruned { names, freed_bytes: before.saturating_sub(self.used_bytes()?) })
    }

    /// Makes room for the next step of a pull, by taking away the pulled images that have been without use for longest.
    pub(super) fn make_room(&self) -> Result<(), StoreError> {
        let Some(limit_bytes) = self.limit_bytes else { return Ok(()) };
        let _lock = self.lock_exclusive()?;
        // Each of those that pull now may have a step granted, and not written yet.
        let granted = self.incoming.names()?.len() as u64 * ROOM_BYTES;
        let mut index = self.read_index()?;
        let mut evictable = self.evictable(&index)?.into_iter();
        let mut used_bytes = self.used_bytes()?;
        while used_bytes.saturating_add(granted) > limit_bytes {
            let Some(blob) = evictable.next() else { return Err(StoreError::Limit { limit_bytes, used_bytes }) };
            for name in index.remove_disk_file(&blob.digest) {
                tracing::info!(image = name, "removed an unused image to make room");
            }
            self.write_index(&index)?;
            self.sweep()?;
            used_bytes = self.used_bytes()?;
        }
        Ok(())
    }

    /// Remembers that these disk files were in use until now. What cannot be noted makes a file look older than it is, no more.
    pub(super) fn note_use<'b>(&self, blobs: impl Iterator<Item = &'b Blob>) {
        let now = SystemTime::now();
        for blob in blobs {
            if let Ok(file) = self.blobs.open_file(&blob.file_name()) {
                let _ = file.set_modified(now);
            }
        }
    }

    /// Bytes that disk files take, finished and unfinished, without their holes.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        Ok(used_in(&self.blobs)? + used_in(&self.incoming)?)
    }

    /// Disk files that were pulled, have no imported name, and no VM stands on: the one that was used least recently first.
    fn evictable(&self, index: &Index) -> Result<Vec<Blob>, StoreError> {
        let claims = self.claims.all()?;
        let claimed: BTreeSet<_> =
            claims.iter().flat_map(|claim| &claim.images).map(|image| &image.blob.digest).collect();
        let imported: BTreeSet<_> =
            index.images().iter().filter(|image| image.pulled.is_none()).map(|image| &image.blob.digest).collect();
        let pulled: BTreeSet<_> = index.images().iter().map(|image| &image.blob).collect();
        let free =
            pulled.into_iter().filter(|blob| !claimed.contains(&blob.digest) && !imported.contains(&blob.digest));
        let mut free: Vec<_> = free.map(|blob| (self.last_use(blob), blob.clone())).collect();
        free.sort();
        Ok(free.into_iter().map(|(_, blob)| blob).collect())
    }

    fn last_use(&self, blob: &Blob) -> SystemTime {
        let file = self.blobs.open_file(&blob.file_name()).ok();
        let modified = file.and_then(|file| file.metadata().ok()).and_then(|metadata| metadata.modified().ok());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

fn used_in(directory: &Directory) -> Result<u64, StoreError> {
    let mut used = 0;
    for name in directory.names()? {
        match directory.open_file(&name) {
            Ok(file) => {
                let metadata =
                    file.metadata().map_err(|e: io::Error| FileError::new("read", directory.path_of(&name), e))?;
                used += metadata.blocks() * BLOCK_BYTES;
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(used)
}

//! The store's operations. See the module above for the files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use uuid::Uuid;

use super::claims::{Claim, ClaimedImage, Claims, VmReference};
use super::copy::{CopyError, copy_file, hash_file};
use super::error::{ImportError, StoreError};
use super::format::detect_format;
use super::incoming::Incoming;
use super::index::{Blob, Digest, Image, Index, Pulled};
use super::name::ImageName;
use crate::hostfs::{Directory, FileError, UNFINISHED_SUFFIX, open_user_file};

const STORE_DIRECTORY: &str = "images";
const LOCK_FILE: &str = "lock";
const INDEX_FILE: &str = "index.json";
/// Room for about 100,000 images.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The images of this node.
#[derive(Debug)]
pub struct ImageStore {
    pub(super) root: Directory,
    pub(super) blobs: Directory,
    pub(super) incoming: Directory,
    pub(super) claims: Claims,
    pub(super) limit_bytes: Option<u64>,
}

/// An image, and who uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedImage {
    /// The image; none if the disk file has lost its name and stays for the VMs that use it.
    pub image: Option<Image>,
    /// The disk file.
    pub blob: Blob,
    /// VMs that were started from it and still exist, sorted.
    pub used_by: Vec<VmReference>,
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedImage {
    /// The disk file that the name has now.
    pub blob: Blob,
    /// The disk file that the name had before, if that was another one.
    pub replaced: Option<Digest>,
}

/// Held while the store is read or changed; the kernel lets go of it when the process ends, however it ends.
pub(super) struct StoreLock {
    _file: File,
}

impl ImageStore {
    /// Opens the store below `data_dir`; makes its directories if they are missing.
    ///
    /// # Errors
    /// If they cannot be made or opened, or `data_dir` is not UTF-8.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let data = Directory::open_or_create_root(data_dir)?;
        if data.path().to_str().is_none() {
            return Err(StoreError::PathNotText(data.path().to_owned()));
        }
        let root = data.subdirectory_or_create(STORE_DIRECTORY)?;
        Ok(Self {
            blobs: root.subdirectory_or_create("blobs")?,
            incoming: root.subdirectory_or_create("incoming")?,
            claims: Claims::new(root.subdirectory_or_create("claims")?),
            limit_bytes: None,
            root,
        })
    }

    /// The same store, which makes room for what is pulled so that its disk files never hold more than `limit_bytes`. Imported files count, and stay.
    #[must_use]
    pub fn with_limit(self, limit_bytes: Option<u64>) -> Self {
        Self { limit_bytes, ..self }
    }

    /// Copies `file` into the store and gives it `name`, taking the name from another image if need be. VMs that stand on that one keep it.
    ///
    /// # Errors
    /// If the file is refused, changes while it is copied, or the store cannot take it. The store is then as it was.
    pub fn import(&self, name: &ImageName, file: &Path) -> Result<ImportedImage, ImportError> {
        let refused = |source| ImportError::Refused { path: file.to_owned(), source };
        let source = open_user_file(file)?;
        // Refused early, before a long copy; the copy is looked at again, because that is what guests will see.
        detect_format(&source).map_err(refused)?;

        let incoming = self.create_incoming()?;
        let incoming_path = self.incoming.path();
        copy_file(&source, &incoming.file).map_err(|e| match e {
            CopyError::Read(source) => FileError::new("read", file, source).into(),
            CopyError::Write(source) => FileError::new("write in", incoming_path, source).into(),
            CopyError::Changed => ImportError::Changed(file.to_owned()),
        })?;
        let detected = detect_format(&incoming.file).map_err(refused)?;
        let digest = hash_file(&incoming.file).map_err(|e| FileError::new("read in", incoming_path, e))?;
        let blob = incoming.seal(digest, detected)?;
        Ok(self.take_in(name, &incoming, blob, None)?)
    }

    /// All images, sorted by name, then the disk files that only VMs hold.
    ///
    /// # Errors
    /// If the index or a claim cannot be read.
    pub fn list(&self) -> Result<Vec<ListedImage>, StoreError> {
        let _lock = self.lock_shared()?;
        let (index, claims) = (self.read_index()?, self.claims.all()?);
        let users = |uses: &dyn Fn(&ClaimedImage) -> bool| {
            claims.iter().filter(|c| c.images.iter().any(uses)).map(|c| c.vm.clone()).collect::<BTreeSet<_>>()
        };
        let mut listed: Vec<_> = index
            .images()
            .iter()
            .map(|image| ListedImage {
                image: Some(image.clone()),
                blob: image.blob.clone(),
                used_by: users(&|c| c.full_name == image.full_name && c.blob.digest == image.blob.digest)
                    .into_iter()
                    .collect(),
            })
            .collect();
        let held: BTreeSet<_> = claims.iter().flat_map(|c| &c.images).map(|i| &i.blob).collect();
        for blob in held.into_iter().filter(|blob| index.images().iter().all(|image| image.blob.digest != blob.digest))
        {
            let used_by = users(&|c| c.blob.digest == blob.digest).into_iter().collect();
            listed.push(ListedImage { image: None, blob: blob.clone(), used_by });
        }
        Ok(listed)
    }

    /// Takes `name` away, and deletes its disk file if nothing else refers to it.
    ///
    /// # Errors
    /// If there is no such image, VMs that were started from it still exist, or the store cannot be changed.
    pub fn remove(&self, name: &ImageName) -> Result<(), StoreError> {
        let _lock = self.lock_exclusive()?;
        let mut index = self.read_index()?;
        let removed = index.remove(name).ok_or_else(|| StoreError::NotFound(name.clone()))?;
        let claims = self.claims.all()?;
        let used_by: BTreeSet<_> = claims
            .iter()
            .filter(|claim| claim.images.iter().any(|i| i.full_name == name.full() && i.blob.digest == removed.digest))
            .map(|claim| claim.vm.clone())
            .collect();
        if !used_by.is_empty() {
            return Err(StoreError::InUse { name: name.clone(), used_by: used_by.into_iter().collect() });
        }
        self.write_index(&index)?;
        self.sweep()
    }

    /// Claims the images of a VM's volumes, given by ordinal and name: until [`ImageStore::release`], their disk files stay.
    /// A VM that has claimed before gets the same disk files again, whatever the names mean by now.
    ///
    /// # Errors
    /// If an image is not there, the VM has claimed other ones, or the store cannot be read or written.
    pub fn claim(&self, vm: &VmReference, wanted: &[(usize, ImageName)]) -> Result<Vec<ClaimedImage>, StoreError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock_shared()?;
        if let Some(claim) = self.claims.get(vm.uid)? {
            if !claim.is_for(wanted) {
                return Err(StoreError::ClaimDiffers { vm: vm.clone() });
            }
            self.require_disk_files(&claim.images)?;
            return Ok(claim.images);
        }
        let index = self.read_index()?;
        let claimed = |(ordinal, name): &(usize, ImageName)| {
            let image = index.get(name).ok_or_else(|| StoreError::NotFound(name.clone()))?;
            Ok(ClaimedImage {
                ordinal: *ordinal,
                full_name: image.full_name.clone(),
                manifest: image.pulled.as_ref().map(|pulled| pulled.manifest.clone()),
                blob: image.blob.clone(),
            })
        };
        let images = wanted.iter().map(claimed).collect::<Result<Vec<_>, StoreError>>()?;
        self.require_disk_files(&images)?;
        self.claims.put(&Claim { vm: vm.clone(), images: images.clone() })?;
        Ok(images)
    }

    /// Ends the claim of the VM with this UID, if it has one, and deletes disk files that nothing refers to any more.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn release(&self, uid: Uuid) -> Result<(), StoreError> {
        let _lock = self.lock_exclusive()?;
        let claim = self.claims.get(uid)?;
        if self.claims.remove_if_exists(uid)? {
            self.note_use(claim.iter().flat_map(|claim| &claim.images).map(|image| &image.blob));
            self.sweep()?;
        }
        Ok(())
    }

    /// UIDs of the VMs that have claims.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn claimants(&self) -> Result<Vec<Uuid>, StoreError> {
        self.claims.uids()
    }

    /// The directory that holds all disk files, absolute.
    pub fn path(&self) -> &Path {
        self.blobs.path()
    }

    /// Absolute path of a disk file.
    pub fn path_of(&self, blob: &Blob) -> PathBuf {
        self.blobs.path_of(&blob.file_name())
    }

    /// The second half of an import, or of a pull with when it was asked for: from here on other users of the store wait.
    pub(super) fn take_in(
        &self,
        name: &ImageName,
        incoming: &Incoming<'_>,
        blob: Blob,
        pulled: Option<(Pulled, Timestamp)>,
    ) -> Result<ImportedImage, StoreError> {
        let _lock = self.lock_exclusive()?;
        let mut index = self.read_index()?;
        let imported = |asked| index.get(name).filter(|image| image.was_imported_since(asked));
        if let Some(image) = pulled.as_ref().and_then(|(_, asked)| imported(*asked)) {
            // An administrator said meanwhile what the name means here.
            return Ok(ImportedImage { replaced: None, blob: image.blob.clone() });
        }
        let pulled = pulled.map(|(pulled, _)| pulled);
        let replaced = index.insert(name, blob.clone(), Timestamp::now(), pulled).map(|blob| blob.digest);
        let place = || -> Result<(), StoreError> {
            let file_name = blob.file_name();
            if !self.has_disk_file(&blob) {
                self.incoming.rename(&incoming.name, &self.blobs, &file_name)?;
                self.blobs.sync()?;
            }
            self.write_index(&index)
        };
        place().inspect_err(|_| {
            // The first error is the one to tell. A disk file without a name goes now, or at the next change.
            let _ = self.sweep();
        })?;
        // The import is done. What a failing sweep leaves goes at the next change.
        if let Err(error) = self.sweep() {
            tracing::warn!(error = &error as &dyn std::error::Error, "unused image files were not deleted");
        }
        Ok(ImportedImage { replaced: replaced.filter(|digest| *digest != blob.digest), blob })
    }

    fn require_disk_files(&self, images: &[ClaimedImage]) -> Result<(), StoreError> {
        match images.iter().find(|image| !self.has_disk_file(&image.blob)) {
            None => Ok(()),
            Some(image) => {
                Err(StoreError::DiskFileMissing { path: self.path_of(&image.blob), full_name: image.full_name.clone() })
            }
        }
    }

    pub(super) fn has_disk_file(&self, blob: &Blob) -> bool {
        self.blobs
            .open_file(&blob.file_name())
            .is_ok_and(|file| file.metadata().is_ok_and(|m| m.len() == blob.file_bytes))
    }

    /// Deletes what crashes and changes left: copies that nobody makes, half-written files, disk files that nothing refers to.
    /// The caller holds the exclusive lock.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        for name in self.incoming.names()? {
            if self.incoming.open_file(&name).is_ok_and(|file| file.try_lock().is_ok()) {
                self.incoming.remove_file_if_exists(&name)?;
            }
        }
        for directory in [&self.root, self.claims.directory()] {
            for name in directory.names()?.iter().filter(|name| name.ends_with(UNFINISHED_SUFFIX)) {
                directory.remove_file_if_exists(name)?;
            }
        }
        let (index, claims) = (self.read_index()?, self.claims.all()?);
        let claimed = claims.iter().flat_map(|claim| &claim.images).map(|image| &image.blob);
        let referred: BTreeSet<_> =
            index.images().iter().map(|image| &image.blob).chain(claimed).map(Blob::file_name).collect();
        for name in self.blobs.names()?.iter().filter(|name| !referred.contains(*name)) {
            self.blobs.remove_file_if_exists(name)?;
        }
        Ok(())
    }

    pub(super) fn read_index(&self) -> Result<Index, StoreError> {
        match self.root.read_if_exists(INDEX_FILE, MAX_INDEX_BYTES)? {
            None => Ok(Index::default()),
            Some(bytes) => Index::from_json(&bytes)
                .map_err(|source| StoreError::Index { path: self.root.path_of(INDEX_FILE), source }),
        }
    }

    pub(super) fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        self.root.write_atomically(INDEX_FILE, &index.to_json())?;
        Ok(self.root.sync()?)
    }

    pub(super) fn lock_shared(&self) -> Result<StoreLock, StoreError> {
        self.lock(File::lock_shared)
    }

    pub(super) fn lock_exclusive(&self) -> Result<StoreLock, StoreError> {
        self.lock(File::lock)
    }

    /// Each call opens the file anew: locks of one open file would not exclude each other.
    fn lock(&self, how: fn(&File) -> io::Result<()>) -> Result<StoreLock, StoreError> {
        let file = self.root.open_or_create_file(LOCK_FILE)?;
        how(&file).map_err(|e| FileError::new("lock", self.root.path_of(LOCK_FILE), e))?;
        Ok(StoreLock { _file: file })
    }
}

#[cfg(test)]
mod tests;

//! Readers that count and hash what passes through them.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::LayerError;
use crate::images::Digest;

/// Hashes what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Option<Sha256>,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self::only_if(true, inner)
    }

    /// Hashes only if somebody will ask.
    pub(super) fn only_if(wanted: bool, inner: R) -> Self {
        Self { inner, hasher: wanted.then(Sha256::new) }
    }

    /// The digest of all that was read, if it was hashed.
    pub(super) fn finish(self) -> Option<Digest> {
        self.hasher.map(|hasher| Digest::from_sha256(&hasher.finalize().into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
        Ok(count)
    }
}

/// Lets so many bytes pass, and then none: what is unpacked may be a million times what was sent.
pub(super) struct Limited<R> {
    inner: R,
    limit_bytes: u64,
    left: u64,
}

impl<R: Read> Limited<R> {
    pub(super) fn new(inner: R, limit_bytes: u64) -> Self {
        Self { inner, limit_bytes, left: limit_bytes }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => {
                self.left = left;
                Ok(count)
            }
            None => Err(LayerError::TooLarge { limit_bytes: self.limit_bytes }.into_io()),
        }
    }
}

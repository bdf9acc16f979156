//! Readers that count and hash what passes through them. They hand on the buffer that they read from, and copy nothing.

use std::io::{self, BufRead, Read};

use sha2::{Digest as _, Sha256};

use super::LayerError;
use crate::images::Digest;

/// Hashes what is taken from it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Option<Sha256>,
}

impl<R: BufRead> Hashing<R> {
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

impl<R: BufRead> BufRead for Hashing<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // What is consumed was filled before: it is there, and asking for it again reads nothing.
        if let (Some(hasher), Ok(filled)) = (&mut self.hasher, self.inner.fill_buf()) {
            hasher.update(filled.get(..count).unwrap_or(filled));
        }
        self.inner.consume(count);
    }
}

impl<R: BufRead> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_filled(self, buffer)
    }
}

/// Lets so many bytes pass, and then none: what is unpacked may be a million times what was sent.
pub(super) struct Limited<R> {
    inner: R,
    limit_bytes: u64,
    left: u64,
}

impl<R: BufRead> Limited<R> {
    pub(super) fn new(inner: R, limit_bytes: u64) -> Self {
        Self { inner, limit_bytes, left: limit_bytes }
    }
}

impl<R: BufRead> BufRead for Limited<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let filled = self.inner.fill_buf()?;
        if self.left == 0 && !filled.is_empty() {
            return Err(LayerError::TooLarge { limit_bytes: self.limit_bytes }.into_io());
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(filled.get(..left).unwrap_or(filled))
    }

    fn consume(&mut self, count: usize) {
        self.left -= count as u64;
        self.inner.consume(count);
    }
}

impl<R: BufRead> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_filled(self, buffer)
    }
}

/// [`Read::read`] for those that have a buffer.
pub(crate) fn read_filled(reader: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let count = reader.fill_buf()?.read(buffer)?;
    reader.consume(count);
    Ok(count)
}

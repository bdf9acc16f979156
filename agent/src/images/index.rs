//! What the store knows about its images: one JSON file, replaced as a whole.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::format::DiskFormat;
use super::name::ImageName;

/// Version of the file's layout. A program that reads another one refuses to touch the store.
pub const INDEX_VERSION: u32 = 1;

const SHA256_HEX_DIGITS: usize = 64;

/// SHA-256 of a disk file's bytes. Written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest with these bytes.
    pub fn from_sha256(bytes: &[u8; 32]) -> Self {
        use std::fmt::Write;
        Self(bytes.iter().fold(String::with_capacity(SHA256_HEX_DIGITS), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }))
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("sha256:") {
            Some(hex)
                if hex.len() == SHA256_HEX_DIGITS && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                Ok(Self(hex.to_owned()))
            }
            _ => Err(format!("{text:?} is no SHA-256 digest")),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// A disk file of the store: what a VM's overlay stands on. Never changes, once it is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blob {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Format, as found when it was imported.
    pub format: DiskFormat,
    /// Size of the file in bytes, holes included.
    pub file_bytes: u64,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_bytes: u64,
}

impl Blob {
    /// Name of its file in the store.
    pub fn file_name(&self) -> String {
        format!("sha256-{}.{}", self.digest.hex(), self.format.extension())
    }
}

/// An image: a name for a disk file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The name, as the user gave it.
    pub name: String,
    /// The full form of the name, by which it is found.
    pub full_name: String,
    /// The disk file.
    #[serde(flatten)]
    pub blob: Blob,
    /// When the name was given to this disk file.
    pub imported: Timestamp,
    /// The registry's image that it is; none for an imported file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<Pulled>,
}

impl Image {
    /// Whether an administrator has said since then what the name means on this node.
    pub fn was_imported_since(&self, asked: Timestamp) -> bool {
        self.pulled.is_none() && self.imported >= asked
    }
}

/// What an image is at its registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pulled {
    /// Digest of its manifest, or of its index: what its name meant when it was pulled.
    pub manifest: Digest,
    /// The registry was shown credentials. Whoever uses the image has to show theirs: that it is here already gives nobody a right to it.
    #[serde(default)]
    pub with_credentials: bool,
}

/// All images, sorted by full name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    version: u32,
    images: Vec<Image>,
}

/// Why an index file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Written by another version of the program.
    #[error("it has version {0}, this program knows version {INDEX_VERSION}")]
    Version(u32),
    /// Not what this program writes.
    #[error("it is damaged")]
    Damaged(#[source] serde_json::Error),
}

impl Default for Index {
    fn default() -> Self {
        Self { version: INDEX_VERSION, images: Vec::new() }
    }
}

impl Index {
    /// Reads an index file.
    ///
    /// # Errors
    /// If it is of another version, or damaged.
    pub fn from_json(bytes: &[u8]) -> Result<Self, IndexError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(IndexError::Damaged)?;
        if version != INDEX_VERSION {
            return Err(IndexError::Version(version));
        }
        serde_json::from_slice(bytes).map_err(IndexError::Damaged)
    }

    /// The index as its file holds it.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings, numbers and times always serialise");
        bytes.push(b'\n');
        bytes
    }

    /// All images.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The image of this name.
    pub fn get(&self, name: &ImageName) -> Option<&Image> {
        self.images.iter().find(|image| image.full_name == name.full())
    }

    /// Gives `name` to `blob`; the disk file that had the name before is returned.
    pub fn insert(
        &mut self,
        name: &ImageName,
        blob: Blob,
        imported: Timestamp,
        pulled: Option<Pulled>,
    ) -> Option<Blob> {
        let before = self.remove(name);
        let (name, full_name) = (name.given().to_owned(), name.full().to_owned());
        self.images.push(Image { name, full_name, blob, imported, pulled });
        self.images.sort_by(|a, b| a.full_name.cmp(&b.full_name));
        before
    }

    /// The disk file that was pulled as this manifest, under whatever name of the same repository. Which digest a name means is its server's word: it must not
    /// reach what another server showed to those who may have it.
    pub fn find_manifest(&self, name: &ImageName, manifest: &Digest) -> Option<&Blob> {
        let is_of_source =
            |image: &Image| image.full_name.parse::<ImageName>().is_ok_and(|known| known.source() == name.source());
        let is_it = |image: &&Image| {
            image.pulled.as_ref().is_some_and(|pulled| pulled.manifest == *manifest) && is_of_source(image)
        };
        self.images.iter().find(is_it).map(|image| &image.blob)
    }

    /// Takes all names of a disk file away; they are returned as they were given.
    pub fn remove_disk_file(&mut self, digest: &Digest) -> Vec<String> {
        let (gone, kept) = std::mem::take(&mut self.images).into_iter().partition(|image| image.blob.digest == *digest);
        self.images = kept;
        Vec::into_iter(gone).map(|image| image.name).collect()
    }

    /// Takes `name` away; the disk file that had it is returned.
    pub fn remove(&mut self, name: &ImageName) -> Option<Blob> {
        let at = self.images.iter().position(|image| image.full_name == name.full())?;
        Some(self.images.remove(at).blob)
    }
}

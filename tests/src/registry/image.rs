//! Images as users publish them, made byte by byte.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A gzipped layer of an OCI image.
pub(super) const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image: its manifest, and the blobs that it names.
#[derive(Debug, Clone)]
pub struct TestImage {
    /// The manifest.
    pub manifest: Value,
    /// Configuration and layers.
    pub blobs: Vec<Vec<u8>>,
}

impl TestImage {
    /// An image as `docker build` makes it: layers as they are served, the lowest first, and the digests of what they unpack to.
    pub fn new(layers: Vec<(Vec<u8>, &str)>, diff_ids: &[String]) -> Self {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let descriptor = |bytes: &[u8], media_type: &str| json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(&config, CONFIG),
            "layers": layers.iter().map(|(bytes, media_type)| descriptor(bytes, media_type)).collect::<Vec<_>>(),
        });
        let blobs = std::iter::once(config).chain(layers.into_iter().map(|(bytes, _)| bytes)).collect();
        Self { manifest, blobs }
    }

    /// What a KubeVirt user publishes: one gzipped layer with one disk in `/disk`.
    ///
    /// # Errors
    /// Never: what is written is memory.
    pub fn of_disk(name: &str, disk: &[u8]) -> Result<Self> {
        let tar = tar_with(&[(&format!("disk/{name}"), disk)])?;
        Ok(Self::new(vec![(gzip(&tar)?, GZIP_LAYER)], &[digest(&tar)]))
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> String {
        digest(self.manifest.to_string().as_bytes())
    }

    /// How its manifest is called on the wire.
    pub fn media_type(&self) -> &str {
        self.manifest["mediaType"].as_str().unwrap_or(MANIFEST)
    }
}

/// The digest of some bytes, as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// A tar archive of plain files.
///
/// # Errors
/// Never: what is written is memory.
pub fn tar_with(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).with_context(|| format!("add {name}"))?;
    }
    builder.into_inner().context("finish the archive")
}

/// Packs bytes with gzip.
///
/// # Errors
/// Never: what is written is memory.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).context("pack")?;
    encoder.finish().context("pack")
}

/// Packs bytes with zstd.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

//! Manifests and indexes: <https://github.com/opencontainers/image-spec>, and the Docker forms that they come from. Only what a disk's image needs of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::images::{Digest, printable};

/// What is accepted from a registry, and asked for.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The limit that the distribution specification asks registries to keep.
pub(super) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
const MAX_LAYERS: usize = 256;
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// A blob, as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// SHA-256 of its bytes as they are served.
    pub digest: Digest,
    /// Its size as it is served, in bytes.
    pub size: u64,
}

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageManifest {
    /// The image's configuration; none for an artifact that is no container image.
    pub config: Option<Descriptor>,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a manifest's bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    Image(ImageManifest),
    /// An index; the manifest for this node is elsewhere.
    Index(Descriptor),
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this form.
    #[error("it is no manifest of an image: {0}")]
    Damaged(String),
    /// The form that Docker gave up in 2017.
    #[error("it is a manifest of schema version 1; push the image again with a current tool")]
    Schema1,
    /// Too many of something.
    #[error("it has {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// No layer at all.
    #[error("it has no layer")]
    NoLayers,
    /// An index without this node's architecture.
    #[error("it has no image for linux/{wanted}, only for {found}")]
    NoPlatform {
        /// This node's architecture.
        wanted: &'static str,
        /// What it has.
        found: String,
    },
    /// An index of indexes.
    #[error("it is an index of indexes")]
    NestedIndex,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<IndexEntry>>,
}

#[derive(Deserialize)]
struct IndexEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl Manifest {
    /// Reads a manifest, or an index, of which the entry for `architecture` (in Go's words) is taken.
    ///
    /// # Errors
    /// If it is neither, or has nothing for that architecture.
    pub(super) fn parse(bytes: &[u8], architecture: &'static str) -> Result<Self, ManifestError> {
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::Damaged(printable(&error.to_string())))?;
        match wire {
            Wire { schema_version: 1, .. } => Err(ManifestError::Schema1),
            Wire { manifests: Some(_), layers: Some(_), .. } => {
                // One would be read here, and the other by whoever vouched for the image.
                Err(ManifestError::Damaged("it has both layers and manifests".to_owned()))
            }
            Wire { manifests: Some(entries), .. } => Self::choose(entries, architecture),
            Wire { layers: Some(layers), config, .. } if layers.len() <= MAX_LAYERS => {
                if layers.is_empty() {
                    return Err(ManifestError::NoLayers);
                }
                let config = config.filter(|config| CONFIGS.contains(&config.media_type.as_str()));
                Ok(Self::Image(ImageManifest { config, layers }))
            }
            Wire { layers: Some(layers), .. } => Err(ManifestError::TooManyLayers(layers.len())),
            Wire { .. } => Err(ManifestError::NoLayers),
        }
    }

    fn choose(entries: Vec<IndexEntry>, architecture: &'static str) -> Result<Self, ManifestError> {
        // Attestations lie in the index as images of no platform.
        let is_image = |entry: &IndexEntry| !entry.annotations.contains_key("vnd.docker.reference.type");
        let mut found = Vec::new();
        for entry in entries.into_iter().filter(is_image) {
            match entry.platform {
                None => return Ok(Self::Index(entry.descriptor)),
                Some(platform) if platform.os == "linux" && platform.architecture == architecture => {
                    return Ok(Self::Index(entry.descriptor));
                }
                Some(platform) => found.push(printable(&format!("{}/{}", platform.os, platform.architecture))),
            }
        }
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        Err(ManifestError::NoPlatform { wanted: architecture, found: found.chars().take(200).collect() })
    }
}

/// The digests of an image's layers as they are unpacked, the lowest first; empty if its configuration does not say.
///
/// # Errors
/// If it is no configuration.
pub(super) fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, ManifestError> {
    let config: Config =
        serde_json::from_slice(config).map_err(|error| ManifestError::Damaged(printable(&error.to_string())))?;
    Ok(config.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default())
}

/// This node's architecture, in the words of image indexes (Go's).
pub(super) const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::from_sha256(&[byte; 32])
    }

    fn entry(byte: u8, platform: Option<&str>) -> Value {
        let mut entry = json!({"mediaType": "m", "digest": digest(byte).to_string(), "size": 5});
        if let Some((os, architecture)) = platform.and_then(|platform| platform.split_once('/')) {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        entry
    }

    fn parse(value: &Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(value.to_string().as_bytes(), "amd64")
    }

    #[test]
    fn an_index_gives_this_nodes_architecture() {
        let mut attestation = entry(9, Some("unknown/unknown"));
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let both = json!({"schemaVersion": 2, "manifests": [attestation, entry(1, Some("linux/arm64")), entry(2, Some("linux/amd64"))]});
        let Manifest::Index(chosen) = parse(&both).unwrap() else { unreachable!("an index is no image") };
        assert_eq!(chosen.digest, digest(2));
        let other = json!({"schemaVersion": 2, "manifests": [attestation, entry(1, Some("linux/arm64")), entry(2, Some("windows/amd64"))]});
        assert_eq!(
            parse(&other).unwrap_err().to_string(),
            "it has no image for linux/amd64, only for linux/arm64, windows/amd64"
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let layer = || entry(1, None);
        let many = vec![layer(); MAX_LAYERS + 1];
        for (manifest, words) in [
            (json!([]), "no manifest"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema version 1"),
            (json!({"schemaVersion": 2}), "no layer"),
            (json!({"schemaVersion": 2, "layers": []}), "no layer"),
            (json!({"schemaVersion": 2, "layers": many}), "257 layers"),
            (json!({"schemaVersion": 2, "layers": [layer()], "manifests": []}), "both"),
            (json!({"schemaVersion": 2, "layers": [{"digest": "sha256:xyz", "size": 1}]}), "no manifest"),
            (json!({"schemaVersion": 2, "layers": [{"digest": digest(1).to_string(), "size": -1}]}), "no manifest"),
            (json!({"schemaVersion": 2, "manifests": [entry(1, Some("plan9/mips"))]}), "linux/amd64"),
        ] {
            let error = parse(&manifest).unwrap_err().to_string();
            assert!(error.contains(words), "{manifest}: {error}");
        }
    }
}

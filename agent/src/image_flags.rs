//! The flags that say how images are pulled and kept, of every program that does so.

use std::path::PathBuf;

use api::quantity::Quantity;
use clap::Args;

use crate::images::PullSettings;
use crate::options::ImageOptions;
use crate::registry::DEFAULT_REGISTRIES_DIR;

/// How images are pulled and kept.
#[derive(Clone, Debug, Args)]
pub struct ImageFlags {
    /// Directory with the configuration of registries: DIR/HOST/hosts.toml, as containerd's
    #[arg(long, env = "OVM_REGISTRIES_DIR", default_value = DEFAULT_REGISTRIES_DIR, value_name = "DIR", global = true)]
    pub registries_dir: PathBuf,
    /// Bytes that the image store may hold, such as 50Gi; pulled images that no VirtualMachine uses make room [default: no limit]
    #[arg(long, env = "OVM_IMAGE_STORE_LIMIT", value_name = "SIZE", value_parser = parse_size, global = true)]
    pub image_store_limit: Option<u64>,
    /// The largest disk that a pulled image may hold
    #[arg(long, env = "OVM_IMAGE_SIZE_LIMIT", value_name = "SIZE", value_parser = parse_size, default_value = PullSettings::DEFAULT_LIMIT, global = true)]
    pub image_size_limit: u64,
}

impl From<ImageFlags> for ImageOptions {
    fn from(flags: ImageFlags) -> Self {
        let pull = PullSettings { registries_dir: flags.registries_dir, limit_bytes: flags.image_size_limit };
        Self { pull, store_limit_bytes: flags.image_store_limit }
    }
}

/// A size as Kubernetes writes it: `50Gi`, `1.5Ti`, `1000000`.
fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = Quantity(text.to_owned()).to_units().map_err(|error| error.to_string())?;
    if bytes > 0 { Ok(bytes) } else { Err("must be above 0".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("50Gi", Some(50 << 30)),
            ("1.5Ki", Some(1536)),
            ("7", Some(7)),
            ("0", None),
            ("-1Gi", None),
            ("50 GB", None),
            ("", None),
            (PullSettings::DEFAULT_LIMIT, Some(PullSettings::DEFAULT_LIMIT_BYTES)),
        ] {
            assert_eq!(parse_size(text).ok(), bytes, "{text}");
        }
    }
}

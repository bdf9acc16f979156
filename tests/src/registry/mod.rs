//! Image registries for tests: Debian's `docker-registry` as users run it, a hostile one, and the images that are put there.

mod docker;
mod hostile;
mod image;
mod token;

pub use docker::{DockerRegistry, Options, PASSWORD, USER, why_unavailable};
pub use hostile::{Asked, HostileRegistry, Reply, blob_path};
pub use image::{TestImage, digest, gzip, tar_with, zstd};
pub use token::TokenServer;

//! A source of random numbers, so that a guest without other events finishes booting.

use serde::Serialize;

use super::alias::Alias;

/// `<rng model='virtio'>`
#[derive(Debug, Serialize)]
pub(crate) struct Rng {
    #[serde(rename = "@model")]
    model: &'static str,
    backend: Backend,
    alias: Alias,
}

#[derive(Debug, Serialize)]
struct Backend {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "$text")]
    path: &'static str,
}

impl Rng {
    pub(crate) fn make() -> Self {
        Self { model: "virtio", backend: Backend { model: "random", path: "/dev/urandom" }, alias: Alias::of("rng0") }
    }
}

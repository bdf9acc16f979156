//! The memory balloon. libvirt adds one where nothing is said; saying it gives it an alias of ours.

use serde::Serialize;

use super::alias::Alias;

/// `<memballoon model='virtio'/>`
#[derive(Debug, Serialize)]
pub(crate) struct MemBalloon {
    #[serde(rename = "@model")]
    model: &'static str,
    alias: Alias,
}

impl MemBalloon {
    pub(crate) fn make() -> Self {
        Self { model: "virtio", alias: Alias::of("balloon0") }
    }
}

//! The graphics card: plain VGA, as in KubeVirt v0.5.0. Its memory costs the host only what the guest touches.

use serde::Serialize;

use super::alias::Alias;

/// `<video>`
#[derive(Debug, Serialize)]
pub(crate) struct Video {
    model: Model,
    alias: Alias,
}

#[derive(Debug, Serialize)]
struct Model {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@vram")]
    vram_kib: u32,
    #[serde(rename = "@heads")]
    heads: u32,
}

impl Video {
    pub(crate) fn make() -> Self {
        Self { model: Model { kind: "vga", vram_kib: 16384, heads: 1 }, alias: Alias::of("video0") }
    }
}

//! The screen's VNC server. It listens nowhere: the agent gets its socket through `virDomainOpenGraphicsFD`.

use serde::Serialize;

/// `<graphics type='vnc'><listen type='none'/></graphics>`
#[derive(Debug, Serialize)]
pub(crate) struct Graphics {
    #[serde(rename = "@type")]
    kind: &'static str,
    listen: Listen,
}

#[derive(Debug, Serialize)]
struct Listen {
    #[serde(rename = "@type")]
    kind: &'static str,
}

impl Graphics {
    pub(crate) fn make() -> Self {
        Self { kind: "vnc", listen: Listen { kind: "none" } }
    }
}

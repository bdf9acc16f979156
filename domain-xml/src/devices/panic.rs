//! The device through which a guest says that its kernel panicked; without it such a guest runs on for ever.

use serde::Serialize;

use super::alias::Alias;

/// `<panic model='isa'/>`: pvpanic at port 0x505, for which Linux and Windows have drivers.
#[derive(Debug, Serialize)]
pub(crate) struct Panic {
    #[serde(rename = "@model")]
    model: &'static str,
    alias: Alias,
}

impl Panic {
    pub(crate) fn make() -> Self {
        Self { model: "isa", alias: Alias::of("panic0") }
    }
}

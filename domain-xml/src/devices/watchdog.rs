//! The watchdog that the user asked for.

use api::validated::ValidatedWatchdog;
use serde::Serialize;

use super::alias::Alias;

/// `<watchdog model='i6300esb' action='...'/>`
#[derive(Debug, Serialize)]
pub(crate) struct Watchdog {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "@action")]
    action: &'static str,
    alias: Alias,
}

impl Watchdog {
    pub(crate) fn make(watchdog: &ValidatedWatchdog) -> Self {
        Self { model: "i6300esb", action: watchdog.action.as_str(), alias: Alias::named("watchdog", &watchdog.name) }
    }
}

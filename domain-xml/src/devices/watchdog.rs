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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::tests::{Guest, elements};

    #[test]
    fn each_action_is_rendered() {
        for (wire, action) in [
            (json!({"action": "poweroff"}), "poweroff"),
            (json!({"action": "reset"}), "reset"),
            (json!({"action": "shutdown"}), "shutdown"),
            (json!({}), "reset"),
        ] {
            let guest = Guest::new(&json!({"devices": {"watchdog": {"name": "w", "i6300esb": wire}}}), &json!([]));
            let expected =
                format!(r#"<watchdog model="i6300esb" action="{action}"><alias name="ua-watchdog-w"/></watchdog>"#);
            assert_eq!(elements(&guest.xml(), "watchdog"), [expected]);
        }
    }

    #[test]
    fn no_watchdog_unless_asked_for() {
        assert!(elements(&Guest::guide().xml(), "watchdog").is_empty());
    }
}

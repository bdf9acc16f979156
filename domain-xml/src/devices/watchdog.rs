//! The watchdog that the user asked for.

use api::validated::ValidatedWatchdog;

use super::alias::Alias;
use super::place::Place;
use crate::DomainInput;
use crate::xml::XmlWriter;

/// `<watchdog model='i6300esb' action='...'/>`
#[derive(Debug)]
pub(crate) struct Watchdog<'a> {
    watchdog: &'a ValidatedWatchdog,
    place: Place<'a>,
}

impl<'a> Watchdog<'a> {
    pub(crate) fn make(input: &DomainInput<'a>, watchdog: &'a ValidatedWatchdog) -> Self {
        Self { watchdog, place: Place::of(input, Alias::named("watchdog", &watchdog.name)) }
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        let element = xml.element("watchdog").attribute("model", "i6300esb").attribute("action", self.watchdog.action);
        element.children(|xml| self.place.write(xml));
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

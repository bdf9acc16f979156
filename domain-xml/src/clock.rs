//! The guest's clock and timers.
//!
//! Every timer, present or not, with each tick policy and track that admission lets through, was started under libvirt 11.3 and QEMU 10.0.2; none is
//! refused, under emulation either.

use api::validated::{ClockBase, TimerSetting, ValidatedClock};

use crate::RenderError;
use crate::text::check_text;
use crate::xml::XmlWriter;

/// `<clock>`
#[derive(Debug)]
pub(crate) struct Clock<'a> {
    clock: &'a ValidatedClock,
}

impl<'a> Clock<'a> {
    pub(crate) fn make(clock: &'a ValidatedClock) -> Result<Self, RenderError> {
        if let ClockBase::Timezone(zone) = &clock.base {
            check_text(&"clock.timezone", zone)?;
        }
        Ok(Self { clock })
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        let element = xml.element("clock");
        let element = match &self.clock.base {
            ClockBase::Utc { offset_seconds: 0 } => element.attribute("offset", "utc"),
            ClockBase::Utc { offset_seconds } => {
                element.attribute("offset", "variable").attribute("adjustment", offset_seconds)
            }
            ClockBase::Timezone(zone) => element.attribute("offset", "timezone").attribute("timezone", zone),
        };
        element.children(|xml| {
            write_timer(xml, "rtc", self.clock.rtc);
            write_timer(xml, "pit", self.clock.pit);
            write_timer(xml, "hpet", self.clock.hpet);
            write_timer(xml, "kvmclock", self.clock.kvm);
            write_timer(xml, "hypervclock", self.clock.hyperv);
        });
    }
}

fn write_timer(xml: &mut XmlWriter, name: &'static str, setting: Option<TimerSetting>) {
    let Some(timer) = setting else { return };
    let element =
        xml.element("timer").attribute("name", name).attribute("present", if timer.present { "yes" } else { "no" });
    element.optional("tickpolicy", timer.tick_policy).optional("track", timer.track).empty();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::tests::{Guest, elements};

    #[test]
    fn clock_and_timers_are_as_asked_for() {
        let timers = |timers: &[&str]| format!(r#"<clock offset="utc">{}</clock>"#, timers.concat());
        let cases = [
            (json!({}), r#"<clock offset="utc"/>"#.to_owned()),
            (json!({"utc": {}}), r#"<clock offset="utc"/>"#.to_owned()),
            (json!({"utc": {"offsetSeconds": 90}}), r#"<clock offset="variable" adjustment="90"/>"#.to_owned()),
            (json!({"utc": {"offsetSeconds": -90}}), r#"<clock offset="variable" adjustment="-90"/>"#.to_owned()),
            (json!({"timezone": "Europe/Berlin"}), r#"<clock offset="timezone" timezone="Europe/Berlin"/>"#.to_owned()),
            (json!({"timer": null}), r#"<clock offset="utc"/>"#.to_owned()),
            (json!({"timer": {"hpet": {"present": false}}}), timers(&[r#"<timer name="hpet" present="no"/>"#])),
            (
                json!({"timer": {"hpet": {"tickPolicy": "merge"}}}),
                timers(&[r#"<timer name="hpet" present="yes" tickpolicy="merge"/>"#]),
            ),
            (
                json!({"timer": {"pit": {"tickPolicy": "discard"}}}),
                timers(&[r#"<timer name="pit" present="yes" tickpolicy="discard"/>"#]),
            ),
            (
                json!({"timer": {"rtc": {"tickPolicy": "catchup", "track": "wall"}}}),
                timers(&[r#"<timer name="rtc" present="yes" tickpolicy="catchup" track="wall"/>"#]),
            ),
            (
                json!({"timer": {"kvm": {}, "hyperv": {"present": false}}}),
                timers(&[r#"<timer name="kvmclock" present="yes"/>"#, r#"<timer name="hypervclock" present="no"/>"#]),
            ),
        ];
        for (clock, expected) in cases {
            let xml = Guest::new(&json!({"clock": clock, "devices": {}}), &json!([])).xml();
            assert_eq!(elements(&xml, "clock"), [expected], "{clock}");
        }
    }
}

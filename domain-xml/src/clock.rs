//! The guest's clock and timers.
//!
//! Every timer, present or not, with each tick policy and track that admission lets through, was started under libvirt 11.3 and QEMU 10.0.2; none is
//! refused, under emulation either.

use api::validated::{ClockBase, TickPolicy, TimerSetting, TimerTrack, ValidatedClock};
use serde::Serialize;

use crate::RenderError;
use crate::text::check_text;

/// `<clock>`
#[derive(Debug, Serialize)]
pub(crate) struct Clock<'a> {
    #[serde(rename = "@offset")]
    offset: &'static str,
    /// Seconds to UTC, with `offset='variable'`.
    #[serde(rename = "@adjustment", skip_serializing_if = "Option::is_none")]
    adjustment: Option<i64>,
    #[serde(rename = "@timezone", skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
    #[serde(rename = "timer")]
    timers: Vec<Timer>,
}

/// `<timer>`
#[derive(Debug, Serialize)]
struct Timer {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@present")]
    present: &'static str,
    #[serde(rename = "@tickpolicy", skip_serializing_if = "Option::is_none")]
    tick_policy: Option<&'static str>,
    #[serde(rename = "@track", skip_serializing_if = "Option::is_none")]
    track: Option<&'static str>,
}

impl<'a> Clock<'a> {
    pub(crate) fn make(clock: &'a ValidatedClock) -> Result<Self, RenderError> {
        let (offset, adjustment, timezone) = match &clock.base {
            ClockBase::Utc { offset_seconds: 0 } => ("utc", None, None),
            ClockBase::Utc { offset_seconds } => ("variable", Some(*offset_seconds), None),
            ClockBase::Timezone(zone) => ("timezone", None, Some(check_text(&"clock.timezone", zone)?)),
        };
        let timers = [
            ("rtc", clock.rtc),
            ("pit", clock.pit),
            ("hpet", clock.hpet),
            ("kvmclock", clock.kvm),
            ("hypervclock", clock.hyperv),
        ];
        let timers = timers.into_iter().filter_map(|(name, setting)| Some(Timer::make(name, setting?))).collect();
        Ok(Self { offset, adjustment, timezone, timers })
    }
}

impl Timer {
    fn make(name: &'static str, setting: TimerSetting) -> Self {
        Self {
            name,
            present: if setting.present { "yes" } else { "no" },
            tick_policy: setting.tick_policy.map(TickPolicy::as_str),
            track: setting.track.map(TimerTrack::as_str),
        }
    }
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

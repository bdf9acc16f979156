//! The guest's clock and timers.

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

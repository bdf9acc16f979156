//! From a wish to a running guest, and from a guest's end to its successor. Floor and product are measured in turn, so that what slows the machine for
//! a while slows both.

use std::time::Duration;

use agent::libvirt::Lifecycle;
use anyhow::{Context as _, Result};
use tests::stack::NAMESPACE;
use uuid::Uuid;

use crate::figure::{Figure, Goal};
use crate::floor::Floor;
use crate::rig::{Rig, domain_name, next, press_until_off, settle};
use crate::rounds::{listed, median, milliseconds};

const START_GOAL: f64 = 1.15;
const POWER_OFF_GOAL: f64 = 1.5;
/// A guest that ends within ten seconds is held back at its next start, on purpose; these are not such guests.
const OLD_ENOUGH: Duration = Duration::from_secs(13);

/// The rounds of one figure.
#[derive(Default)]
struct Rounds {
    floors: Vec<Duration>,
    values: Vec<Duration>,
}

/// From a guest's end until its successor runs.
struct Revival {
    /// Since libvirt had the domain shut off.
    since_stopped: Duration,
    /// Since the guest powered off.
    since_powered_off: Duration,
}

/// `spec.running: true` until the domain runs. Leaves the guests of the rounds running.
///
/// # Errors
/// When a guest does not start.
pub(crate) fn measure_starts(rig: &Rig, floor: &Floor, rounds: usize) -> Result<Figure> {
    let mut starts = Rounds::default();
    for guest in rig.measured().iter().take(rounds) {
        starts.floors.push(floor.start(rig)?);
        settle();
        starts.values.push(rig.start_guest(guest).with_context(|| format!("start {guest}"))?);
        settle();
    }
    starts.into_figure("start", START_GOAL)
}

/// A guest powers off until its successor runs. Takes the guests that [`measure_starts`] started.
///
/// One measurement, three figures: `poweroff` from the guest's own power-off, beside libvirt's define and create; `poweroff-from-stopped` from the
/// moment that libvirt has the domain shut off, which takes it up to 0.2 s, beside the same; and `poweroff-beside-restart` from the power-off, beside
/// libvirt's own stop, undefine, define and create.
///
/// # Errors
/// When a guest does not end, or has no successor.
pub(crate) fn measure_power_offs(rig: &Rig, floor: &Floor, rounds: usize) -> Result<[Figure; 3]> {
    std::thread::sleep(OLD_ENOUGH);
    let (mut strict, mut since_stopped, mut beside_restart) = (Rounds::default(), Rounds::default(), Rounds::default());
    for guest in rig.measured().iter().take(rounds) {
        let libvirts = floor.start_again(rig)?;
        settle();
        let ours = revive(rig, guest).with_context(|| format!("power {guest} off"))?;
        settle();
        strict.add(libvirts.first, ours.since_powered_off);
        since_stopped.add(libvirts.first, ours.since_stopped);
        beside_restart.add(libvirts.total, ours.since_powered_off);
    }
    Ok([
        strict.into_figure("poweroff", POWER_OFF_GOAL)?,
        since_stopped.into_figure("poweroff-from-stopped", POWER_OFF_GOAL)?,
        beside_restart.into_figure("poweroff-beside-restart", POWER_OFF_GOAL)?,
    ])
}

/// Lets a guest power itself off, and waits for its successor.
fn revive(rig: &Rig, name: &str) -> Result<Revival> {
    let uuid = Uuid::parse_str(&rig.stack.firmware_uuid(NAMESPACE, name)?).context("read the guest's UUID")?;
    let domain = domain_name(name);
    rig.runtime.block_on(async {
        let mut events = rig.libvirt.events();
        let end = press_until_off(rig, &mut events, &domain, uuid).await?;
        let running = next(&mut events, &domain, |event| matches!(event, Lifecycle::Started(_))).await?;
        Ok(Revival {
            since_stopped: running.duration_since(end.stopped),
            since_powered_off: running.duration_since(end.powered_off),
        })
    })
}

impl Rounds {
    fn add(&mut self, floor: Duration, value: Duration) {
        self.floors.push(floor);
        self.values.push(value);
    }

    fn into_figure(self, name: &'static str, goal: f64) -> Result<Figure> {
        eprintln!("{name}: floors {}, values {}", listed(&self.floors), listed(&self.values));
        let middle = |rounds| median(rounds).map(milliseconds).context("there are no rounds");
        let (value, floor) = (middle(self.values)?, middle(self.floors)?);
        Ok(Figure { name, value, unit: "ms", floor: Some(floor), goal: Goal::TimesFloor(goal) })
    }
}

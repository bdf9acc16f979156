//! From a wish to a running guest, and from a guest's end to its successor.

use std::time::{Duration, Instant};

use agent::libvirt::Lifecycle;
use anyhow::{Context as _, Result, ensure};
use tests::stack::NAMESPACE;
use tokio::time::timeout;
use uuid::Uuid;

use crate::figure::{Figure, Goal};
use crate::floor::Floor;
use crate::rig::{Rig, domain_name, next, settle};
use crate::rounds::{listed, median, milliseconds};

const START_GOAL: f64 = 1.15;
const POWER_OFF_GOAL: f64 = 1.5;
/// A guest that ends within ten seconds is held back at its next start, on purpose; these are not such guests.
const OLD_ENOUGH: Duration = Duration::from_secs(13);
/// A guest that does not see its power button was still booting: press again.
const PRESS_AGAIN: Duration = Duration::from_secs(3);
const PRESSES: usize = 10;

/// `spec.running: true` until the domain runs. Leaves the guests of the rounds running.
///
/// # Errors
/// When a guest does not start.
pub(crate) fn measure_starts(rig: &Rig, floor: &Floor, rounds: usize) -> Result<Figure> {
    let guests = rig.measured().iter().cycle().take(rounds);
    measure("start", START_GOAL, rig, floor, guests, |name| rig.start_guest(name))
}

/// A guest powers off until its successor runs. Takes the guests that [`measure_starts`] started.
///
/// # Errors
/// When a guest does not end, or has no successor.
pub(crate) fn measure_power_offs(rig: &Rig, floor: &Floor, rounds: usize) -> Result<Figure> {
    std::thread::sleep(OLD_ENOUGH);
    let guests = rig.measured().iter().cycle().take(rounds);
    measure("poweroff", POWER_OFF_GOAL, rig, floor, guests, |name| power_off(rig, name))
}

/// Floor and product in turn, so that what slows the machine for a while slows both.
fn measure<'a>(
    name: &'static str,
    goal: f64,
    rig: &Rig,
    floor: &Floor,
    guests: impl Iterator<Item = &'a String>,
    measured: impl Fn(&str) -> Result<Duration>,
) -> Result<Figure> {
    let (mut floors, mut values) = (Vec::new(), Vec::new());
    for guest in guests {
        floors.push(floor.start(rig)?);
        settle();
        values.push(measured(guest).with_context(|| format!("{name} of {guest}"))?);
        settle();
    }
    eprintln!("{name}: floors {}, values {}", listed(&floors), listed(&values));
    let value = milliseconds(median(values).context("there are no rounds")?);
    let floor = milliseconds(median(floors).context("there are no rounds")?);
    Ok(Figure { name, value, unit: "ms", floor: Some(floor), goal: Goal::TimesFloor(goal) })
}

/// Lets a guest power itself off; returns how long it took from then until libvirt said that the guest's successor runs.
fn power_off(rig: &Rig, name: &str) -> Result<Duration> {
    let uuid = Uuid::parse_str(&rig.stack.firmware_uuid(NAMESPACE, name)?).context("read the guest's UUID")?;
    let domain = domain_name(name);
    let is_end = |event| matches!(event, Lifecycle::Shutdown(_) | Lifecycle::Stopped(_));
    rig.runtime.block_on(async {
        let mut events = rig.libvirt.events();
        let mut ended: Option<Instant> = None;
        for _ in 0..PRESSES {
            rig.libvirt.shut_down(uuid).await.context("press the power button")?;
            if let Ok(end) = timeout(PRESS_AGAIN, next(&mut events, &domain, is_end)).await {
                ended = Some(end?);
                break;
            }
        }
        let ended = ended.context("the guest ignores its power button")?;
        let running = next(&mut events, &domain, |event| matches!(event, Lifecycle::Started(_))).await?;
        ensure!(running > ended, "a successor runs before its predecessor has ended");
        Ok(running.duration_since(ended))
    })
}

//! Many guests of one image start at once: it is pulled once, and the guests hardly wait for it.

use std::time::{Duration, Instant};

use agent::libvirt::{Event, GuestEventKind, Lifecycle};
use anyhow::{Context as _, Result, bail, ensure};
use tests::boot_sector::OBEYS_POWER_BUTTON;
use tests::machines::offline_machine;
use tests::registry::{DockerRegistry, TestImage, digest};
use tests::stack::NAMESPACE;
use tests::wait::wait_for;
use tokio::time::timeout;

use crate::figure::{Figure, Goal};
use crate::rig::{Rig, domain_name, settle};
use crate::rounds::{listed, median, milliseconds};

const GUESTS: usize = 20;
/// A round takes half a minute.
const MAX_ROUNDS: usize = 3;
const START_GOAL: f64 = 1.1;
const DISK_BYTES: usize = 4 << 20;
const DEADLINE: Duration = Duration::from_mins(3);

/// `start-shared`: the median of twenty guests' starts at once, of an image that has to be pulled first, beside the same of one that is there.
/// `pulls-shared`: how often the registry was asked for its layer.
///
/// # Errors
/// When a guest does not start.
pub(crate) fn measure(rig: &Rig, registry: &DockerRegistry, rounds: usize) -> Result<[Figure; 2]> {
    let (mut pulled, mut imported, mut asked) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds.min(MAX_ROUNDS) {
        let image = TestImage::of_disk("disk.img", &disk(round))?;
        registry.push(&format!("shared:{round}"), &image)?;
        let name = format!("there:{round}");
        rig.stack.import_sector(&name, &OBEYS_POWER_BUTTON)?;
        imported.extend(start_all(rig, &name)?);
        pulled.extend(start_all(rig, &registry.image(&format!("shared:{round}")))?);
        asked = asked.max(registry.requests("GET", &digest(&image.blobs[1])));
    }
    eprintln!("start-shared: there {}; pulled {}", listed(&imported), listed(&pulled));
    let middle = |taken| median(taken).map(milliseconds).context("there are no rounds");
    let (value, floor) = (middle(pulled)?, Some(middle(imported)?));
    let starts = Figure { name: "start-shared", value, unit: "ms", floor, goal: Goal::TimesFloor(START_GOAL) };
    let value = u32::try_from(asked).map_or(f64::MAX, f64::from);
    let pulls = Figure { name: "pulls-shared", value, unit: "pulls", floor: None, goal: Goal::AtMost(1.0) };
    Ok([starts, pulls])
}

/// Sets twenty machines running, waits until all run, and deletes them; returns how long each took since the first was set.
fn start_all(rig: &Rig, image: &str) -> Result<Vec<Duration>> {
    let names: Vec<String> = (0..GUESTS).map(|index| format!("shared-{index}")).collect();
    for name in &names {
        rig.stack.client.create(&offline_machine(NAMESPACE, name, image, false))?;
    }
    settle();
    let taken = rig.runtime.block_on(async {
        let mut events = rig.libvirt.events();
        let begun = Instant::now();
        for name in &names {
            rig.set_running(name).await?;
        }
        let mut waiting: Vec<String> = names.iter().map(|name| domain_name(name)).collect();
        let mut taken = Vec::new();
        let all = async {
            while !waiting.is_empty() {
                match events.next().await {
                    Some(Event::Guest(event)) => {
                        if matches!(event.kind, GuestEventKind::Lifecycle(Lifecycle::Started(_)))
                            && let Some(at) = waiting.iter().position(|name| *name == event.name)
                        {
                            waiting.swap_remove(at);
                            taken.push(begun.elapsed());
                        }
                    }
                    other => bail!("libvirt's events broke off: {other:?}"),
                }
            }
            Ok(())
        };
        timeout(DEADLINE, all).await.context("the guests do not all run")??;
        anyhow::Ok(taken)
    })?;
    for name in &names {
        rig.stack.client.kubectl(&["delete", "ovm", name, "--wait=false"])?;
    }
    wait_for("the guests are gone", DEADLINE, || {
        let left = rig.stack.client.kubectl(&["get", "ovm,vm", "--output=name"])?;
        ensure!(!left.contains("/shared-"), "there are {left}");
        Ok(())
    })?;
    settle();
    Ok(taken)
}

/// Another disk each round: a boot sector, and something to pull.
fn disk(round: usize) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES];
    disk.iter_mut().zip((round..).map(|at| at.wrapping_mul(2_654_435_761) >> 13)).for_each(|(byte, at)| {
        *byte = at.to_le_bytes()[0];
    });
    disk.splice(..OBEYS_POWER_BUTTON.len(), OBEYS_POWER_BUTTON);
    disk
}

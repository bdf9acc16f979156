//! What the controller costs on a real kube-apiserver, from no OfflineVirtualMachine to ten thousand. There are no agents: a VirtualMachine that is bound
//! has got everything that the controller does for a start.

mod calls;
mod cluster;
mod controller;
mod load;

use std::time::Duration;

use anyhow::Result;
use tests::kube::why_unavailable;

use crate::figure::{Figure, Goal};
use cluster::Cluster;
use controller::Controller;
use load::Burst;

/// OVMs in the burst whose figures count.
const BURST: usize = 1_000;
/// OVMs of the first burst: it takes what only the first guests pay, and memory growth counts from here.
const FIRST: usize = 100;
/// Calls for a VM that the rate is judged by.
const CALLS_PER_VM: f64 = 5.0;

const RATE_GOAL: f64 = 0.8;
const CPU_GOAL_MS: f64 = 1.0;
const IDLE_GOAL_MB: f64 = 20.0;
const FULL_GOAL_MB: f64 = 60.0;
/// What leads from the one goal to the other.
const GROWTH_GOAL_KB: f64 = 4.0;
const CPU_GROWTH_GOAL: f64 = 1.5;

/// Measures every figure of the controller, with `total` OVMs in the end, each printed by `report` when it is known. Without a Kubernetes to measure on that is said, loudly.
///
/// # Errors
/// When the servers do not start, or an OVM's VirtualMachine is not bound in time.
pub(crate) fn measure(total: usize, report: &mut dyn FnMut(Figure)) -> Result<()> {
    if let Some(reason) = why_unavailable() {
        eprintln!("SKIPPED the controller's figures: {reason}");
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let raw = cluster.raw_create_rate(BURST)?;
    eprintln!("kube-apiserver: {raw:.0} VirtualMachines created a second by {} clients", load::CLIENTS);
    let controller = Controller::start(&cluster)?;
    report(megabytes("controller-rss-idle", controller.resident_bytes()?, IDLE_GOAL_MB));

    cluster.run_burst("first", FIRST, &controller)?;
    let few = controller.resident_bytes()?;
    let burst = cluster.run_burst("burst", BURST, &controller)?;
    let floor = Some(raw / CALLS_PER_VM);
    let (value, goal) = (burst.per_second(), Goal::AtLeastTimesFloor(RATE_GOAL));
    report(Figure { name: "controller-rate", value, unit: "VM/s", floor, goal });
    let (value, goal) = (burst.calls_per_vm(), Goal::AtMost(CALLS_PER_VM));
    report(Figure { name: "controller-calls", value, unit: "calls", floor: None, goal });
    let (value, goal) = (cpu_ms(&burst), Goal::AtMost(CPU_GOAL_MS));
    report(Figure { name: "controller-cpu", value, unit: "ms", floor: None, goal });

    cluster.fill("fill", total.saturating_sub(FIRST + 2 * BURST))?;
    let last = cluster.run_burst("last", BURST, &controller)?;
    let full = controller.resident_bytes()?;
    report(megabytes("controller-rss", full, FULL_GOAL_MB));
    let grown = u32::try_from(total.saturating_sub(FIRST)).map_or(f64::MAX, f64::from);
    let (value, goal) = ((full - few) / grown / 1e3, Goal::AtMost(GROWTH_GOAL_KB));
    report(Figure { name: "controller-rss-growth", value, unit: "kB", floor: None, goal });
    let (value, floor, goal) = (cpu_ms(&last), Some(cpu_ms(&burst)), Goal::TimesFloor(CPU_GROWTH_GOAL));
    report(Figure { name: "controller-cpu-growth", value, unit: "ms", floor, goal });
    Ok(())
}

fn megabytes(name: &'static str, bytes: f64, goal: f64) -> Figure {
    Figure { name, value: bytes / 1e6, unit: "MB", floor: None, goal: Goal::AtMost(goal) }
}

/// CPU time of the controller for each VM of a burst.
fn cpu_ms(burst: &Burst) -> f64 {
    burst.cpu.div_f64(burst.vms()).as_secs_f64() * 1e3
}

/// After a burst, until what it left to do is done too.
const SETTLE: Duration = Duration::from_secs(3);

//! What `make bench` runs: each figure of the project measured on real servers and guests, its floor in the same run, and printed as one line.
//!
//! ```text
//! bench NAME value=V unit=U floor=F ratio=R goal=G met|short
//! ```
//! A goal that is missed is printed as `short`; only a figure that could not be measured is an error. `docs/benchmarks.md` says what each figure means.

mod cold_start;
mod exposure;
mod figure;
mod floor;
mod lifecycle;
mod process;
mod pulls;
mod render;
mod rig;
mod rounds;
mod scale;
mod shared_image;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tests::registry::{DockerRegistry, Options as RegistryOptions};

use crate::figure::Figure;
use crate::floor::Floor;
use crate::rig::Rig;

/// Guests that run while memory and idle CPU are measured.
const GUESTS: usize = 20;

#[derive(Debug, Parser)]
#[command(
    name = "bench",
    about = "Measures the project's figures; the programs are beside this one, or in OVM_PROGRAMS"
)]
struct Arguments {
    /// Rounds of each figure that has several; the median counts
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=19))]
    rounds: u16,
    /// File that the figures are written to, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
    /// Machines in the end, of the controller's figures; two bursts of a thousand and one of a hundred are among them
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(2_100..=50_000))]
    machines: u16,
    /// Measure only this part
    #[arg(long)]
    only: Option<Part>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One host: ovm-standalone and its guests
    Host,
    /// Images from a registry
    Images,
    /// The controller on a real kube-apiserver
    Controller,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut figures = Vec::new();
    let mut report = |figure: Figure| {
        println!("{figure}");
        figures.push(figure);
    };
    let is_asked_for = |part| arguments.only.is_none_or(|only| only == part);
    if is_asked_for(Part::Host) {
        measure_host(usize::from(arguments.rounds), &mut report)?;
    }
    if is_asked_for(Part::Images) {
        measure_images(usize::from(arguments.rounds), &mut report)?;
    }
    if is_asked_for(Part::Controller) {
        scale::measure(usize::from(arguments.machines), &mut report)?;
    }
    figure::write(&arguments.json, &figures).with_context(|| format!("write {}", arguments.json.display()))
}

/// Everything about one host.
fn measure_host(rounds: usize, report: &mut dyn FnMut(Figure)) -> Result<()> {
    report(render::measure()?);
    for figure in exposure::measure()? {
        report(figure);
    }

    let mut rig = Rig::start(GUESTS)?;
    let floor = Floor::like(&rig, rig::WARM_UP)?;
    report(lifecycle::measure_starts(&rig, &floor, rounds)?);
    for figure in lifecycle::measure_power_offs(&rig, &floor, rounds)? {
        report(figure);
    }
    rig.run_all()?;
    for figure in process::measure_idle(&rig)? {
        report(figure);
    }
    report(cold_start::measure(&mut rig, rounds)?);
    Ok(())
}

/// Everything about images, from a registry on this host.
fn measure_images(rounds: usize, report: &mut dyn FnMut(Figure)) -> Result<()> {
    if let Some(reason) = tests::registry::why_unavailable() {
        eprintln!("SKIPPED the figures of images: {reason}");
        return Ok(());
    }
    let scratch = tempfile::tempdir().context("make a directory")?;
    let registry = DockerRegistry::start(&scratch.path().join("registry"), RegistryOptions::default())?;
    for figure in pulls::measure(&registry, scratch.path(), rounds)? {
        report(figure);
    }
    report(pulls::measure_store(&registry, scratch.path())?);
    for figure in shared_image::measure(&Rig::start(1)?, &registry, rounds)? {
        report(figure);
    }
    Ok(())
}

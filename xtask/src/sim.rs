//! `cargo xtask sim`: the simulation of `plan::sim`, for as many seeds as one likes, on every core.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use plan::sim::{Milestone, Reach, Run};

/// How often progress is printed.
const PROGRESS: Duration = Duration::from_secs(10);

/// Which seeds.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many seeds to run
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    from: u64,
    /// Runs this one seed only, and prints everything that happens in it
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Prints how often the runs reached what they should
    #[arg(long)]
    reach: bool,
}

/// What the threads share.
struct Shared {
    next: AtomicU64,
    end: u64,
    /// The lowest seed that failed.
    failed: Mutex<Option<Run>>,
    reach: Mutex<Reach>,
}

/// Runs the seeds; an error names the lowest that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    match options.seed {
        Some(seed) => replay(seed),
        None => run_many(options),
    }
}

fn replay(seed: u64) -> Result<()> {
    let run = plan::sim::run(seed, true);
    for line in &run.trace {
        println!("{line}");
    }
    if let Some(violation) = run.violation {
        bail!("seed {seed}: {violation}");
    }
    println!("seed {seed}: nothing is violated");
    Ok(())
}

fn run_many(options: &Options) -> Result<()> {
    let start = Instant::now();
    let shared = Shared {
        next: AtomicU64::new(options.from),
        end: options.from.saturating_add(options.seeds),
        failed: Mutex::new(None),
        reach: Mutex::new(Reach::default()),
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for index in 0..threads {
            let shared = &shared;
            scope.spawn(move || work(shared, index == 0, start));
        }
    });
    let done = shared.next.load(Ordering::Relaxed).min(shared.end) - options.from;
    println!("{done} seeds in {:.1} s, {:.0} seeds/s", start.elapsed().as_secs_f64(), per_second(done, start));
    if options.reach {
        let reach = lock(&shared.reach);
        for milestone in Milestone::ALL {
            println!("{:10} {milestone:?}", reach.count(*milestone));
        }
    }
    match lock(&shared.failed).take() {
        Some(run) => bail!(
            "seed {}: {}\nreplay: cargo xtask sim --seed {}",
            run.seed,
            run.violation.unwrap_or_default(),
            run.seed
        ),
        None => Ok(()),
    }
}

/// Takes one seed after another, until all are taken or one below has failed.
fn work(shared: &Shared, reports: bool, start: Instant) {
    let mut reported = Instant::now();
    let mut reach = Reach::default();
    loop {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if seed >= shared.end || lock(&shared.failed).as_ref().is_some_and(|failed| failed.seed < seed) {
            break;
        }
        let run = plan::sim::run(seed, false);
        reach.add(&run.reach);
        if run.violation.is_some() {
            let mut failed = lock(&shared.failed);
            if failed.as_ref().is_none_or(|failed| seed < failed.seed) {
                *failed = Some(run);
            }
        }
        if reports && reported.elapsed() >= PROGRESS {
            reported = Instant::now();
            eprintln!("seed {seed}, {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    lock(&shared.reach).add(&reach);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(count: u64, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

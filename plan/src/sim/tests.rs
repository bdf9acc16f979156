//! Random runs. The scenarios of the protocol are beside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;

/// Seeds that every `cargo test` runs; `cargo xtask sim` runs as many as one likes.
const SEEDS: u64 = 2_000;
/// Threads that share them.
const THREADS: usize = 2;

/// I1 to I4 and I6 hold after every step, the world comes to rest, and the runs reached all that there is to reach.
#[test]
fn i1_to_i4_and_i6_hold_under_random_trouble() {
    let next = AtomicU64::new(0);
    let work = || {
        let mut reach = Reach::default();
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < SEEDS) {
            let run = run(seed, false);
            if let Some(violation) = run.violation {
                let trace = super::run(seed, true).trace.join("\n");
                panic!("{trace}\nseed {seed}: {violation}\nreplay: cargo xtask sim --seed {seed}");
            }
            reach.add(&run.reach);
        }
        reach
    };
    let mut all = Reach::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all.add(&thread.join().expect("the seed that failed is printed above"));
        }
    });
    let missed: Vec<_> = Milestone::ALL.iter().filter(|milestone| all.count(**milestone) == 0).collect();
    assert!(missed.is_empty(), "a simulation that never gets there finds nothing there: {missed:?}");
}

#[test]
fn a_seed_replays() {
    let (first, again) = (run(12, true), run(12, true));
    assert!(first.trace.len() > 100, "{} lines", first.trace.len());
    assert_eq!(first.trace, again.trace);
    assert_eq!(run(12, false).reach, first.reach, "and a trace changes nothing");
}

/// Chance alone finds what the scenarios script: each of these rules gone, some seed goes wrong. (F2 takes one seed of some thousands.)
#[test]
fn random_trouble_finds_a_missing_rule() {
    let missing = [
        ("S2", Lies { templates_look_current: true, ..Lies::default() }),
        ("E1", Lies { proc_clear: true, ..Lies::default() }),
        ("F1", Lies { leases_expired: true, ..Lies::default() }),
        ("S5", Lies { journal_without_starts: true, ..Lies::default() }),
        ("E4", Lies { agents_see_no_placement: true, ..Lies::default() }),
        ("E5", Lies { controllers_see_no_placement: true, ..Lies::default() }),
    ];
    for (rule, lies) in missing {
        let found = (0..4 * SEEDS).find_map(|seed| run_under(seed, false, lies).violation.map(|what| (seed, what)));
        println!("without {rule}: {found:?}");
        assert!(found.is_some(), "without {rule} nothing goes wrong in {} seeds", 4 * SEEDS);
    }
}

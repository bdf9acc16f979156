use super::*;

/// Seeds that every `cargo test` runs.
const SEEDS: u64 = 300;

#[test]
fn invariants_hold_under_random_trouble() {
    let mut reach = Reach::default();
    for seed in 0..SEEDS {
        let run = run(seed, false);
        reach.add(&run.reach);
        if let Some(violation) = run.violation {
            let trace = super::run(seed, true).trace;
            panic!("seed {seed}: {violation}\n{}\nreplay: cargo xtask sim --seed {seed}", trace.join("\n"));
        }
    }
    println!("{reach:?}");
}

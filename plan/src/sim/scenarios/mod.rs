//! The scenarios of `docs/protocol.md`, one test a row of its table, scripted through the real planners.
//!
//! Each script is played twice: as things are, and nothing may go wrong; and under [`Lies`] that take away the rule of the row's second column, and
//! then it must go wrong as the third column says. Where another rule catches the same, both are taken away, and the test says so.

mod deletion;
mod ends;
mod fences;
mod placement;
mod records;
mod stage;
mod starts;
mod taints;

use super::Lies;
use stage::Stage;

/// What went wrong in a play, and what happened.
fn play(lies: Lies, script: fn(&mut Stage)) -> (Vec<String>, String) {
    let mut stage = Stage::new(lies);
    script(&mut stage);
    stage.close()
}

/// Nothing goes wrong as things are.
#[track_caller]
fn holds(script: fn(&mut Stage)) {
    let (violations, trace) = play(Lies::default(), script);
    assert!(violations.is_empty(), "{violations:#?}\n{trace}");
}

/// Without its rule, this goes wrong.
#[track_caller]
fn breaks(lies: Lies, script: fn(&mut Stage), how: &str) {
    let (violations, trace) = play(lies, script);
    assert!(violations.iter().any(|violation| violation.contains(how)), "not {how:?} but {violations:#?}\n{trace}");
}

/// Another rule catches it.
#[track_caller]
fn is_caught(lies: Lies, script: fn(&mut Stage), how: &str) {
    let (violations, trace) = play(lies, script);
    assert!(!violations.iter().any(|violation| violation.contains(how)), "{violations:#?}\n{trace}");
}

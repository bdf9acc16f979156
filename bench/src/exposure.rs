//! What systemd makes of the services' sandboxes. Of the unit files alone: no service runs for it.

use std::process::Command;

use anyhow::{Context as _, Result};
use tests::programs::{output, repository, say_skipped};

use crate::figure::{Figure, Goal};

/// From 0 (shut off) to 10 (everything open), as `systemd-analyze security` counts.
const GOAL: f64 = 2.0;
/// Each service, and the name of its figure.
const SERVICES: [(&str, &str); 2] =
    [("ovm-agent.service", "exposure-agent"), ("ovm-standalone.service", "exposure-standalone")];

/// Asks systemd-analyze; nothing where there is none.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        say_skipped("exposure", "systemd-analyze is not installed");
        return Ok(Vec::new());
    }
    SERVICES.iter().map(|(unit, name)| one(unit, name)).collect()
}

fn one(unit: &str, name: &'static str) -> Result<Figure> {
    let file = repository().join("systemd").join(unit);
    let said = output(Command::new("systemd-analyze").args(["security", "--no-pager", "--offline=true"]).arg(&file))?;
    let line = said.lines().find(|line| line.contains("Overall exposure level")).context("it says no level")?;
    let level = line.rsplit(": ").next().and_then(|rest| rest.split_whitespace().next());
    let value = level.and_then(|level| level.parse().ok()).with_context(|| format!("{line:?} has no number"))?;
    Ok(Figure { name, value, unit: "of_10", floor: None, goal: Goal::AtMost(GOAL) })
}

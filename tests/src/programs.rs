//! The project's programs, as they were built beside the tests, and programs of the host that the suites drive them with.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Names the folder of the programs, where they are not beside the tests.
const FOLDER_VARIABLE: &str = "OVM_PROGRAMS";

/// How much of a log a failed test shows.
const LOG_LINES: usize = 150;

/// A program of this workspace, by name.
///
/// # Errors
/// When it has not been built; the message says how.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os(FOLDER_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        // target/debug/deps/suite-0123 is the running test.
        None => std::env::current_exe()
            .context("find the running test")?
            .ancestors()
            .nth(2)
            .context("the running test is in no target folder")?
            .to_owned(),
    };
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not built; run `cargo build --workspace --bins` (`cargo xtask ci` does)",
        path.display()
    );
    Ok(path)
}

/// The demo guest's disk.
///
/// # Errors
/// When it has not been built; the message says how.
pub fn demo_guest_disk() -> Result<PathBuf> {
    let path = repository().join("target/guest/disk.img");
    ensure!(path.is_file(), "{} is not built; run `make guest`", path.display());
    Ok(path)
}

/// The disk of the guest with cloud-init.
///
/// # Errors
/// When it has not been built; the message says how.
pub fn cloud_guest_disk() -> Result<PathBuf> {
    let path = repository().join("target/cloud-guest/disk.img");
    ensure!(path.is_file(), "{} is not built; run xtask/cloud-guest/build.sh (`cargo xtask ci` does)", path.display());
    Ok(path)
}

/// The root of this repository, as cargo knows it when it runs a test: several copies of the repository may share a target folder.
pub fn repository() -> PathBuf {
    let tests =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    tests.parent().expect("a member of a workspace is below its root").to_owned()
}

/// The end of a log, as much of it as a failed test shows.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Says that a test is skipped, and why. Past the test harness, which shows what a test prints only when it fails.
pub fn say_skipped(test: &str, reason: &str) {
    say(&format!("SKIPPED {test}: {reason}"));
}

/// Writes a line that is seen while the test runs.
pub fn say(line: &str) {
    // Nobody to say it to is no failure of the test.
    let _unheard = writeln!(std::io::stderr(), "{line}");
}

/// Runs a program to its end, and returns what it printed.
///
/// # Errors
/// When it fails; the message is what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("run {}", command.get_program().display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} {:?} ended with {}: {}",
        command.get_program().display(),
        command.get_args().collect::<Vec<_>>(),
        output.status,
        errors.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a program that is to fail, and returns what it wrote to standard error.
///
/// # Errors
/// When it cannot be run, or succeeds.
pub fn failure(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(
        !output.status.success(),
        "{} {:?} succeeded, and printed {}",
        command.get_program().display(),
        command.get_args().collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

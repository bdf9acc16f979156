//! What `make test` and continuous integration check, one step after another; the first failure ends it and is named.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::workspace::Workspace;
use crate::{generate, guest, host_root, images, kube_assets, packages, process, tools};

/// How many tests run at a time is said to Rust's test harness by this.
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";
/// Tests at a time, for each processor: most of them wait for servers and guests.
const TESTS_PER_CORE: usize = 2;

/// A part of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Formatting, clippy, documentation, generated files
    Lint,
}

/// Runs all checks, or one part of them.
pub(crate) fn run(workspace: &Workspace, only: Option<Part>) -> Result<()> {
    let before = git_status(workspace)?;
    step("formatting", || process::run(workspace.cargo("fmt").args(["--all", "--check"])))?;
    step("shell scripts", || check_shell_scripts(workspace))?;
    step("generated files", || generate::check(workspace))?;
    step("clippy", || {
        process::run(workspace.cargo("clippy").args([
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    step("documentation", || {
        process::run(
            workspace.cargo("doc").args(["--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
        )
    })?;
    if only == Some(Part::Lint) {
        return Ok(());
    }
    step("dependencies", || check_dependencies(workspace))?;
    step("demo guest", || guest::build(workspace).map(drop))?;
    step("cloud guest", || guest::build_cloud(workspace))?;
    step("kube-assets", || kube_assets::build(workspace))?;
    step("helm", || {
        if let Err(error) = tools::HELM.installed(workspace) {
            println!("SKIPPED the chart, rendered and installed: {error:#}");
        }
        Ok(())
    })?;
    step("binaries", || process::run(workspace.cargo("build").args(["--locked", "--workspace", "--bins"])))?;
    step("images", || images::build(workspace, images::Profile::Dev))?;
    step("packages", || packages::build(workspace, packages::Profile::Dev, 1))?;
    match host_root::why_unsupported() {
        None => step("host root", || host_root::build(workspace))?,
        Some(why) => println!("SKIPPED hosts with systemd (units, packages, shutdown, join): {why}"),
    }
    step("older QEMU", || {
        let script = workspace.root.join("xtask/host/older-qemu.sh");
        process::run(Command::new(script).arg(workspace.root.join("target/older-qemu")))
    })?;
    let counts = step("tests", || run_tests(workspace))?;
    step("tree is clean", || {
        let after = git_status(workspace)?;
        ensure!(after == before, "the checks changed the tree:\n{after}");
        Ok(())
    })?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("ci: {name}");
    let start = Instant::now();
    let value = work().with_context(|| format!("ci: {name} failed"))?;
    println!("ci: {name}: ok ({} s)", start.elapsed().as_secs());
    Ok(value)
}

fn git_status(workspace: &Workspace) -> Result<String> {
    process::output(Command::new("git").args(["status", "--porcelain"]).current_dir(&workspace.root))
}

/// Bash's own syntax check of every script.
fn check_shell_scripts(workspace: &Workspace) -> Result<()> {
    let listed = process::output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.sh", ".ci/run"])
            .current_dir(&workspace.root),
    )?;
    for script in listed.lines() {
        process::run(Command::new("bash").args(["-n", script]).current_dir(&workspace.root))?;
    }
    Ok(())
}

/// Licenses, sources and banned crates.
fn check_dependencies(workspace: &Workspace) -> Result<()> {
    let program = match tools::CARGO_DENY.installed(workspace) {
        Ok(program) => program,
        Err(error) => {
            println!("SKIPPED dependencies (licenses, sources, bans): {error:#}");
            return Ok(());
        }
    };
    process::run(
        Command::new(program)
            .args(["--offline", "--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])
            .current_dir(&workspace.root),
    )
}

/// Sums over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    /// Names of the tests that failed.
    failures: Vec<String>,
}

impl Counts {
    /// Adds a line `test result: ok. 3 passed; 0 failed; ...` or `test NAME ... FAILED`; other lines count nothing.
    fn add(&mut self, line: &str) {
        let failure = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        self.failures.extend(failure.map(str::to_owned));
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let words: Vec<&str> = result.split([' ', ';']).collect();
            words.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
    }
}

/// All tests; their output passes through as it comes.
fn run_tests(workspace: &Workspace) -> Result<Counts> {
    let mut command = workspace.cargo("test");
    if std::env::var_os(THREADS_VARIABLE).is_none() {
        let cores = std::thread::available_parallelism().context("count the processors")?;
        command.env(THREADS_VARIABLE, (cores.get() * TESTS_PER_CORE).to_string());
    }
    // After what the machine itself has.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([tools::Tool::folder(workspace)]);
    command.env("PATH", std::env::join_paths(folders).context("name the tools' folder")?);
    let mut child = command
        .args(["--locked", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo test")?;
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait().context("wait for cargo test")?;
    let failures = counts.failures.join(", ");
    ensure!(status.success(), "{} passed, {} failed ({status}): {failures}", counts.passed, counts.failed);
    ensure!(counts.passed > 0, "no test ran");
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_summed() {
        let mut counts = Counts::default();
        for line in [
            "running 2 tests",
            "test a ... ok",
            "test suite::b ... FAILED",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 7, failed: 1, failures: vec!["suite::b".to_owned()] });
    }
}

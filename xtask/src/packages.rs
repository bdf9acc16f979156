//! The Debian packages, in `target/packages`: programs, units, configuration. What is in which is said by `package.metadata.deb` of each crate.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::process;
use crate::tools::CARGO_DEB;
use crate::workspace::Workspace;

/// The crates that packages are made of.
const CRATES: [&str; 3] = ["agent", "standalone", "virtctl"];
/// Programs with a man page: its section, and the line that `man -k` finds.
const MANUALS: [(&str, u8, &str); 3] = [
    ("ovm-agent", 8, "runs this node's virtual machines as libvirt domains"),
    ("ovm-standalone", 8, "virtual machines as Kubernetes objects on one host"),
    ("virtctl", 1, "drives the life of virtual machines"),
];
/// lintian's remarks that are accepted, each for its reason.
const ACCEPTED: [&str; 5] = [
    // Packages that are in no archive have no changelog of Debian's, whose first entry closes a bug, and no maintainer of Debian's.
    "no-changelog",
    "initial-upload-closes-no-bugs",
    "bogus-mail-host",
    // To read units anew and to ask whether one runs; what starts and stops them goes through deb-systemd-invoke.
    "maintainer-script-calls-systemctl",
    // Of a folder that is root's: nobody else can have put a link there.
    "recursive-privilege-change",
];

/// How the programs in the packages are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// For users
    Release,
    /// For tests: what `cargo build` leaves, in packages of 100 MB
    Dev,
}

/// Builds the programs where that is to be done, and packages them.
pub(crate) fn build(workspace: &Workspace, profile: Profile, revision: u32) -> Result<()> {
    let packages = CRATES.iter().flat_map(|name| ["--package", name]);
    let folder = workspace.root.join("target/packages");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    match profile {
        Profile::Release => workspace.build_release(&[])?,
        Profile::Dev => process::run(workspace.cargo("build").args(["--locked", "--bins"]).args(packages))?,
    }
    write_documents(workspace, profile)?;
    package(workspace, profile, revision, &folder)?;
    if profile == Profile::Dev {
        // For the test of an upgrade.
        package(workspace, profile, revision + 1, &folder.join("newer"))?;
    }
    check(&folder, revision)
}

/// Packages what is built.
fn package(workspace: &Workspace, profile: Profile, revision: u32, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let cargo_deb = CARGO_DEB.installed(workspace)?;
    for name in CRATES {
        let mut command = Command::new(&cargo_deb);
        // cargo's own subcommands are told their name once more.
        command.args(["deb", "--no-build", "--locked", "--quiet", "--package", name]);
        command.args(["--deb-revision", &revision.to_string(), "--output"]).arg(folder).current_dir(&workspace.root);
        if profile == Profile::Dev {
            command.args(["--profile", "dev", "--fast"]);
        }
        process::run(&mut command)?;
    }
    Ok(())
}

/// Man pages and completion scripts, from what the programs themselves say: below `target/packages/doc`, where the packages' lists expect them.
fn write_documents(workspace: &Workspace, profile: Profile) -> Result<()> {
    let folder = workspace.root.join("target/packages/doc");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let programs = workspace.target.join(if profile == Profile::Dev { "debug" } else { "release" });
    let version = workspace.version()?;
    for (program, section, what) in MANUALS {
        let path = programs.join(program);
        write_manual(&path, None, (section, what, &version), &folder)?;
        for (subcommand, what) in subcommands(&process::output(without_settings(Command::new(&path).arg("--help")))?) {
            write_manual(&path, Some(&subcommand), (section, &what, &version), &folder)?;
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = process::output(Command::new(programs.join("virtctl")).args(["completion", shell]))?;
        let file = folder.join(format!("virtctl.{shell}"));
        fs::write(&file, script + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// A page of its own for a program, or for one of its subcommands, as `git` has them: `ovm-agent-join(8)`.
fn write_manual(
    program: &Path,
    subcommand: Option<&str>,
    (section, what, version): (u8, &str, &str),
    folder: &Path,
) -> Result<()> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
    let page = subcommand.map_or_else(|| name.to_owned(), |subcommand| format!("{name}-{subcommand}"));
    let called = subcommand
        .map_or_else(|| program.display().to_string(), |subcommand| format!("{} {subcommand}", program.display()));
    let mut command = Command::new("help2man");
    command.args(["--no-info", &format!("--version-string={version}"), &format!("--section={section}")]);
    command.arg(format!("--name={what}")).arg(called);
    let text = process::output(without_settings(&mut command))
        .context("write a man page; xtask/host/install.sh installs help2man")?;
    // A page's name is one word, or whatis(1) does not find it.
    let named = |line: &str| match (subcommand, line.split_once(" \"")) {
        (Some(_), Some((title, rest))) if title.starts_with(".TH ") => format!(".TH {} \"{rest}", page.to_uppercase()),
        (Some(subcommand), _) => line.replace(&format!("{name} {subcommand} \\- "), &format!("{page} \\- ")),
        (None, _) => line.to_owned(),
    };
    let text: String = text.lines().map(|line| named(line) + "\n").collect();
    let file = folder.join(format!("{page}.{section}"));
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

/// The help shows what the variables hold.
fn without_settings(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OVM_") {
            command.env_remove(name);
        }
    }
    command
}

/// Names of the subcommands in a program's help, and what they do. A description goes on in lines that are indented more.
fn subcommands(help: &str) -> Vec<(String, String)> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut found: Vec<(String, String)> = Vec::new();
    for line in listed {
        let is_new = line.strip_prefix("  ").is_some_and(|line| !line.starts_with(' '));
        match (is_new, line.trim().split_once(' '), found.last_mut()) {
            (true, Some((name, what)), _) => found.push((name.to_owned(), what.trim().to_owned())),
            (_, _, Some((_, what))) => *what = format!("{what} {}", line.trim()),
            _ => {}
        }
    }
    found.retain(|(name, _)| name != "help");
    found
}

/// lintian's judgement.
fn check(folder: &Path, revision: u32) -> Result<()> {
    if process::find("lintian").is_none() {
        println!("SKIPPED lintian: it is not installed");
        return Ok(());
    }
    let listed = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let files = listed.filter_map(|file| Some(file.ok()?.path()));
    let ours = files.filter(|file| file.to_string_lossy().ends_with(&format!("-{revision}_amd64.deb")));
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on=error,warning", "--suppress-tags", &ACCEPTED.join(",")]).args(ours);
    process::run(&mut lintian)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_read_from_the_help() {
        let help = "Does things\n\nUsage: x <COMMAND>\n\nCommands:\n  start  Starts a machine:\n         at once\n  stop   Stops it\n  help   Print this\n\nOptions:\n  -h  Help\n";
        let expected = [("start", "Starts a machine: at once"), ("stop", "Stops it")];
        assert_eq!(subcommands(help), expected.map(|(name, what)| (name.to_owned(), what.to_owned())));
        assert!(subcommands("Usage: y\n").is_empty());
    }
}

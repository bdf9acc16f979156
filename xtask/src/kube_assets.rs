//! The parts of a Kubernetes cluster that the tests run: built from `tests/kube-assets/`, once for each content of that module.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;
use crate::workspace::Workspace;

/// What the program calls itself by. Each is a link to the one binary, which looks at the name that it is called by.
const NAMES: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// What decides what is built.
const INPUTS: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// Holds the inputs' text that the binary was built from.
const STAMP: &str = "built-from";

/// Where Go's own archive is unpacked to: often not in `PATH`.
const GO_OF_THE_ARCHIVE: &str = "/usr/local/go/bin/go";

/// Builds them where they are not up to date. Always in `target/kube-assets` of the repository, wherever cargo builds: the tests look there.
///
/// Without Go, or without a way to its modules, this says loudly what is skipped, and is no error.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let module = workspace.root.join("tests/kube-assets");
    let folder = workspace.root.join("target/kube-assets");
    make_pause_image(workspace, &folder)?;
    let inputs = inputs(&module)?;
    let binary = folder.join("kube-assets");
    if binary.is_file() && fs::read(folder.join(STAMP)).is_ok_and(|stamp| stamp == inputs) {
        println!("kube-assets: {} is up to date", folder.display());
        return Ok(());
    }
    let archive = PathBuf::from(GO_OF_THE_ARCHIVE);
    let Some(go) = process::find("go").or_else(|| archive.is_file().then_some(archive)) else {
        skipped("Go is not installed (https://go.dev/dl, any release from 1.21 on)");
        return Ok(());
    };
    // Loads every package that the build needs, so that a failure after this is the build's own.
    if let Err(error) = process::output(Command::new(&go).args(["list", "-deps", "."]).current_dir(&module)) {
        skipped(&format!("the sources cannot be had: {error:#}"));
        return Ok(());
    }
    println!("kube-assets: building into {}, about five minutes where Go's cache is empty", folder.display());
    process::run(
        Command::new(&go)
            .args(["build", "-trimpath", "-ldflags", &linker_flags(&inputs)?, "-o"])
            .arg(&binary)
            .arg(".")
            .current_dir(&module)
            .env("CGO_ENABLED", "0"),
    )?;
    for name in NAMES {
        let link = folder.join(name);
        if !link.exists() {
            symlink("kube-assets", &link).with_context(|| format!("link {}", link.display()))?;
        }
    }
    // Last: a build that was cut short is none.
    fs::write(folder.join(STAMP), inputs).context("note down what was built")
}

/// Every pod needs it. It takes a moment, and so is made where it is missing or older than its source.
fn make_pause_image(workspace: &Workspace, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let image = folder.join("pause.tar");
    let script = workspace.root.join("xtask/kube/pause-image.sh");
    let changed = |file: &Path| fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    if changed(&image) > changed(&script.with_file_name("pause.c")) {
        return Ok(());
    }
    process::run(Command::new(script).arg(image))
}

fn inputs(module: &Path) -> Result<Vec<u8>> {
    let mut inputs = Vec::new();
    for name in INPUTS {
        let file = module.join(name);
        inputs.extend(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    Ok(inputs)
}

/// Tells the parts which release they are, as upstream's own build does: clients and kubelets compare versions.
fn linker_flags(inputs: &[u8]) -> Result<String> {
    let version = kubernetes_version(&String::from_utf8_lossy(inputs))?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = numbers.next().zip(numbers.next()).with_context(|| format!("read version {version}"))?;
    let package = "k8s.io/component-base/version";
    Ok(format!("-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"))
}

/// The version of `k8s.io/kubernetes` that go.mod requires, such as `v1.36.3`.
fn kubernetes_version(module: &str) -> Result<String> {
    let required = module.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    required.map(str::to_owned).context("go.mod does not require k8s.io/kubernetes")
}

fn skipped(reason: &str) {
    println!("SKIPPED kube-assets, and with it every test on a real Kubernetes API: {reason}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_told_the_version_that_go_mod_requires() {
        let module = b"require (\n\tk8s.io/kubectl v0.0.0\n\tk8s.io/kubernetes v1.36.3\n)\n";
        let flags = linker_flags(module).unwrap();
        for flag in ["version.gitVersion=v1.36.3 ", "version.gitMajor=1 ", "version.gitMinor=36"] {
            assert!(flags.contains(flag), "no {flag} in {flags}");
        }
        linker_flags(b"module empty\n").unwrap_err();
    }
}

//! `make demo` and `make stop` as a newcomer runs them, with the programs of this build, on a host whose libvirt is not up.

#![expect(clippy::unwrap_used, reason = "clippy exempts #[test] functions, but not what they call")]

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use tests::libvirtd::{PrivateLibvirtd, Signal, why_unsupported};
use tests::programs::{output, program, repository};

/// A host without a running libvirt, and a demo whose state is apart from the developer's own.
struct Newcomer {
    host: PrivateLibvirtd,
}

impl Newcomer {
    fn new() -> Result<Self> {
        let mut host = PrivateLibvirtd::start()?;
        host.stop_daemon(Signal::Term)?;
        Ok(Self { host })
    }

    fn state(&self) -> std::path::PathBuf {
        self.host.directory().join("demo")
    }

    fn xtask(&self, arguments: &[&str]) -> Result<String> {
        let xtask = program("xtask")?;
        let mut command = self.host.inside(&xtask)?;
        command.args(arguments).arg("--state").arg(self.state());
        if arguments == ["demo"] {
            command.arg("--programs").arg(xtask.parent().unwrap());
        }
        output(command.env("CARGO_MANIFEST_DIR", repository().join("xtask")))
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new("kubectl").args(arguments).env("KUBECONFIG", self.state().join("kubeconfig")))
    }
}

#[test]
fn a_newcomer_s_demo_shows_a_guest_up_to_its_login_and_stop_leaves_nothing() -> Result<()> {
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped(
            "a_newcomer_s_demo_shows_a_guest_up_to_its_login_and_stop_leaves_nothing",
            &reason,
        );
        return Ok(());
    }
    let newcomer = Newcomer::new()?;

    let shown = newcomer.xtask(&["demo"])?;
    for expected in
        ["starting libvirt", "kubectl create -f examples/ovm.yaml", "printed from cloud-init userdata", "login:"]
    {
        ensure!(shown.contains(expected), "the demo does not show {expected:?}:\n{shown}");
    }
    let kubeconfig = format!("export KUBECONFIG={}", newcomer.state().join("kubeconfig").display());
    ensure!(shown.contains(&kubeconfig), "the demo does not say {kubeconfig:?}:\n{shown}");
    let uid = newcomer.kubectl(&["get", "vm", "ovm-cirros", "-n", "demo", "-o", "jsonpath={.metadata.uid}"])?;

    let again = newcomer.xtask(&["demo"])?;
    ensure!(!again.contains("starting") && !again.contains("importing"), "the second demo starts what is up:\n{again}");
    ensure!(again.contains("login:"), "the second demo does not show the guest's prompt:\n{again}");
    assert_eq!(newcomer.kubectl(&["get", "vm", "ovm-cirros", "-n", "demo", "-o", "jsonpath={.metadata.uid}"])?, uid);

    newcomer.xtask(&["stop"])?;
    ensure!(!newcomer.state().exists(), "{} is left", newcomer.state().display());
    let left = output(newcomer.host.inside(Path::new("ps"))?.args(["-eo", "args"]))?;
    for server in ["ovm-standalone", "qemu-system", "libvirtd"] {
        // Our own shell in the namespace is called libvirtd.sh.
        let of_it = left.lines().find(|line| line.contains(server) && !line.contains("libvirtd.sh"));
        ensure!(of_it.is_none(), "{server} still runs: {of_it:?}");
    }
    Ok(())
}

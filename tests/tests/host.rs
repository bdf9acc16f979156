//! Hosts with a real systemd: our packages, units and their neighbours libvirtd, libvirt-guests and machined.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{OBEYS_SLOWLY, write_disk};
use tests::host::{Host, Package, why_unsupported};
use tests::machines::offline_machine;
use tests::programs::{say, say_skipped};
use tests::wait::wait_for;

/// For a guest to be up or gone, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Runs a scenario on a host with all packages installed, or says that it is skipped.
fn on_a_host(test: &str, scenario: impl FnOnce(&mut Host) -> Result<()>) -> Result<()> {
    if let Some(reason) = why_unsupported() {
        say_skipped(test, &reason);
        return Ok(());
    }
    let mut host = Host::boot_new("hv1")?;
    host.install(&Package::ALL)?;
    // KVM hangs some hosts' guests. An administrator would write it into the file and restart the service, too.
    let env = host.root().join("etc/ovm/ovm.env");
    let text = fs::read_to_string(&env).context("read the configuration")?;
    fs::write(&env, text.replace("#OVM_EMULATION=never", "OVM_EMULATION=always")).context("write the configuration")?;
    host.run(&["systemctl", "restart", "ovm-standalone"])?;
    scenario(&mut host).with_context(|| format!("journal:\n{}", host.journal("ovm-*")))
}

/// Imports a boot sector as image `name`.
fn import(host: &Host, name: &str, sector: &[u8; 512]) -> Result<()> {
    write_disk(&host.root().join("root/disk.img"), sector)?;
    host.run(&["ovm-agent", "image", "import", name, "/root/disk.img"]).map(drop)
}

/// Starts an OfflineVirtualMachine from an image, and waits until it runs. Returns its QEMU's process id.
fn start(host: &Host, name: &str, image: &str, grace_seconds: u32) -> Result<String> {
    let mut machine = offline_machine("default", name, image, false);
    machine["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(grace_seconds);
    host.create(&machine)?;
    host.run(&["virtctl", "start", name])?;
    runs(host, name)?;
    the_qemu(host)
}

fn runs(host: &Host, name: &str) -> Result<Value> {
    wait_for("the guest runs", DEADLINE, || {
        let vm = host.object("vm", name)?;
        ensure!(vm["status"]["phase"] == "Running", "its phase is {}", vm["status"]);
        Ok(vm)
    })
}

fn the_qemu(host: &Host) -> Result<String> {
    let qemus = host.qemus()?;
    ensure!(qemus.len() == 1, "{} QEMUs run", qemus.len());
    Ok(qemus[0].clone())
}

#[test]
fn i5_no_restart_of_a_service_is_noticed_by_a_guest() -> Result<()> {
    on_a_host("i5_no_restart_of_a_service_is_noticed_by_a_guest", |host| {
        import(host, "slow", &OBEYS_SLOWLY)?;
        let qemu = start(host, "guest", "slow", 30)?;
        let uid = runs(host, "guest")?["metadata"]["uid"].clone();
        let unnoticed = |what: &str| -> Result<()> {
            wait_for("the service is up", DEADLINE, || {
                let state = host.property("ovm-standalone", "StatusText")?;
                ensure!(state == "ready", "its status is {state}");
                Ok(())
            })?;
            let vm = runs(host, "guest").with_context(|| what.to_owned())?;
            ensure!(the_qemu(host)? == qemu && vm["metadata"]["uid"] == uid, "{what}: the guest was replaced");
            say(&format!("{what}: unnoticed"));
            Ok(())
        };
        host.run(&["systemctl", "restart", "ovm-standalone"])?;
        unnoticed("restart of ovm-standalone")?;
        host.run(&["systemctl", "restart", "libvirtd"])?;
        unnoticed("restart of libvirtd")?;
        host.run(&["systemctl", "kill", "--kill-who=main", "--signal=KILL", "ovm-standalone"])?;
        unnoticed("kill -9")?;
        host.install(&Package::ALL)?;
        unnoticed("the packages installed anew")?;
        Ok(())
    })
}

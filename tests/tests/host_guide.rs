//! The user guide on a host with a real systemd, from the packages alone, and their upgrade under a guest.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::guide::ensure_described;
use tests::host::{Host, Package, why_unsupported};
use tests::programs::{demo_guest_disk, repository, say_skipped};
use tests::wait::wait_for;

const IMAGE: &str = "kubevirt/cirros-registry-disk-demo:latest";
const NAME: &str = "ovm-cirros";
const UNIT: &str = "ovm-standalone";
/// For an emulated kernel to boot, on a busy machine.
const BOOT: Duration = Duration::from_mins(3);
const DEADLINE: Duration = Duration::from_mins(1);

#[test]
fn the_guide_holds_on_a_host_with_the_packages_and_an_upgrade_is_not_noticed() -> Result<()> {
    let test = "the_guide_holds_on_a_host_with_the_packages_and_an_upgrade_is_not_noticed";
    if let Some(reason) = why_unsupported() {
        say_skipped(test, &reason);
        return Ok(());
    }
    let host = Host::boot_new("lone")?;
    host.install(&Package::ALL)?;
    // KVM hangs some hosts' guests.
    host.configure("OVM_EMULATION=always")?;
    host.run(&["systemctl", "restart", UNIT])?;
    walk_through(&host).with_context(|| format!("journal:\n{}", host.journal(UNIT)))
}

fn walk_through(host: &Host) -> Result<()> {
    fs::copy(demo_guest_disk()?, host.root().join("root/disk.img")).context("copy the demo guest")?;
    host.run(&["ovm-agent", "image", "import", IMAGE, "/root/disk.img"])?;
    let example = fs::read_to_string(repository().join("examples/ovm.yaml")).context("read the guide's manifest")?;
    host.write("ovm.yaml", &example)?;

    let said = host.run(&["kubectl", "create", "-f", "/root/ovm.yaml"])?;
    ensure!(said == "offlinevirtualmachine.kubevirt.io/ovm-cirros created", "kubectl create says {said}");
    ensure!(host.run(&["kubectl", "get", "vms"])?.is_empty(), "there is a VirtualMachine");
    host.run(&["virtctl", "start", "omv", NAME])?;
    let first = host.wait_for_guest(NAME, None)?;
    let uuid = firmware_uuid(host)?;
    is_described(host)?;

    let mut console = host.guest_console(NAME)?;
    console.expect("printed from cloud-init userdata", BOOT)?;
    console.expect("ovm-cirros login:", BOOT)?;
    an_upgrade_is_not_noticed(host)?;

    let mut console = host.guest_console(NAME)?;
    console.send("\n")?;
    console.expect("ovm-cirros login:", DEADLINE)?;
    console.send("cirros\n")?;
    console.expect("Password:", DEADLINE)?;
    console.send("gocubsgo\n")?;
    console.expect("# ", DEADLINE)?;
    console.send("poweroff\n")?;
    let second = host.wait_for_guest(NAME, Some(&first)).context("it powered itself off")?;
    ensure!(firmware_uuid(host)? == uuid, "the firmware UUID changed at the re-creation");

    host.run(&["kubectl", "delete", "virtualmachine", NAME])?;
    host.wait_for_guest(NAME, Some(&second)).context("it is restarted")?;
    ensure!(firmware_uuid(host)? == uuid, "the firmware UUID changed at the restart");
    host.run(&["virtctl", "stop", NAME])?;
    is_gone(host)?;
    let patch = ["kubectl", "patch", "offlinevirtualmachine", NAME, "--type", "merge", "-p"];
    host.run(&[&patch[..], &[r#"{"spec":{"running":true}}"#]].concat())?;
    let fourth = host.wait_for_guest(NAME, None)?;

    host.run(&["kubectl", "delete", "offlinevirtualmachine", NAME, "--cascade=orphan"])?;
    let qemus = host.qemus()?;
    host.write("again.yaml", &example.replace("running: false", "running: true"))?;
    host.run(&["kubectl", "create", "-f", "/root/again.yaml"])?;
    wait_for("it is adopted", DEADLINE, || {
        let vm = host.object("vm", NAME)?;
        ensure!(vm["metadata"]["uid"] == fourth["metadata"]["uid"], "it is another one");
        let owner = &vm["metadata"]["ownerReferences"][0]["uid"];
        ensure!(*owner == host.object("ovm", NAME)?["metadata"]["uid"], "its owner is {owner}");
        Ok(())
    })?;
    ensure!(host.qemus()? == qemus && qemus.len() == 1, "the guest was started anew");
    host.run(&["kubectl", "delete", "offlinevirtualmachine", NAME])?;
    is_gone(host)
}

fn firmware_uuid(host: &Host) -> Result<String> {
    host.run(&["virsh", "--connect", "qemu:///system", "domuuid", "default_ovm-cirros"])
}

fn is_described(host: &Host) -> Result<()> {
    wait_for("kubectl describe shows what the guide shows", DEADLINE, || {
        ensure_described(&host.run(&["kubectl", "describe", "ovm", NAME])?)
    })
}

fn is_gone(host: &Host) -> Result<()> {
    wait_for("the guest is gone", DEADLINE, || {
        ensure!(host.object("vm", NAME).is_err() && host.qemus()?.is_empty(), "it is there");
        Ok(())
    })
}

/// To packages of a higher version.
fn an_upgrade_is_not_noticed(host: &Host) -> Result<()> {
    let (guest, qemus) = (host.wait_for_guest(NAME, None)?, host.qemus()?);
    let version = || host.run(&["dpkg-query", "--show", "--showformat=${Version} ", "ovm-agent", "ovm-standalone"]);
    let (before, process) = (version()?, host.property(UNIT, "MainPID")?);
    let env = || fs::read_to_string(host.root().join("etc/ovm/ovm.env")).context("read the configuration");
    let edited = env()?;
    ensure!(edited.ends_with("OVM_EMULATION=always\n"), "the configuration is not the administrator's");
    host.upgrade(&Package::ALL)?;
    let after = version()?;
    ensure!(before.trim() == "0.1.0-1 0.1.0-1" && after.trim() == "0.1.0-2 0.1.0-2", "from {before} to {after}");
    host.wait_for_ready(UNIT)?;
    let running = host.property(UNIT, "MainPID")?;
    ensure!(running != process, "the old process still runs");
    let program = host.run(&["readlink", &format!("/proc/{running}/exe")])?;
    ensure!(program == "/usr/bin/ovm-standalone", "it runs {program}, not what is installed");
    ensure!(env()? == edited, "the administrator's configuration was changed");
    let same = host.wait_for_guest(NAME, None)?;
    ensure!(host.qemus()? == qemus && qemus.len() == 1, "the guest was started anew");
    ensure!(same["metadata"]["uid"] == guest["metadata"]["uid"], "the guest was replaced");
    Ok(())
}

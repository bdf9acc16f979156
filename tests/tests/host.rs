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

/// Whether the process of a service is the same as before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    Same,
    New,
}

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
    // Nobody waits two minutes for the watchdog.
    let folder = host.root().join("etc/systemd/system/ovm-standalone.service.d");
    fs::create_dir_all(&folder).context("make the folder of a drop-in")?;
    fs::write(folder.join("test.conf"), "[Service]\nWatchdogSec=6s\nRestartSec=1s\n").context("write a drop-in")?;
    host.run(&["systemctl", "daemon-reload"])?;
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

/// Uids, messages and counts of the events with this reason.
fn events(host: &Host, reason: &str) -> Result<Vec<(String, String, i64)>> {
    let text =
        host.run(&["kubectl", "get", "events", "--output=json", &format!("--field-selector=reason={reason}")])?;
    let list: Value = serde_json::from_str(&text).context("read events")?;
    let event = |event: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["involvedObject"]["uid"]), text(&event["message"]), event["count"].as_i64().unwrap_or(1))
    };
    Ok(list["items"].as_array().into_iter().flatten().map(event).collect())
}

#[test]
fn i3_a_host_that_shuts_down_stops_its_guests_within_their_grace_period_and_runs_them_again() -> Result<()> {
    on_a_host("i3_a_host_that_shuts_down_stops_its_guests_within_their_grace_period_and_runs_them_again", |host| {
        import(host, "slow", &OBEYS_SLOWLY)?;
        start(host, "guest", "slow", 60)?;
        let before = runs(host, "guest")?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let took = host.power_off()?;
        say(&format!("the host was down after {} s", took.as_secs()));
        ensure!(took > Duration::from_secs(4), "the guest needs five seconds, and was not given them");
        ensure!(took < Duration::from_secs(50), "the guest's grace period was waited out, though it obeyed");
        host.boot()?;
        let after = wait_for("a successor runs", DEADLINE, || {
            let vm = runs(host, "guest")?;
            ensure!(vm["metadata"]["uid"] != before.as_str(), "it is the old one");
            Ok(vm)
        })?;
        ensure!(host.qemus()?.len() == 1, "there is not one guest");
        // And how it ended is known, and known once: libvirt forgets it with the host.
        let ends = events(host, "Stopped")?;
        ensure!(
            ends == [(before.clone(), "The VM was shut down.".to_owned(), 1)],
            "its end was recorded as {ends:?}, of {before}, {}",
            after["metadata"]["uid"]
        );
        Ok(())
    })
}

#[test]
fn i5_no_restart_of_a_service_is_noticed_by_a_guest() -> Result<()> {
    on_a_host("i5_no_restart_of_a_service_is_noticed_by_a_guest", |host| {
        import(host, "slow", &OBEYS_SLOWLY)?;
        let qemu = start(host, "guest", "slow", 30)?;
        let uid = runs(host, "guest")?["metadata"]["uid"].clone();
        let mut last_process = host.property("ovm-standalone", "MainPID")?;
        let mut unnoticed = |what: &str, restarted: Service| -> Result<()> {
            last_process = wait_for("the service is up", DEADLINE, || {
                let [state, status, process] =
                    ["ActiveState", "StatusText", "MainPID"].map(|property| host.property("ovm-standalone", property));
                let (state, status, process) = (state?, status?, process?);
                ensure!(state == "active" && status == "ready", "it is {state}, {status}");
                ensure!((process == last_process) == (restarted == Service::Same), "its process is {process}");
                Ok(process)
            })?;
            let vm = runs(host, "guest").with_context(|| what.to_owned())?;
            ensure!(the_qemu(host)? == qemu && vm["metadata"]["uid"] == uid, "{what}: the guest was replaced");
            say(&format!("{what}: unnoticed"));
            Ok(())
        };
        host.run(&["systemctl", "restart", "ovm-standalone"])?;
        unnoticed("restart of ovm-standalone", Service::New)?;
        host.run(&["systemctl", "restart", "libvirtd"])?;
        unnoticed("restart of libvirtd", Service::Same)?;
        host.run(&["systemctl", "kill", "--kill-who=main", "--signal=KILL", "ovm-standalone"])?;
        unnoticed("kill -9", Service::New)?;
        // The watchdog acts.
        host.run(&["systemctl", "kill", "--kill-who=main", "--signal=STOP", "ovm-standalone"])?;
        unnoticed("a process that hangs", Service::New)?;
        host.install(&Package::ALL)?;
        unnoticed("the packages installed anew", Service::New)?;
        host.run(&["systemctl", "stop", "ovm-guests"])?;
        unnoticed("stop of ovm-guests while the host runs", Service::Same)?;

        let said = host.run(&["dpkg", "--purge", "ovm-virtctl", "ovm-standalone", "ovm-agent"])?;
        ensure!(the_qemu(host)? == qemu, "the guest ended with the packages");
        ensure!(said.contains("/var/lib/ovm"), "purge does not say what is left:\n{said}");
        ensure!(host.root().join("var/lib/ovm/store.db").exists(), "purge has deleted the objects");
        for gone in
            ["etc/ovm", "usr/bin/ovm-agent", "usr/lib/systemd/system/ovm-agent.service", "usr/lib/sysusers.d/ovm.conf"]
        {
            ensure!(!host.root().join(gone).exists(), "purge has left /{gone}");
        }
        say("purge of all packages: unnoticed");
        Ok(())
    })
}

#[test]
fn units_are_as_systemd_wants_them_and_the_doctor_finds_the_host_well() -> Result<()> {
    on_a_host("units_are_as_systemd_wants_them_and_the_doctor_finds_the_host_well", |host| {
        let verify = "systemd-analyze verify --man=no /usr/lib/systemd/system/ovm-*.service 2>&1 | grep ovm- || true";
        let remarks = host.run(&["sh", "-c", verify])?;
        ensure!(remarks.is_empty(), "systemd-analyze verify:\n{remarks}");
        let enabled = host.run(&["sh", "-c", "systemctl is-enabled ovm-agent ovm-standalone ovm-guests || true"])?;
        ensure!(enabled == "disabled\nenabled\nenabled", "agent, standalone and guests are:\n{enabled}");
        ensure!(host.property("ovm-standalone", "User")? == "ovm", "it does not run as ovm");
        for page in ["man8/ovm-agent.8.gz", "man8/ovm-agent-join.8.gz", "man1/virtctl-console.1.gz"] {
            ensure!(host.root().join("usr/share/man").join(page).exists(), "there is no man page {page}");
        }
        for unit in ["ovm-agent", "ovm-standalone", "ovm-guests"] {
            let judged = host.run(&["systemd-analyze", "security", "--no-pager", "--threshold=20", unit]);
            judged.with_context(|| format!("{unit} is more exposed than 2.0"))?;
        }

        // As the service's own user: what root may says nothing.
        let doctor = "setpriv --reuid=ovm --regid=ovm --init-groups ovm-agent doctor --emulation=always";
        let lines = host.run(&["sh", "-c", doctor])?;
        for line in ["ok    libvirt: ", "ok    machine types: q35 is pc-q35-", "ok    host name: hv1 resolves"] {
            ensure!(lines.contains(line), "{line:?} is not in:\n{lines}");
        }
        let libvirt = ["libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd"];
        host.run(&[&["systemctl", "stop"], libvirt.as_slice()].concat())?;
        let sick = host.command(&["ovm-agent", "doctor"])?.output().context("run the doctor")?;
        let lines = String::from_utf8_lossy(&sick.stdout);
        ensure!(!sick.status.success() && lines.contains("FAIL  libvirt: "), "without libvirt it says:\n{lines}");

        // A start that waits for libvirt waits for as long as it takes, whatever the unit's time limit is.
        let limit = host.root().join("etc/systemd/system/ovm-standalone.service.d/limit.conf");
        fs::write(limit, "[Service]\nTimeoutStartSec=2s\n").context("write a drop-in")?;
        host.run(&["systemctl", "daemon-reload"])?;
        let restarts = host.property("ovm-standalone", "NRestarts")?;
        // Without libvirtd.socket, which it wants. A daemon-reload later would forget that it asked for more time.
        host.run(&["systemctl", "restart", "--no-block", "--job-mode=ignore-dependencies", "ovm-standalone"])?;
        wait_for("the time limit has passed twice", DEADLINE, || {
            let begun: u64 = host.property("ovm-standalone", "InactiveExitTimestampMonotonic")?.parse()?;
            let up = host.run(&["cat", "/proc/uptime"])?;
            let up: f64 = up.split_whitespace().next().context("an uptime")?.parse()?;
            ensure!(Duration::from_secs_f64(up) > Duration::from_micros(begun) + Duration::from_secs(4), "not yet");
            Ok(())
        })?;
        let status = host.property("ovm-standalone", "StatusText")?;
        let is_told = status.starts_with("waiting for ") && status.contains("libvirt's answer: no libvirt answers");
        ensure!(is_told, "without libvirt its status is {status:?}");
        host.run(&["systemctl", "start", "libvirtd.socket"])?;
        wait_for("the service is up", DEADLINE, || {
            let state = host.property("ovm-standalone", "ActiveState")?;
            ensure!(state == "active", "it is {state}");
            Ok(())
        })?;
        ensure!(host.property("ovm-standalone", "NRestarts")? == restarts, "it was ended while it waited");

        // Each of an entry's fields is the journal's too.
        host.run(&["journalctl", "--quiet", "--unit=ovm-standalone", "NODE=hv1", "--grep=agent runs node=hv1"])
            .map(drop)
    })
}

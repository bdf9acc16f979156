//! One control host and two hypervisors with a real systemd, from the packages alone, as `docs/bare-metal.md` and `docs/joining.md` have an operator set them up.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::boot_sector::{SERIAL, SERIAL_BANNER};
use tests::host::{Host, Lan, Package, why_unsupported};
use tests::machines::offline_machine;
use tests::programs::{failure, output, say, say_skipped};
use tests::wait::wait_for;

/// For a guest, a node or a service to be as it should, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// A control host that is no hypervisor itself, and two that are.
struct Site {
    control: Host,
    hypervisors: [Host; 2],
    _lan: Lan,
}

impl Site {
    fn new() -> Result<Self> {
        let mut lan = Lan::lay()?;
        let place = lan.place()?;
        let address = place.address.clone();
        // Not from threads of their own: a host ends with the thread that has booted it.
        let control = Host::boot_in("control", Some(place))?;
        let hypervisors = [Host::boot_in("hv1", Some(lan.place()?))?, Host::boot_in("hv2", Some(lan.place()?))?];
        thread::scope(|hosts| {
            let set_up = hypervisors.each_ref().map(|host| hosts.spawn(|| set_up_hypervisor(host, &address)));
            set_up_control_host(&control, &address)?;
            set_up.into_iter().try_for_each(|host| host.join().expect("a host's thread does not panic"))
        })?;
        Ok(Self { control, hypervisors, _lan: lan })
    }

    fn node(&self, name: &str) -> Result<Value> {
        self.control.object("node", name)
    }

    fn hypervisor(&self, name: &str) -> &Host {
        if name == "hv1" { &self.hypervisors[0] } else { &self.hypervisors[1] }
    }

    fn journals(&self) -> String {
        let of = |host: &Host, unit| host.journal(unit);
        let agents: Vec<String> = self.hypervisors.iter().map(|host| of(host, "ovm-agent")).collect();
        format!("control:\n{}\nhypervisors:\n{}", of(&self.control, "ovm-standalone"), agents.join("\n--\n"))
    }
}

fn set_up_control_host(host: &Host, address: &str) -> Result<()> {
    host.install(&Package::ALL)?;
    host.configure(&format!("OVM_LISTEN={address}:6443\nOVM_ADVERTISE=control"))?;
    let restarted = host.run(&["systemctl", "restart", "ovm-standalone"]);
    restarted.and_then(|_| host.wait_for_ready("ovm-standalone")).with_context(|| host.journal("ovm-standalone"))
}

fn set_up_hypervisor(host: &Host, control: &str) -> Result<()> {
    host.run(&["sh", "-c", &format!("echo {control} control >> /etc/hosts")])?;
    host.install(&[Package::Agent])?;
    // KVM hangs some hosts' guests.
    host.configure("OVM_EMULATION=always")?;
    host.import_sector("serial", &SERIAL)
}

#[test]
fn hosts_join_a_control_host_by_one_command_and_leave_it() -> Result<()> {
    if let Some(reason) = why_unsupported() {
        say_skipped("hosts_join_a_control_host_by_one_command_and_leave_it", &reason);
        return Ok(());
    }
    let begun = Instant::now();
    let mut site = Site::new()?;
    say(&format!("three hosts after {} s", begun.elapsed().as_secs()));
    let done = steps(&mut site);
    done.with_context(|| site.journals())
}

fn steps(site: &mut Site) -> Result<()> {
    the_group_has_a_kubeconfig(&site.control)?;
    for host in &site.hypervisors {
        joins(&site.control, host)?;
    }
    for name in ["hv1", "hv2"] {
        is_a_node(site, name)?;
    }
    // It is a node as well; here it is to run no guests.
    site.control.run(&["kubectl", "cordon", "control"])?;
    guests_run_on_both(site)?;
    a_console_is_opened_from_the_control_host(site)?;
    a_host_that_reboots_comes_back(site)?;
    a_host_leaves(site)
}

/// Whoever is in the group administers, and nobody else on the host does.
fn the_group_has_a_kubeconfig(control: &Host) -> Result<()> {
    let kubeconfig = "--kubeconfig=/var/lib/ovm/group.kubeconfig";
    let as_member = |groups: &str| {
        let user = ["setpriv", "--reuid=nobody", "--regid=nogroup", groups];
        control.command(&[&user[..], &["kubectl", kubeconfig, "get", "nodes", "--output=name"]].concat())
    };
    let listed = output(&mut as_member("--groups=ovm")?)?;
    ensure!(listed == "node/control", "a member of the group sees {listed}");
    let said = failure(&mut as_member("--clear-groups")?)?;
    ensure!(said.contains("permission denied"), "somebody else is told {said}");
    Ok(())
}

/// By the printed line, word for word.
fn joins(control: &Host, host: &Host) -> Result<()> {
    let state = host.run(&["sh", "-c", "systemctl is-enabled ovm-agent || true"])?;
    ensure!(state == "disabled", "before it joins, its unit is {state}");
    let command = control.run(&["virtctl", "token", "create"])?;
    ensure!(command.starts_with("ovm-agent join --server https://control:6443 --token "), "it printed {command}");
    let said = host.run(&["sh", "-c", &command])?;
    ensure!(said.contains("ovm-agent.service is enabled and started"), "join said {said}");
    let state = host.run(&["systemctl", "is-enabled", "ovm-agent"])?;
    ensure!(state == "enabled" && host.property("ovm-agent", "ActiveState")? == "active", "its unit is {state}");
    ensure!(host.property("ovm-agent", "User")? == "ovm", "its agent runs as somebody else");
    host.wait_for_ready("ovm-agent")
}

fn is_a_node(site: &Site, name: &str) -> Result<()> {
    let node = wait_for(&format!("node {name} is ready"), DEADLINE, || {
        let node = site.node(name)?;
        let conditions = node["status"]["conditions"].as_array().context("it has no conditions")?;
        let is = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
        for kind in ["Ready", "kubevirt.io/GuestsRunnable", "kubevirt.io/DiskSpace", "kubevirt.io/HostNameResolves"] {
            ensure!(is(kind), "{kind} is not True: {conditions:?}");
        }
        ensure!(node["metadata"]["labels"]["kubevirt.io/schedulable"] == "true", "it takes no guests");
        Ok(node)
    })?;
    let labels = &node["metadata"]["labels"];
    ensure!(labels["kubernetes.io/hostname"] == name && labels["kubernetes.io/arch"] == "amd64", "labels {labels}");
    let taints = node["spec"]["taints"].to_string();
    ensure!(taints.contains(r#""effect":"NoSchedule","key":"kubevirt.io/hypervisor""#), "its taints are {taints}");
    let room = &node["status"]["capacity"];
    ensure!(room["memory"].is_string() && room["cpu"].is_string() && room["pods"] == "0", "its capacity is {room}");
    Ok(())
}

/// Two guests that may run anywhere: the second goes where more memory is free.
fn guests_run_on_both(site: &Site) -> Result<()> {
    let mut nodes = Vec::new();
    for name in ["first", "second"] {
        site.control.create(&offline_machine("default", name, "serial", false))?;
        site.control.run(&["virtctl", "start", name])?;
        let guest = site.control.wait_for_guest(name, None)?;
        nodes.push(guest["status"]["nodeName"].as_str().unwrap_or_default().to_owned());
    }
    nodes.sort();
    ensure!(nodes == ["hv1", "hv2"], "they run on {nodes:?}");
    for host in &site.hypervisors {
        ensure!(host.qemus()?.len() == 1, "a host does not run one guest");
    }
    Ok(())
}

fn a_console_is_opened_from_the_control_host(site: &Site) -> Result<()> {
    for name in ["first", "second"] {
        let mut console = site.control.guest_console(name)?;
        console.wait_for_echo("hello", DEADLINE)?;
    }
    // What it prints while it starts is in the console's log, which the host keeps.
    let logs = site.hypervisors[0].run(&["sh", "-c", "cat /var/lib/ovm/vms/*/console*.log"])?;
    ensure!(logs.contains(SERIAL_BANNER.trim()), "the console's log is {logs}");
    Ok(())
}

fn a_host_that_reboots_comes_back(site: &mut Site) -> Result<()> {
    let name = if site.control.object("vm", "first")?["status"]["nodeName"] == "hv1" { "first" } else { "second" };
    let before = site.control.object("vm", name)?;
    // Its guests ignore the power button, and are ended when their grace period is over.
    site.hypervisors[0].power_off()?;
    site.hypervisors[0].boot()?;
    site.hypervisors[0].wait_for_ready("ovm-agent")?;
    let after = site.control.wait_for_guest(name, Some(&before))?;
    let node = &after["status"]["nodeName"];
    ensure!(node == "hv1" || node == "hv2", "it runs on {node}");
    is_a_node(site, "hv1")
}

fn a_host_leaves(site: &Site) -> Result<()> {
    // One that has a guest: where they are after the reboot is placement's choice.
    let first = site.control.object("vm", "first")?;
    let node = first["status"]["nodeName"].as_str().context("it has no node")?;
    let host = site.hypervisor(node);
    let is_here = |name: &&str| site.control.object("vm", name).is_ok_and(|vm| vm["status"]["nodeName"] == node);
    let guests: Vec<String> =
        ["first", "second"].into_iter().filter(is_here).map(|name| format!("default/{name}")).collect();
    let said = failure(&mut host.command(&["ovm-agent", "leave"])?)?;
    ensure!(said.contains(&format!("has guests: {}", guests.join(", "))), "leave said {said}");
    ensure!(site.node(node)?["spec"]["unschedulable"] != true, "it was closed, and nothing was done");
    let said = host.run(&["ovm-agent", "leave", "--stop-guests"])?;
    ensure!(said.contains(&format!("node {node} has left its cluster")), "leave said {said}");
    let unit = host.run(&["sh", "-c", "systemctl is-enabled ovm-agent; systemctl is-active ovm-agent; true"])?;
    ensure!(unit == "disabled\ninactive", "its unit is {unit}");
    ensure!(host.qemus()?.is_empty() && site.node(node).is_err(), "a guest or the Node is left");
    for gone in ["etc/ovm/agent.kubeconfig", "var/lib/ovm/pki/agent-current.pem"] {
        ensure!(!host.root().join(gone).exists(), "/{gone} is left");
    }
    let other = if node == "hv1" { "hv2" } else { "hv1" };
    for name in ["first", "second"] {
        let guest = wait_for("the guest runs on the other host", DEADLINE, || {
            let guest = site.control.wait_for_guest(name, None)?;
            ensure!(guest["status"]["nodeName"] == other, "its status is {}", guest["status"]);
            Ok(guest)
        })?;
        ensure!(guest["metadata"]["deletionTimestamp"].is_null(), "{name} is being deleted");
        site.control.run(&["virtctl", "stop", name])?;
    }
    wait_for("the guests are gone", DEADLINE, || {
        let left = site.control.run(&["kubectl", "get", "vm", "--output=name"])?;
        ensure!(left.is_empty() && site.hypervisor(other).qemus()?.is_empty(), "there are {left}");
        Ok(())
    })
}

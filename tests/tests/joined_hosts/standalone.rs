//! One control host, many hypervisors: `ovm-standalone` on a host of its own.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::boot_sector::SERIAL_BANNER;
use tests::host::{Host, Lan, Package, why_unsupported};
use tests::machines::offline_machine;
use tests::programs::{failure, output, say, say_skipped};
use tests::wait::wait_for;

use crate::{DEADLINE, HYPERVISORS, has_left, is_a_node, joins, journals, set_up};

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
        let [first, second] = HYPERVISORS;
        let hypervisors = [Host::boot_in(first, Some(lan.place()?))?, Host::boot_in(second, Some(lan.place()?))?];
        for host in &hypervisors {
            host.run(&["sh", "-c", &format!("echo {address} control >> /etc/hosts")])?;
        }
        set_up(&hypervisors, || set_up_control_host(&control, &address))?;
        Ok(Self { control, hypervisors, _lan: lan })
    }

    fn node(&self, name: &str) -> Result<Value> {
        self.control.object("node", name)
    }

    fn hypervisor(&self, name: &str) -> &Host {
        if name == "hv1" { &self.hypervisors[0] } else { &self.hypervisors[1] }
    }

    fn journals(&self) -> String {
        format!("control:\n{}\nhypervisors:\n{}", self.control.journal("ovm-standalone"), journals(&self.hypervisors))
    }
}

fn set_up_control_host(host: &Host, address: &str) -> Result<()> {
    host.install(&Package::ALL)?;
    host.configure(&format!("OVM_LISTEN={address}:6443\nOVM_ADVERTISE=control"))?;
    let restarted = host.run(&["systemctl", "restart", "ovm-standalone"]);
    restarted.and_then(|_| host.wait_for_ready("ovm-standalone")).with_context(|| host.journal("ovm-standalone"))
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
        let command = site.control.run(&["virtctl", "token", "create"])?;
        ensure!(command.starts_with("ovm-agent join --server https://control:6443 --token "), "it printed {command}");
        joins(host, &command)?;
    }
    for name in HYPERVISORS {
        is_a_node(name, || site.node(name))?;
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
    ensure!(nodes == HYPERVISORS, "they run on {nodes:?}");
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
    is_a_node("hv1", || site.node("hv1"))
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
    has_left(host)?;
    ensure!(site.node(node).is_err(), "the Node is left");
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

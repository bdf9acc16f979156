//! Two hypervisors with a real systemd, from the packages alone, as `docs/bare-metal.md` and `docs/joining.md` have an operator set them up: joined to a control
//! host of the same kind, and to a real Kubernetes.

mod kubernetes;
mod standalone;

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::boot_sector::SERIAL;
use tests::host::{Host, Package};
use tests::wait::wait_for;

/// For a guest, a node or a service to be as it should, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Their names. Nobody knows them by these but their own cluster.
const HYPERVISORS: [&str; 2] = ["hv1", "hv2"];

/// Installs the agent on both, with an image, while `meanwhile` sets up what they are to join.
fn set_up<T>(hypervisors: &[Host; 2], meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
    let set_up_one = |host: &Host| {
        host.install(&[Package::Agent])?;
        // KVM hangs some hosts' guests.
        host.configure("OVM_EMULATION=always")?;
        host.import_sector("serial", &SERIAL)
    };
    thread::scope(|hosts| {
        let set_up = hypervisors.each_ref().map(|host| hosts.spawn(|| set_up_one(host)));
        let done = meanwhile();
        set_up.into_iter().try_for_each(|host| host.join().expect("a host's thread does not panic"))?;
        done
    })
}

/// By the printed line, word for word.
fn joins(host: &Host, command: &str) -> Result<()> {
    ensure!(unit_state(host)? == "disabled\ninactive", "before it joins, its unit is {}", unit_state(host)?);
    let said = host.run(&["sh", "-c", command])?;
    ensure!(said.contains("ovm-agent.service is enabled and started"), "join said {said}");
    ensure!(unit_state(host)? == "enabled\nactive", "its unit is {}", unit_state(host)?);
    ensure!(host.property("ovm-agent", "User")? == "ovm", "its agent runs as somebody else");
    host.wait_for_ready("ovm-agent")
}

/// Whether the agent's unit is enabled, and whether it runs.
fn unit_state(host: &Host) -> Result<String> {
    host.run(&["sh", "-c", "systemctl is-enabled ovm-agent; systemctl is-active ovm-agent; true"])
}

/// What the agent is to have made of it, as `node` shows it.
fn is_a_node(name: &str, node: impl Fn() -> Result<Value>) -> Result<()> {
    let node = wait_for(&format!("node {name} is ready"), DEADLINE, || {
        let node = node()?;
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

/// Nothing of its cluster is left on a host that has left, and none of its guests.
fn has_left(host: &Host) -> Result<()> {
    ensure!(unit_state(host)? == "disabled\ninactive", "its unit is {}", unit_state(host)?);
    ensure!(host.qemus()?.is_empty(), "a guest is left");
    for gone in ["etc/ovm/agent.kubeconfig", "var/lib/ovm/pki/agent-current.pem"] {
        ensure!(!host.root().join(gone).exists(), "/{gone} is left");
    }
    Ok(())
}

/// The agents' journals.
fn journals(hypervisors: &[Host; 2]) -> String {
    hypervisors.each_ref().map(|host| host.journal("ovm-agent")).join("\n--\n")
}

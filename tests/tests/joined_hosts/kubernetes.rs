//! A real Kubernetes, with API server and controller in the hosts' network: they join, run guests, renew a certificate, and one of them is lost, fenced and back.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::certificates::{certificate_hash, wait_for_renewal};
use tests::client::Client;
use tests::console::Console;
use tests::host::{Host, Lan, Place, why_unsupported};
use tests::kube::{ControlPlane, Server, Settings, install_with_controller, why_unavailable};
use tests::machines::offline_machine;
use tests::programs::{failure, output, say, say_skipped};
use tests::stack::{NAMESPACE, uid};
use tests::wait::wait_for;

use crate::{DEADLINE, HYPERVISORS, has_left, is_a_node, joins, journals, set_up, unit_state};

/// For a host that is silent to be called lost, which takes 40 s.
const LOST_DEADLINE: Duration = Duration::from_mins(2);
/// Where the controller listens, beside the API server.
const CONTROLLER_PORT: u16 = 8443;
/// The shortest life that Kubernetes signs for, and a renewal after ten seconds of it.
const SHORT_LIFE: &str = "--certificate-lifetime 10m";
const EARLY_RENEWAL: &str = "OVM_RENEW_BEFORE=9m50s";
/// What tells that a node is off.
const FENCE: &str = "node.kubernetes.io/out-of-service";

/// A control plane, and two hosts on its network.
struct Site {
    // In the order in which they are to end.
    hypervisors: [Host; 2],
    places: [Place; 2],
    lan: Lan,
    _controller: Server,
    control_plane: ControlPlane,
    client: Client,
}

impl Site {
    fn new() -> Result<Self> {
        let control_plane = ControlPlane::start_with(&Settings {
            network_of_its_own: true,
            // The controller's service is a name, and has no endpoints to route to.
            api_flags: vec!["--enable-aggregator-routing=false".to_owned()],
            ..Settings::default()
        })?;
        let mut lan = Lan::around(&control_plane)?;
        let places = [lan.place()?, lan.place()?];
        let [first, second] = HYPERVISORS;
        let hypervisors =
            [Host::boot_in(first, Some(places[0].clone()))?, Host::boot_in(second, Some(places[1].clone()))?];
        let listen = SocketAddr::new(control_plane.address().ip(), CONTROLLER_PORT);
        let controller = set_up(&hypervisors, || install_with_controller(&control_plane, listen))?;
        let client = control_plane.admin();
        Ok(Self { hypervisors, places, lan, _controller: controller, control_plane, client })
    }

    fn node(&self, name: &str) -> Result<Value> {
        self.client.get(&format!("/api/v1/nodes/{name}"))?.with_context(|| format!("there is no Node {name}"))
    }

    fn machine(&self, name: &str) -> Result<Value> {
        let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/virtualmachines/{name}");
        self.client.get(&path)?.with_context(|| format!("there is no VirtualMachine {name}"))
    }

    /// Waits until a guest runs, there alone if a host is given, whose UID is not `not`.
    fn wait_for_guest(&self, name: &str, host: Option<&str>, not: Option<&Value>) -> Result<Value> {
        wait_for(&format!("guest {name} runs on {}", host.unwrap_or("a host")), DEADLINE, || {
            let machine = self.machine(name)?;
            ensure!(machine["status"]["phase"] == "Running", "its status is {}", machine["status"]);
            ensure!(not.is_none_or(|not| uid(not) != uid(&machine)), "it is the old one");
            ensure!(host.is_none_or(|host| host == node_of(&machine)), "it runs on {}", node_of(&machine));
            Ok(machine)
        })
    }

    /// It is the very one, and runs.
    fn still_runs(&self, machine: &Value) -> Result<()> {
        let now = self.machine(name_of(machine))?;
        ensure!(uid(&now) == uid(machine), "{} was replaced", name_of(machine));
        ensure!(now["status"]["phase"] == "Running", "its status is {}", now["status"]);
        Ok(())
    }

    fn report(&self) -> String {
        let objects = self.client.kubectl(&["get", "ovm,vm,nodes,events,csr", "--all-namespaces"]);
        let objects = objects.unwrap_or_else(|error| format!("{error:#}"));
        format!("{objects}\n{}\nhypervisors:\n{}", self.control_plane.log(), journals(&self.hypervisors))
    }
}

#[test]
fn hosts_join_a_kubernetes_and_one_is_lost() -> Result<()> {
    if let Some(reason) = why_unsupported().or_else(why_unavailable) {
        say_skipped("joined_hosts::kubernetes::hosts_join_a_kubernetes_and_one_is_lost", &reason);
        return Ok(());
    }
    let begun = Instant::now();
    let mut site = Site::new()?;
    say(&format!("a Kubernetes and two hosts after {} s", begun.elapsed().as_secs()));
    let done = steps(&mut site);
    done.with_context(|| site.report())
}

fn steps(site: &mut Site) -> Result<()> {
    hosts_join_and_a_stolen_token_is_refused(site)?;
    for name in HYPERVISORS {
        is_a_node(name, || site.node(name))?;
    }
    let [lost, kept] = guests_run_on_both(site)?;
    a_certificate_is_renewed_unnoticed(site, &kept)?;
    let successor = a_host_is_lost_and_fenced(site, &lost, &kept)?;
    it_comes_back_without_its_guest(site, &successor)?;
    a_host_is_drained_and_leaves(site, [&successor, &kept])
}

fn hosts_join_and_a_stolen_token_is_refused(site: &Site) -> Result<()> {
    let [first, second] = &site.hypervisors;
    let command = site.client.virtctl(&["token", "create"])?;
    let start = format!("ovm-agent join --server {} --token ", site.control_plane.url());
    ensure!(command.starts_with(&start), "it printed {command}");
    joins(first, &command)?;
    // Whoever finds the line later: as itself, and as the host that it was made for.
    for stolen in [command.clone(), format!("{command} --node-name hv1")] {
        let said = failure(&mut second.command(&["sh", "-c", &stolen])?)?;
        ensure!(said.contains("used up") && said.contains("virtctl token create"), "it said {said}");
    }
    // The API server may know the token for ten seconds more, and take requests: nothing comes of them.
    let signed = site.client.kubectl(&["get", "csr", "--output=jsonpath={.items[*].status.certificate}"])?;
    ensure!(signed.split_whitespace().count() == 1, "certificates were signed: {signed}");
    ensure!(unit_state(second)? == "disabled\ninactive", "its unit is {}", unit_state(second)?);
    ensure!(!second.root().join("etc/ovm/agent.kubeconfig").exists(), "it has a kubeconfig");
    let command = site.client.virtctl(&["token", "create"])?;
    joins(second, &format!("{command} {SHORT_LIFE}"))
}

/// Two guests that may run anywhere, in the order of the hosts on which they are.
fn guests_run_on_both(site: &Site) -> Result<[Value; 2]> {
    let mut guests = Vec::new();
    for name in ["first", "second"] {
        site.client.create(&offline_machine(NAMESPACE, name, "serial", true))?;
        guests.push(site.wait_for_guest(name, None, None)?);
    }
    guests.sort_by(|one, other| node_of(one).cmp(node_of(other)));
    for (guest, (name, host)) in guests.iter().zip(HYPERVISORS.iter().zip(&site.hypervisors)) {
        ensure!(node_of(guest) == *name, "{} runs on {}, not on {name}", name_of(guest), node_of(guest));
        ensure!(domains(host)? == [domain_of(guest)] && host.qemus()?.len() == 1, "{name} has {:?}", domains(host)?);
        Console::open(&site.client, NAMESPACE, name_of(guest))?.wait_for_echo("hello", DEADLINE)?;
    }
    guests.try_into().ok().context("there are two guests")
}

fn a_certificate_is_renewed_unnoticed(site: &Site, guest: &Value) -> Result<()> {
    let [_, host] = &site.hypervisors;
    let file = host.root().join("var/lib/ovm/pki/agent-current.pem");
    let hash = || certificate_hash(&fs::read_to_string(&file).context("read the certificate")?);
    let (first, qemus) = (hash()?, host.qemus()?);
    host.configure(EARLY_RENEWAL)?;
    host.run(&["systemctl", "restart", "ovm-agent"])?;
    let agent = host.property("ovm-agent", "MainPID")?;
    wait_for_renewal(&site.client, "hv2", &first)?;
    ensure!(hash()? != first, "the file was not replaced");
    let (mut short, life) = (Command::new("openssl"), ["x509", "-noout", "-checkend", "600", "-in"]);
    ensure!(output(short.args(life).arg(&file)).is_err(), "a certificate of ten minutes was renewed by a longer one");
    let who = ["auth", "whoami", "--output=jsonpath={.status.userInfo.username}"];
    let who = host.run(&[&["kubectl", "--kubeconfig=/etc/ovm/agent.kubeconfig"], &who[..]].concat())?;
    ensure!(who == "kubevirt.io:node:hv2", "the host is {who}");
    ensure!(host.property("ovm-agent", "MainPID")? == agent, "the agent was started anew");
    ensure!(host.qemus()? == qemus, "the guest was started anew");
    site.still_runs(guest)
}

/// First its cable is pulled, and nobody but the host itself knows that its guest goes on. Then its power is off, and the operator says so.
fn a_host_is_lost_and_fenced(site: &mut Site, guest: &Value, other: &Value) -> Result<Value> {
    let qemus = site.hypervisors[0].qemus()?;
    site.lan.cut_off(&site.places[0])?;
    let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/offlinevirtualmachines/{}", name_of(guest));
    wait_for("the guest is shown lost", LOST_DEADLINE, || {
        let status = &site.client.get(&path)?.context("it is gone")?["status"];
        ensure!(status["printableStatus"] == "NodeLost", "its status is {status}");
        Ok(())
    })?;
    ensure!(site.hypervisors[0].qemus()? == qemus, "the guest has ended on the host that is cut off");
    ensure!(uid(&site.machine(name_of(guest))?) == uid(guest), "it was replaced before the fence");
    ensure!(domains(&site.hypervisors[1])? == [domain_of(other)], "it was started before the fence");
    site.hypervisors[0].lose_power()?;
    site.client.kubectl(&["taint", "node", "hv1", &format!("{FENCE}=nodeshutdown:NoExecute")])?;
    let successor = site.wait_for_guest(name_of(guest), Some("hv2"), Some(guest))?;
    let mut both = [domain_of(guest), domain_of(other)];
    both.sort();
    ensure!(domains(&site.hypervisors[1])? == both, "hv2 has {:?}", domains(&site.hypervisors[1])?);
    Ok(successor)
}

fn it_comes_back_without_its_guest(site: &mut Site, successor: &Value) -> Result<()> {
    site.lan.reconnect(&site.places[0])?;
    let qemus = site.hypervisors[1].qemus()?;
    site.hypervisors[0].boot()?;
    site.hypervisors[0].wait_for_ready("ovm-agent")?;
    is_a_node("hv1", || site.node("hv1"))?;
    let [back, other] = &site.hypervisors;
    wait_for("what is left of its guest is removed", DEADLINE, || {
        let left = back.run(&["ls", "/var/lib/ovm/vms"])?;
        ensure!(left.is_empty(), "there is {left}");
        Ok(())
    })?;
    for host in [back, other] {
        let starts = starts_of(host, successor)?;
        ensure!(starts == "1", "{} was started {starts} times on a host", name_of(successor));
    }
    ensure!(back.qemus()?.is_empty() && other.qemus()? == qemus, "a guest was started or ended");
    site.still_runs(successor)?;
    // It takes guests again.
    site.client.kubectl(&["taint", "node", "hv1", &format!("{FENCE}-")])?;
    let mut third = offline_machine(NAMESPACE, "third", "serial", true);
    third["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "hv1"});
    site.client.create(&third)?;
    site.wait_for_guest("third", Some("hv1"), None).map(drop)
}

fn a_host_is_drained_and_leaves(site: &Site, guests: [&Value; 2]) -> Result<()> {
    let [stays, leaves] = &site.hypervisors;
    // It knows pods, and leaves guests alone.
    site.client.kubectl(&["drain", "hv2"])?;
    guests.iter().try_for_each(|guest| site.still_runs(guest))?;
    let said = failure(&mut leaves.command(&["ovm-agent", "leave"])?)?;
    ensure!(said.contains("has guests: default/first, default/second"), "leave said {said}");
    site.client.virtctl(&["drain", "hv2", "--timeout", "1m"])?;
    let said = leaves.run(&["ovm-agent", "leave"])?;
    ensure!(said.contains("node hv2 has left its cluster"), "leave said {said}");
    has_left(leaves)?;
    ensure!(site.node("hv2").is_err(), "the Node is left");
    for guest in guests {
        site.wait_for_guest(name_of(guest), Some("hv1"), Some(guest))?;
    }
    let all = ["first", "second", "third"].map(|name| format!("{NAMESPACE}_{name}"));
    ensure!(domains(stays)? == all && stays.qemus()?.len() == 3, "hv1 has {:?}", domains(stays)?);
    Ok(())
}

fn name_of(machine: &Value) -> &str {
    machine["metadata"]["name"].as_str().unwrap_or_default()
}

fn node_of(machine: &Value) -> &str {
    machine["status"]["nodeName"].as_str().unwrap_or_default()
}

/// Its domain's name.
fn domain_of(machine: &Value) -> String {
    format!("{NAMESPACE}_{}", name_of(machine))
}

/// The domains that run under a host's libvirtd, by name.
fn domains(host: &Host) -> Result<Vec<String>> {
    let listed = host.run(&["virsh", "--quiet", "--connect=qemu:///system", "list", "--name"])?;
    let mut names: Vec<String> =
        listed.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// How often libvirt has started a guest on a host, over all boots, as its log says.
fn starts_of(host: &Host, machine: &Value) -> Result<String> {
    let log = format!("/var/log/libvirt/qemu/{}.log", domain_of(machine));
    host.run(&["sh", "-c", &format!("grep --count 'starting up libvirt' {log} || true")])
}

//! Consoles, displays and user data through the API server, and what whoever goes around it gets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::{SERIAL, write_disk};
use tests::client::Client;
use tests::console::Console;
use tests::kube::Certificate;
use tests::libvirtd::{PrivateLibvirtd, why_unsupported};
use tests::machines::offline_machine;
use tests::programs::{output, program};
use tests::stack::DEADLINE;
use tests::wait::wait_for;

use crate::world::{NODE, World, call, refused, scenario, stranger, user};

/// What must show nowhere but in the guest's seed.
const CANARY: &str = "canary-7f3a";

fn subresource(name: &str, subresource: &str) -> String {
    format!("/apis/subresources.kubevirt.io/v1alpha1/namespaces/default/virtualmachines/{name}/{subresource}")
}

/// A libvirtd with the serial guest's image in its node's store, and an agent on it.
fn start_node(world: &mut World) -> Result<PrivateLibvirtd> {
    let libvirtd = PrivateLibvirtd::start()?;
    let disk = libvirtd.directory().join("serial.raw");
    write_disk(&disk, &SERIAL)?;
    let mut import = Command::new(program("ovm-agent")?);
    import.args(["image", "import", "serial"]).arg(&disk).arg("--data-dir").arg(libvirtd.directory().join("data"));
    output(&mut import)?;
    world.start_agent(&libvirtd)?;
    Ok(libvirtd)
}

fn wait_until_running(world: &World, name: &str) -> Result<()> {
    wait_for(&format!("{name} runs"), DEADLINE, || {
        let vm = world.admin().get(&format!("/apis/kubevirt.io/v1alpha1/namespaces/default/virtualmachines/{name}"))?;
        let vm = vm.context("there is no VirtualMachine")?;
        ensure!(vm["status"]["phase"] == "Running", "its status is {}", vm["status"]);
        Ok(())
    })
}

#[test]
fn console_and_display_go_through_the_api_server_to_whom_it_allows() -> Result<()> {
    const NAME: &str = "console_and_display_go_through_the_api_server_to_whom_it_allows";
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped(NAME, &reason);
        return Ok(());
    }
    scenario(NAME, |world| {
        wait_for("virtctl says that the controller is away", DEADLINE, || {
            let begun = Instant::now();
            let said = world.admin().virtctl_fails(&["version"])?;
            ensure!(begun.elapsed() < DEADLINE, "it said so after {} s", begun.elapsed().as_secs());
            ensure!(
                said.contains("does not reach ovm-controller: ") && said.contains("kubectl get apiservice"),
                "{said}"
            );
            Ok(())
        })?;
        let address = world.start_controller()?;
        let libvirtd = start_node(world)?;
        world.admin().create(&offline_machine("default", "talks", "serial", true))?;
        wait_until_running(world, "talks")?;
        let (editor, viewer) = (user(world, "editor")?, user(world, "viewer")?);
        let told = viewer.virtctl(&["version"]).context("whoever has credentials may ask")?;
        ensure!(told.contains("Server Version: v"), "virtctl version prints {told}");
        for role in ["edit", "view"] {
            let binding = ["create", "rolebinding", role, "-n", "default", "--clusterrole", role];
            let whom = if role == "edit" { "--user=editor" } else { "--user=viewer" };
            world.admin().kubectl(&[&binding[..], &[whom]].concat())?;
        }
        ensure_discovered(world)?;
        talk(&editor)?;
        ensure_rfb(&editor, "talks")?;

        for verb in ["console", "vnc"] {
            let said = viewer.virtctl_fails(&[verb, "talks", "--timeout", "5s"])?;
            ensure!(said.contains("forbidden"), "{verb}: {said}");
        }
        viewer.kubectl(&["get", "--raw", &subresource("talks", "test")])?;
        let said = editor.virtctl_fails(&["console", "nobody", "--timeout", "1s"])?;
        ensure!(said.contains("VM nobody in namespace default not found."), "{said}");
        ensure_strangers_are_refused(world, &format!("https://{address}"))?;

        // The agent's door opens for the controller's certificate alone.
        let agent = address_of_agent(world)?;
        let url = format!("https://{agent}/guests/default/talks/uid/console");
        let stranger = stranger(world.control_plane.directory(), "ovm-controller")?;
        for shown in [None, Some(&stranger), Some(&front_proxy(world))] {
            let (code, body) = call(&url, shown, &[])?;
            ensure!(code == 0 && body.is_empty(), "an agent answered {code}: {body}");
        }
        let old = controllers_own(world)?;
        let (code, body) = call(&url, Some(&old), &[])?;
        ensure!(code == 400, "the controller's own certificate: {code}: {body}");

        // Another authority: the agent learns of it, and lets nobody in by the old one.
        world.admin().kubectl(&["delete", "secret", "ovm-controller-tls", "-n", "kubevirt-system"])?;
        wait_for("the agent refuses certificates of the former authority", DEADLINE, || {
            let (code, body) = call(&url, Some(&old), &[])?;
            ensure!(code == 0, "it answered {code}: {body}");
            Ok(())
        })?;
        wait_for("the console is back", DEADLINE, || talk(&editor))?;

        // Another agent, with another certificate at another port.
        world.kill("agent");
        world.start_agent_again(&libvirtd)?;
        wait_for("the console is back", DEADLINE, || {
            ensure!(address_of_agent(world)? != agent, "the Lease names the former agent");
            talk(&editor)
        })?;
        world.admin().virtctl(&["stop", "talks"]).map(drop)
    })
}

/// Where our Lease says that the agent is.
fn address_of_agent(world: &World) -> Result<String> {
    let lease = world.admin().get(&format!("/apis/coordination.k8s.io/v1/namespaces/kubevirt-system/leases/{NODE}"))?;
    let lease = lease.context("there is no Lease")?;
    let address = lease["metadata"]["annotations"]["kubevirt.io/agent-address"].as_str();
    address.map(str::to_owned).context("the Lease names no agent")
}

fn ensure_discovered(world: &World) -> Result<()> {
    let resources = world.admin().get("/apis/subresources.kubevirt.io/v1alpha1")?.context("there is no discovery")?;
    let names: Vec<_> = resources["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|resource| resource["name"].as_str().unwrap_or_default())
        .collect();
    let wanted = ["console", "vnc", "test", "userdata"].map(|name| format!("virtualmachines/{name}"));
    ensure!(names == wanted, "{resources}");
    let listed = world.admin().kubectl(&["api-versions"])?;
    ensure!(listed.contains("subresources.kubevirt.io/v1alpha1"), "{listed}");
    Ok(())
}

/// Types into the guest, and reads what it echoes.
fn talk(client: &Client) -> Result<()> {
    let mut console = Console::open(client, "default", "talks")?;
    console.wait_for_echo("hello", DEADLINE)?;
    Ok(())
}

/// The display's first words, through `virtctl vnc --proxy-only`.
fn ensure_rfb(client: &Client, name: &str) -> Result<()> {
    let mut proxy = client.virtctl_command()?;
    let mut proxy = proxy.args(["vnc", name, "--proxy-only"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut first = [0; 64];
    let length = proxy.stdout.as_mut().context("virtctl has no output")?.read(&mut first)?;
    let said: Value =
        serde_json::from_slice(&first[..length]).with_context(|| format!("{:?}", String::from_utf8_lossy(&first)))?;
    let port = u16::try_from(said["port"].as_u64().context("it names no port")?)?;
    let mut display = TcpStream::connect(("127.0.0.1", port)).context("connect to the proxy")?;
    display.set_read_timeout(Some(DEADLINE))?;
    let mut version = [0; 12];
    display.read_exact(&mut version).context("read the display's version")?;
    ensure!(version.starts_with(b"RFB 003."), "{version:?}");
    display.write_all(&version)?;
    let mut security = [0; 2];
    display.read_exact(&mut security).context("read the display's security types")?;
    drop(display);
    let status = proxy.wait()?;
    ensure!(status.success(), "virtctl vnc ended with {status}");
    Ok(())
}

/// The API server's own certificate as a proxy.
fn front_proxy(world: &World) -> Certificate {
    let pki = world.control_plane.directory().join("pki");
    Certificate { certificate: pki.join("front-proxy.crt"), key: pki.join("front-proxy.key") }
}

/// The controller's client certificate, out of its Secret.
fn controllers_own(world: &World) -> Result<Certificate> {
    let directory = world.control_plane.directory();
    let files = Certificate { certificate: directory.join("own.crt"), key: directory.join("own.key") };
    fs::write(&files.certificate, world.stored("client.crt")?)?;
    fs::write(&files.key, world.stored("client.key")?)?;
    Ok(files)
}

/// Whoever goes around the API server is nobody, whatever headers say.
fn ensure_strangers_are_refused(world: &World, url: &str) -> Result<()> {
    let forged = [
        "X-Remote-User: admin",
        "X-Remote-Group: system:masters",
        "X-Remote-Extra-Authentication.kubernetes.io%2fnode-Name: node-a",
    ];
    let pki = world.control_plane.directory().join("pki");
    // Signed by the very authority of the front proxy, but not of its name.
    let admin = Certificate { certificate: pki.join("admin.crt"), key: pki.join("admin.key") };
    let other = stranger(world.control_plane.directory(), "front-proxy-client")?;
    for (who, shown) in [("nobody", None), ("a stranger", Some(&other)), ("an administrator", Some(&admin))] {
        for path in [
            "/apis",
            "/apis/subresources.kubevirt.io/v1alpha1/test",
            &subresource("talks", "userdata"),
            &subresource("talks", "console"),
        ] {
            let (code, body) = call(&format!("{url}{path}"), shown, &forged)?;
            ensure!(code == 401, "{who} got {code} at {path}: {body}");
        }
    }
    let own = front_proxy(world);
    let (code, body) =
        call(&format!("{url}{}", subresource("talks", "userdata")), Some(&own), &["X-Remote-User: viewer"])?;
    ensure!(code == 403, "the front proxy, for a user without the right: {code} {body}");
    let (code, body) = call(&format!("{url}/apis"), Some(&own), &[])?;
    ensure!(code == 401, "the front proxy, for nobody: {code} {body}");
    Ok(())
}

#[test]
fn user_data_reaches_the_guests_own_node_and_nobody_else() -> Result<()> {
    const NAME: &str = "user_data_reaches_the_guests_own_node_and_nobody_else";
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped(NAME, &reason);
        return Ok(());
    }
    scenario(NAME, |world| {
        world.start_controller()?;
        let libvirtd = start_node(world)?;
        let mut machine = offline_machine("default", "seeded", "serial", true);
        let spec = &mut machine["spec"]["template"]["spec"];
        spec["domain"]["devices"]["disks"] = json!([
            {"name": "root", "volumeName": "root", "disk": {}}, {"name": "seed", "volumeName": "seed", "disk": {}},
        ]);
        spec["volumes"] = json!([
            {"name": "root", "registryDisk": {"image": "serial"}},
            {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "login"}}},
        ]);
        world.admin().create(&machine)?;
        wait_for("the missing secret is named", DEADLINE, || {
            let events = world.admin().kubectl(&["get", "events", "-n", "default", "-o", "json"])?;
            ensure!(events.contains("SyncFailed") && events.contains("login"), "the events are {events}");
            Ok(())
        })?;
        world.admin().kubectl(&[
            "create",
            "secret",
            "generic",
            "login",
            &format!("--from-literal=userdata=#cloud-config {CANARY}"),
        ])?;
        wait_until_running(world, "seeded")?;

        let path = subresource("seeded", "userdata");
        let get =
            |kubeconfig| Client::new(kubeconfig, world.control_plane.directory()).kubectl(&["get", "--raw", &path]);
        let own = world.control_plane.service_account("kubevirt-system", "ovm-agent", Some(NODE))?;
        let answer: Value = serde_json::from_str(&get(&own)?)?;
        ensure!(answer["kind"] == "VirtualMachineUserData", "{answer}");
        ensure!(answer["userData"]["login"].as_str().is_some_and(|data| !data.is_empty()), "{answer}");
        let other = world.agent_kubeconfig("node-b")?;
        let without = world.control_plane.service_account("kubevirt-system", "ovm-agent", None)?;
        for (who, kubeconfig) in [
            ("another node's agent", &other),
            ("a token without a node", &without),
            ("the administrator", &world.control_plane.kubeconfig()),
        ] {
            let said = refused(get(kubeconfig))?;
            ensure!(said.contains("only for the agent of the node"), "{who}: {said}");
        }
        // The right to a Secret is what no agent has.
        let secret =
            Client::new(&own, world.control_plane.directory()).kubectl(&["get", "secret", "login", "-n", "default"]);
        ensure!(refused(secret)?.contains("forbidden"), "an agent reads secrets");

        let events = world.admin().kubectl(&["get", "events", "-A", "-o", "json"])?;
        let objects = world.admin().kubectl(&["get", "ovm,vm", "-A", "-o", "json"])?;
        let domain = libvirtd.virsh(&["dumpxml", "default_seeded"])?;
        for (what, text) in
            [("a log", world.logs()), ("an event", events), ("an object", objects), ("the domain", domain)]
        {
            ensure!(!text.contains(CANARY) && !text.contains("I2Nsb3Vk"), "the user data shows in {what}");
        }
        world.admin().virtctl(&["stop", "seeded"]).map(drop)
    })
}

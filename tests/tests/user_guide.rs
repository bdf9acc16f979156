//! The user guide, typed in as it stands: the demo guest, kubectl, virtctl, a console.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::guide::ensure_described;
use tests::machines::offline_machine;
use tests::programs::{demo_guest_disk, repository};
use tests::stack::{BOOT_DEADLINE, DEADLINE, NAMESPACE, Stack, uid};
use tests::wait::wait_for;
use tests::watch::Watch;

tests::scenarios! {
    walk_through_of_the_guide: Console UserData,
    every_example_runs: Console UserData,
    a_machine_is_waited_for_described_and_explained,
}

const IMAGE: &str = "kubevirt/cirros-registry-disk-demo:latest";
const NAME: &str = "ovm-cirros";

fn manifest() -> String {
    repository().join("examples/ovm.yaml").display().to_string()
}

#[test]
fn the_example_is_the_guides_own() -> Result<()> {
    let guide = std::fs::read_to_string(repository().join("docs/offline-virtual-machine.md"))?;
    let start = guide.find("```yaml\napiVersion").context("the guide has a manifest")? + "```yaml\n".len();
    let length = guide[start..].find("```").context("the guide's manifest ends")?;
    let example = std::fs::read_to_string(manifest())?;
    ensure!(example == guide[start..start + length], "examples/ovm.yaml differs from the guide's manifest");
    Ok(())
}

fn walk_through_of_the_guide(stack: &mut Stack) -> Result<()> {
    versions_are_told(stack)?;
    stack.import(IMAGE, &demo_guest_disk()?)?;

    // "Since `spec.running` is set to `false`, no vm will be created"
    let created = stack.client.kubectl(&["create", "-f", &manifest()])?;
    ensure!(created == "offlinevirtualmachine.kubevirt.io/ovm-cirros created", "kubectl create says {created}");
    stack.wait_for_status(NAMESPACE, NAME, false, false)?;
    let listed = stack.client.kubectl(&["get", "vms"])?;
    ensure!(listed.is_empty(), "kubectl get vms prints {listed}");

    // "Let's start the OfflineVirtualMachine", as it is typed there.
    let ready = Watch::start(&stack.client, &["get", "ovm", NAME], "{.status.ready}")?;
    let said = stack.client.virtctl(&["start", "omv", NAME])?;
    ensure!(said.is_empty(), "virtctl start is silent on success, not {said}");
    let again = stack.client.virtctl_fails(&["start", NAME])?;
    ensure!(again == "Error: VirtualMachine 'ovm-cirros' is already running", "a second start says {again}");

    let mut console = stack.console(NAMESPACE, NAME)?;
    stack.wait_for_status(NAMESPACE, NAME, true, true)?;
    let first = stack.wait_for_phase(NAMESPACE, NAME, "Running")?;
    let uuid = stack.firmware_uuid(NAMESPACE, NAME)?;
    console.expect("printed from cloud-init userdata", BOOT_DEADLINE)?;
    console.expect(&format!("firmware UUID {uuid}"), BOOT_DEADLINE)?;
    console.expect("ovm-cirros login:", BOOT_DEADLINE)?;

    ensure_described(&stack.client.kubectl(&["describe", "ovm", NAME])?)?;
    let table = stack.client.kubectl(&["get", "ovm,vm"])?;
    ensure!(table.contains("offlinevirtualmachine.kubevirt.io/ovm-cirros"), "kubectl get ovm,vm prints\n{table}");
    ensure!(table.contains("virtualmachine.kubevirt.io/ovm-cirros"), "kubectl get ovm,vm prints\n{table}");

    // "If a VirtualMachine reaches a final state ... set `status.ready` to `false` and re-create the VirtualMachine"
    console.send("cirros\n")?;
    console.expect("Password:", BOOT_DEADLINE)?;
    console.send("gocubsgo\n")?;
    console.expect("# ", BOOT_DEADLINE)?;
    console.send("poweroff\n")?;
    let second = stack.wait_for_successor(NAMESPACE, NAME, &first)?;
    ready.expect_in_order(&["true", "false", "true"])?;
    let events = stack.events(NAMESPACE, "VirtualMachine", NAME)?;
    let shut_down = ("Stopped".to_owned(), "The VM was shut down.".to_owned());
    ensure!(events.contains(&shut_down), "the events are {events:?}");
    ensure!(stack.firmware_uuid(NAMESPACE, NAME)? == uuid, "the firmware UUID changed at the re-creation");

    // "A VirtualMachine restart can be triggered by deleting the VirtualMachine. This will also propagate configuration changes"
    stack.client.merge(
        "ovm",
        NAMESPACE,
        NAME,
        &json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 120}}}}),
    )?;
    stack.client.kubectl(&["delete", "virtualmachine", NAME])?;
    let third = stack.wait_for_successor(NAMESPACE, NAME, &second)?;
    ensure!(third["spec"]["terminationGracePeriodSeconds"] == 120, "the template's change is not in {}", third["spec"]);
    ensure!(stack.firmware_uuid(NAMESPACE, NAME)? == uuid, "the firmware UUID changed at the restart");
    let mut console = stack.console(NAMESPACE, NAME)?;
    console.expect("ovm-cirros login:", BOOT_DEADLINE)?;

    // The guest obeys the power button, well within its two minutes.
    stack.client.virtctl(&["stop", NAME])?;
    console.expect("demo guest: power button", BOOT_DEADLINE)?;
    wait_for("the guest has stopped", BOOT_DEADLINE, || stack.wait_until_gone(NAMESPACE, NAME))?;
    stack.wait_for_status(NAMESPACE, NAME, false, false)?;
    let again = stack.client.virtctl_fails(&["stop", NAME])?;
    ensure!(again == "Error: VirtualMachine 'ovm-cirros' is already stopped", "a second stop says {again}");
    stack.client.kubectl(&["delete", "ovm", NAME])?;
    ensure!(stack.offline_machine(NAMESPACE, NAME)?.is_none(), "the OfflineVirtualMachine is still there");
    ensure!(uid(&first) != uid(&third), "a restart makes a new VirtualMachine");
    Ok(())
}

fn every_example_runs(stack: &mut Stack) -> Result<()> {
    stack.import(IMAGE, &demo_guest_disk()?)?;
    for (file, name) in [
        ("vm.yaml", "vm-once"),
        ("ovm-emptydisk.yaml", "ovm-emptydisk"),
        ("ovm-cloudinit-secret.yaml", "ovm-cloudinit-secret"),
        ("ovm-watchdog.yaml", "ovm-watchdog"),
    ] {
        let path = repository().join("examples").join(file).display().to_string();
        stack.client.kubectl(&["create", "-f", &path]).with_context(|| format!("create {file}"))?;
        stack.wait_for_phase(NAMESPACE, name, "Running").with_context(|| format!("run {file}"))?;
    }
    let mut console = stack.console(NAMESPACE, "ovm-cloudinit-secret")?;
    console.expect("printed from a secret", BOOT_DEADLINE)?;

    // None is left out of this test.
    let mut examples: Vec<String> = std::fs::read_dir(repository().join("examples"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    examples.sort();
    let known = ["ovm-cloudinit-secret.yaml", "ovm-emptydisk.yaml", "ovm-watchdog.yaml", "ovm.yaml", "vm.yaml"];
    ensure!(examples == known, "the examples are {examples:?}");
    Ok(())
}

/// What a user reads and waits for with kubectl's own commands, which need nothing of ours but objects in good order.
fn a_machine_is_waited_for_described_and_explained(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "reads", "idle", false))?;
    waits(stack, "--for=jsonpath={.status.printableStatus}=Stopped", "ovm/reads")?;
    waits(stack, "--for=condition=Ready=False", "ovm/reads")?;
    stack.client.virtctl(&["start", "reads"])?;
    waits(stack, "--for=condition=Ready", "ovm/reads")?;
    waits(stack, "--for=condition=Ready", "vm/reads")?;
    waits(stack, "--for=jsonpath={.status.ready}=true", "ovm/reads")?;
    waits(stack, "--for=jsonpath={.status.phase}=Running", "vm/reads")?;

    let node = stack.machine(NAMESPACE, "reads")?.context("it runs")?["status"]["nodeName"].clone();
    let node = node.as_str().context("it has a node")?;
    let label = format!("kubevirt.io/nodeName={node}");
    prints(
        stack,
        &["describe", "ovm", "reads"],
        &[&["Printable", "Status:", "Running"], &["Machine", "Type:", "pc-q35-"]],
    )?;
    prints(
        stack,
        &["describe", "vm", "reads"],
        &[
            &["Labels:", &label],
            &["Node", "Name:", node],
            &["Message:", "the guest runs"],
            &["Normal", "Created", "virt-handler", "VM defined."],
            &["Normal", "Started", "virt-handler", "VM started."],
        ],
    )?;
    prints(
        stack,
        &["events", "--for", "ovm/reads"],
        &[&["Normal", "SuccessfulCreate", "OfflineVirtualMachine/reads", "Created virtual machine: reads"]],
    )?;
    prints(stack, &["events", "--for", "vm/reads"], &[&["Normal", "Started", "VirtualMachine/reads", "VM started."]])?;
    prints(
        stack,
        &["get", "vm", "reads", "-o", "wide"],
        &[&["NAME", "PHASE", "NODENAME", "READY"], &["Running", node, "True"]],
    )?;
    prints(stack, &["get", "vm", "--field-selector", &format!("status.nodeName={node}")], &[&["reads"]])?;

    for (field, words) in [
        ("ovm", "Keeps one VirtualMachine of the same name running"),
        ("ovm.spec.running", "Whether the virtual machine should run"),
        ("ovm.spec.template.spec.domain.devices.disks.disk.bus", "`sata` on q35 if"),
        ("ovm.spec.template.spec.tolerations.tolerationSeconds", "tolerates the taint"),
        ("ovm.status.printableStatus", "word"),
        ("vm.spec.domain.features.hyperv.spinlocks.spinlocks", "spin"),
        ("vm.status.conditions.lastTransitionTime", "status"),
        ("vm.status.abi.devices.address", "`pci:0000:02:01.0`"),
    ] {
        let said = stack.client.kubectl(&["explain", field])?;
        let unwrapped = said.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(unwrapped.contains(words), "kubectl explain {field} prints\n{said}");
        ensure!(!said.contains("<empty>"), "kubectl explain {field} has nothing to say of a field:\n{said}");
    }

    stack.client.virtctl(&["stop", "reads"])?;
    waits(stack, "--for=delete", "vm/reads")?;
    waits(stack, "--for=condition=Ready=False", "ovm/reads")
}

/// Of this project's programs, which are one; kubectl tells the API server's.
fn versions_are_told(stack: &Stack) -> Result<()> {
    let own = format!("v{}", env!("CARGO_PKG_VERSION"));
    let said = stack.client.virtctl(&["version"])?;
    ensure!(said == format!("Client Version: {own}\nServer Version: {own}"), "virtctl version prints\n{said}");
    let said = stack.client.virtctl(&["version", "--client"])?;
    ensure!(said == format!("Client Version: {own}"), "virtctl version --client prints\n{said}");
    let version = json!({ "gitVersion": own });
    let said = stack.client.virtctl(&["version", "-o", "json"])?;
    let said: Value = serde_json::from_str(&said).with_context(|| format!("read {said}"))?;
    ensure!(
        said == json!({"clientVersion": version, "serverVersion": version}),
        "virtctl version -o json prints {said}"
    );
    // As KubeVirt's clients ask.
    let raw = stack.client.get("/apis/subresources.kubevirt.io/v1alpha1/version")?.context("no version is served")?;
    ensure!(raw == version, "it is {raw}");
    Ok(())
}

/// `kubectl wait`, which is to end well.
fn waits(stack: &Stack, what: &str, object: &str) -> Result<()> {
    stack.client.kubectl(&["wait", what, object, "--timeout=60s"]).map(drop)
}

/// That kubectl prints for each of `lines` one with all its words.
fn prints(stack: &Stack, arguments: &[&str], lines: &[&[&str]]) -> Result<()> {
    wait_for("kubectl prints what is to be read", DEADLINE, || {
        let printed = stack.client.kubectl(arguments)?;
        for words in lines {
            let found = printed.lines().any(|line| words.iter().all(|word| line.contains(word)));
            ensure!(found, "kubectl {arguments:?} prints no line with {words:?} in\n{printed}");
        }
        Ok(())
    })
}

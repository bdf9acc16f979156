//! What goes wrong with the host under our processes: a libvirtd that hangs, a disk that is full, a socket that may not be used.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::boot_sector::{IDLE, OBEYS_POWER_BUTTON};
use tests::libvirtd::{PrivateLibvirtd, why_unsupported};
use tests::machines::{bare_machine, offline_machine};
use tests::ports::free_address;
use tests::programs::{failure, program};
use tests::small_disk::SmallDisk;
use tests::stack::{DEADLINE, NAMESPACE, Stack, uid};
use tests::standalone::Standalone;
use tests::wait::wait_for;

/// The server, libvirt's guests and their disks fit, and filling it takes no time.
const SMALL_DISK_MIB: u32 = 48;
/// More than the 1024 MiB that the doctor wants to see free; and what makes it less. Only what is taken costs memory.
const WELL_ROOM_MIB: u32 = 1088;
const TAKEN_MIB: usize = 96;
/// One of these does not fit into what a full disk's files have to spare.
const BIG_ANNOTATION: usize = 200 << 10;
/// So many do not fit, however much they have to spare.
const TOO_MANY: usize = 100;

tests::scenarios! {
    i5_a_libvirtd_that_hangs_stops_no_guest_and_all_goes_on_when_it_answers,
}

fn i5_a_libvirtd_that_hangs_stops_no_guest_and_all_goes_on_when_it_answers(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    stack.import_sector("obeys", &OBEYS_POWER_BUTTON)?;
    stack.client.create(&offline_machine(NAMESPACE, "stays", "idle", true))?;
    for name in ["deleted", "killed"] {
        stack.client.create(&bare_machine(NAMESPACE, name, "idle"))?;
    }
    for name in ["stays", "deleted", "killed"] {
        stack.wait_for_phase(NAMESPACE, name, "Running")?;
    }
    let before = stack.machine(NAMESPACE, "stays")?.context("the machine is gone")?;
    let [stays, deleted, killed] =
        [stack.qemu(NAMESPACE, "stays")?, stack.qemu(NAMESPACE, "deleted")?, stack.qemu(NAMESPACE, "killed")?];

    stack.libvirtd.suspend_daemon()?;
    wait_for_schedulable(stack, "false")?;
    stack.client.create(&bare_machine(NAMESPACE, "new", "idle"))?;
    stack.client.kubectl(&["delete", "vm", "deleted", "--wait=false"])?;
    kill(killed, nix::sys::signal::Signal::SIGKILL).context("kill QEMU")?;
    wait_for("the new machine says that no node takes it", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "new")?.context("the machine is gone")?;
        let text = machine["status"]["conditions"].to_string();
        ensure!(text.contains("accept no guests"), "its status is {}", machine["status"]);
        Ok(())
    })?;
    for (name, qemu) in [("stays", stays), ("deleted", deleted)] {
        ensure!(is_alive(qemu), "{name} was ended while libvirtd hung");
    }

    stack.libvirtd.resume_daemon()?;
    wait_for_schedulable(stack, "true")?;
    stack.wait_until_gone(NAMESPACE, "deleted")?;
    stack.wait_for_phase(NAMESPACE, "killed", "Failed")?;
    stack.wait_for_phase(NAMESPACE, "new", "Running")?;
    let after = stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
    ensure!(uid(&after) == uid(&before), "the machine was replaced");
    ensure!(after["status"] == before["status"], "its status was {} and is {}", before["status"], after["status"]);
    ensure!(stack.qemu(NAMESPACE, "stays")? == stays, "the guest was restarted");
    Ok(())
}

#[test]
fn a_full_disk_is_told_in_one_line_and_all_goes_on_when_there_is_room() -> Result<()> {
    const NAME: &str = "a_full_disk_is_told_in_one_line_and_all_goes_on_when_there_is_room";
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped(NAME, &reason);
        return Ok(());
    }
    let disk = SmallDisk::mount(SMALL_DISK_MIB)?;
    let mut stack = Stack::start_at(&disk.path().join("data"))?;
    let fix = format!("no space left in data directory {}: free some", stack.server.data().display());
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "stays", "idle", true))?;
    stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
    let (qemu, server) = (stack.qemu(NAMESPACE, "stays")?, stack.server.standalone()?.pid());

    disk.fill()?;
    let (refused, said) = fill_the_api(&stack)?;
    ensure!(said.contains(&fix) && said.lines().count() == 1, "it said {said}");
    ensure!(stack.offline_machine(NAMESPACE, &refused)?.is_none(), "{refused} was refused, and is there");
    // The image store: nothing of a refused import is left.
    let images = stack.server.data().join("images");
    let listed = files(&images)?;
    let sector = stack.scratch("other.raw");
    fs::write(&sector, vec![7_u8; 4 << 20]).context("write a disk")?;
    let import = ["image", "import", "other"].map(std::ffi::OsStr::new);
    let said = failure(
        Command::new(program("ovm-agent")?).args(import).arg(&sector).arg("--data-dir").arg(stack.server.data()),
    )?;
    ensure!(said.to_lowercase().contains("no space left") && said.lines().count() == 1, "it said {said}");
    ensure!(files(&images)? == listed, "left behind: {:?}", files(&images)?);
    ensure!(is_alive(qemu), "the guest was ended");

    disk.make_room()?;
    stack.client.create(&offline_machine(NAMESPACE, &refused, "idle", true))?;
    stack.wait_for_phase(NAMESPACE, &refused, "Running")?;
    ensure!(
        stack.server.standalone()?.pid() == server && stack.qemu(NAMESPACE, "stays")? == qemu,
        "something was restarted"
    );

    // A server that finds its disk full at its start says so, and starts once there is room.
    stack.server.stop(tests::libvirtd::Signal::Term)?;
    disk.fill()?;
    let empty = disk.path().join("another");
    let said = failure(&mut Standalone::command(&empty, &free_address()?.to_string(), &stack.libvirtd.uri())?)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.starts_with("ovm-standalone: ") && last.to_lowercase().contains("no space left"), "it said {said}");
    disk.make_room()?;
    stack.server.start_again()?;
    stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
    ensure!(stack.qemu(NAMESPACE, "stays")? == qemu, "the guest was restarted");
    Ok(())
}

#[test]
fn a_node_says_what_ails_its_host_and_the_fix_until_it_is_mended() -> Result<()> {
    const NAME: &str = "a_node_says_what_ails_its_host_and_the_fix_until_it_is_mended";
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped(NAME, &reason);
        return Ok(());
    }
    let disk = SmallDisk::mount(WELL_ROOM_MIB)?;
    let mut stack = Stack::start_at(&disk.path().join("data"))?;
    let (space, guests) = ("kubevirt.io/DiskSpace", "kubevirt.io/GuestsRunnable");
    let well = wait_for_condition(&stack, space, "True")?;
    wait_for_condition(&stack, guests, "True")?;

    disk.take(TAKEN_MIB)?;
    stack.libvirtd.stop_daemon(tests::libvirtd::Signal::Kill)?;
    let data = stack.server.data().display().to_string();
    let full = wait_for_condition(&stack, space, "False")?;
    let said = full["message"].as_str().unwrap_or_default();
    for part in [" MiB free below ", &data, "less than 1024 MiB", "ovm-agent image prune"] {
        ensure!(said.contains(part), "it does not say {part:?}: {said}");
    }
    ensure!(full["reason"] == "CheckFailed", "its reason is {}", full["reason"]);
    let gone = format!("libvirt at {} does not answer; journalctl -u libvirtd says why", stack.libvirtd.uri());
    for (condition, words) in
        [(guests, gone.as_str()), ("Ready", "condition kubevirt.io/GuestsRunnable says what to do")]
    {
        let found = wait_for_condition(&stack, condition, "False")?;
        ensure!(found["message"].as_str().is_some_and(|said| said.contains(words)), "{condition}: {found}");
    }
    let described = stack.client.kubectl(&["describe", "nodes"])?;
    let line = described.lines().find(|line| line.trim_start().starts_with(space)).context("it is not described")?;
    ensure!(line.contains("False") && line.contains("CheckFailed") && line.contains(&data), "it prints {line}");

    disk.make_room()?;
    stack.libvirtd.start_daemon()?;
    let mended = wait_for_condition(&stack, space, "True")?;
    ensure!(mended["lastTransitionTime"] != well["lastTransitionTime"], "it has not changed since {well}");
    for condition in [guests, "Ready"] {
        wait_for_condition(&stack, condition, "True")?;
    }
    Ok(())
}

/// Waits until the one node has a condition that is so, and returns it.
fn wait_for_condition(stack: &Stack, kind: &str, status: &str) -> Result<Value> {
    wait_for(&format!("the node's condition {kind} is {status}"), DEADLINE, || {
        let nodes = stack.client.get("/api/v1/nodes")?.context("nodes are served")?;
        let conditions = nodes["items"][0]["status"]["conditions"].as_array().context("there are no conditions")?;
        let found = conditions.iter().find(|one| one["type"] == kind).with_context(|| format!("of {conditions:?}"))?;
        ensure!(found["status"] == status, "it is {found}");
        Ok(found.clone())
    })
}

#[test]
fn i6_a_host_that_gets_another_name_or_another_control_plane_keeps_its_guests() -> Result<()> {
    const NAME: &str = "i6_a_host_that_gets_another_name_or_another_control_plane_keeps_its_guests";
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped(NAME, &reason);
        return Ok(());
    }
    let mut stack = Stack::start()?;
    stack.import_sector("idle", &IDLE)?;
    stack.client.create(&offline_machine(NAMESPACE, "stays", "idle", true))?;
    let before = stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
    let qemu = stack.qemu(NAMESPACE, "stays")?;
    let was = before["status"]["nodeName"].as_str().context("a node's name")?.to_owned();

    stack.server.stop(tests::libvirtd::Signal::Term)?;
    let data = stack.server.data().to_owned();
    let mut renamed = Standalone::command(&data, &free_address()?.to_string(), &stack.libvirtd.uri())?;
    let said = failure(renamed.args(["--node-name", "renamed"]))?;
    let fix = format!("give --node-name {was} (OVM_NODE_NAME)");
    ensure!(said.lines().last().is_some_and(|last| last.contains(&fix)), "it said {said}");
    ensure!(is_alive(qemu), "the guest was ended for a name");
    stack.server.start_again()?;
    let after = stack.wait_for_phase(NAMESPACE, "stays", "Running")?;
    ensure!(uid(&after) == uid(&before) && stack.qemu(NAMESPACE, "stays")? == qemu, "the guest was replaced");

    // All objects are lost, and with them the cluster's UID.
    stack.server.stop(tests::libvirtd::Signal::Term)?;
    for lost in ["store.db", "store.db-wal", "store.db-shm"] {
        let _absent = fs::remove_file(data.join(lost));
    }
    stack.server.start_again()?;
    stack.client.create(&offline_machine(NAMESPACE, "stays", "idle", true))?;
    wait_for("the new machine says whose domain is in its way", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "stays")?.context("there is no machine yet")?;
        let text = machine["status"]["conditions"].to_string();
        ensure!(text.contains("it belongs to installation"), "its status is {}", machine["status"]);
        Ok(())
    })?;
    // Its OfflineVirtualMachine stays until nothing of that name is left here (E4).
    stack.client.kubectl(&["delete", "ovm", "stays", "--wait=false"])?;
    wait_for("the new machine is gone", DEADLINE, || {
        ensure!(stack.machine(NAMESPACE, "stays")?.is_none(), "it is there");
        Ok(())
    })?;
    ensure!(is_alive(qemu), "the guest was ended for another cluster's object");
    Ok(())
}

#[test]
fn a_socket_that_may_not_be_used_is_told_in_one_line() -> Result<()> {
    const NAME: &str = "a_socket_that_may_not_be_used_is_told_in_one_line";
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped(NAME, &reason);
        return Ok(());
    }
    let libvirtd = PrivateLibvirtd::start()?;
    chown(libvirtd.socket(), Some(65534), Some(65534)).context("give the socket away")?;
    fs::set_permissions(libvirtd.socket(), fs::Permissions::from_mode(0o600)).context("close the socket")?;
    let data = tempfile::tempdir().context("make a data directory")?;
    let command = Standalone::command(&data.path().join("data"), &free_address()?.to_string(), &libvirtd.uri())?;
    // Root without capabilities is a user like any other, and may still read what it was built into.
    let output = Command::new("setpriv")
        .env("OVM_LOG", "error")
        .args(["--bounding-set", "-all", "--inh-caps", "-all"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .output()
        .context("run setpriv")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or_default();
    ensure!(output.status.code() == Some(1), "it ended with {}: {said}", output.status);
    ensure!(said.trim().lines().count() == 1, "more than one line: {said}");
    for part in ["no permission", &libvirtd.uri(), "run as root, or as a member of group libvirt"] {
        ensure!(last.contains(part), "it does not say {part:?}: {last}");
    }
    Ok(())
}

/// Creates objects until the server refuses one for lack of room: its files have some to spare. The name of that one, and what was said.
fn fill_the_api(stack: &Stack) -> Result<(String, String)> {
    let big = "x".repeat(BIG_ANNOTATION);
    for number in 0..TOO_MANY {
        let name = format!("big-{number}");
        let mut object = offline_machine(NAMESPACE, &name, "idle", false);
        object["metadata"]["annotations"] = json!({ "big": big });
        if let Err(error) = stack.client.create(&object) {
            return Ok((name, error.to_string()));
        }
    }
    anyhow::bail!("{TOO_MANY} objects of {BIG_ANNOTATION} bytes fit on a full disk")
}

/// Every file below a directory.
fn files(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry.context("list a directory")?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        }
        found.push(path);
    }
    found.sort();
    Ok(found)
}

fn is_alive(pid: Pid) -> bool {
    // A zombie has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn wait_for_schedulable(stack: &Stack, wanted: &str) -> Result<()> {
    wait_for(&format!("the node's label schedulable is {wanted}"), DEADLINE, || {
        let nodes: Value = stack.client.get("/api/v1/nodes")?.context("nodes are served")?;
        let label = &nodes["items"][0]["metadata"]["labels"]["kubevirt.io/schedulable"];
        ensure!(label == wanted, "it is {label}");
        Ok(())
    })
}

//! A guest that sees the same machine on whatever node it runs.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::console::Console;
use tests::seen::{printed, printing_machine};
use tests::stack::{BOOT_DEADLINE, uid};
use tests::wait::wait_for;

use crate::world::{GUIDE_IMAGE, World};

const NAME: &str = "moves";

/// A taint that nothing tolerates takes it to the other node, and a drain back.
pub(crate) fn a_guest_that_moves_sees_the_same_machine(world: &World) -> Result<()> {
    let admin = &world.admin;
    admin.create(&printing_machine("default", NAME, GUIDE_IMAGE))?;
    admin.virtctl(&["start", NAME])?;
    let (first, home) = settled(world, None)?;
    let before = what_it_sees(world)?;

    admin.kubectl(&["taint", "node", &home, "example.com/hot=yes:NoExecute"])?;
    let moved = settled(world, Some(&first)).and_then(|moved| Ok((moved, what_it_sees(world)?)));
    admin.kubectl(&["taint", "node", &home, "example.com/hot-"])?;
    let ((second, away), seen) = moved?;
    ensure!(away != home, "it is still on {home}");
    ensure!(seen == before, "on {away} it sees\n{seen}\nand on {home}\n{before}");
    let why = ["get", "events", "-o", "jsonpath={.items[?(@.reason=='TaintEviction')].message}"];
    let why = admin.kubectl(&why)?;
    ensure!(why.contains(&format!("node {home} has taint example.com/hot=yes")), "the events are {why}");

    let said = admin.virtctl(&["drain", &away, "--timeout", "3m"]);
    let back = said.and_then(|said| Ok((said, settled(world, Some(&second))?)));
    admin.kubectl(&["uncordon", &away])?;
    let (said, (_, node)) = back?;
    let gone =
        format!("virtualmachine/{NAME} in namespace default gone; its OfflineVirtualMachine starts it elsewhere");
    ensure!(said.lines().any(|line| line == gone), "virtctl drain says\n{said}");
    ensure!(node == home, "it is on {node}");
    admin.virtctl(&["stop", NAME])?;
    world.wait_until_gone("default", NAME)
}

/// The machine and its node, once it runs there alone, and is not `old`.
fn settled(world: &World, old: Option<&Value>) -> Result<(Value, String)> {
    wait_for("the guest runs on one node", BOOT_DEADLINE, || {
        let machine = world.machine(NAME)?;
        ensure!(old.is_none_or(|old| uid(old) != uid(&machine)), "it is still the old one: {}", machine["status"]);
        ensure!(machine["status"]["phase"] == "Running", "its status is {}", machine["status"]);
        let node = machine["status"]["nodeName"].as_str().context("it has no node")?.to_owned();
        let hosts = world.hosts_of("default", NAME)?;
        ensure!(hosts == [node.as_str()], "it has domains on {hosts:?}");
        Ok((machine, node))
    })
}

fn what_it_sees(world: &World) -> Result<String> {
    printed(&mut Console::open(&world.admin, "default", NAME)?)
}

//! The user guide on a cluster.

use anyhow::{Context as _, Result, ensure};
use tests::console::Console;
use tests::programs::repository;
use tests::stack::{BOOT_DEADLINE, uid};
use tests::wait::wait_for;

use crate::nodes::{expect_same, guests_on_both_nodes, stop_all};
use crate::world::{DEADLINE, SYSTEM, World};

const NAME: &str = "ovm-cirros";

pub(crate) fn walk_through(world: &World) -> Result<()> {
    let admin = &world.admin;
    admin.kubectl(&["create", "-f", &repository().join("examples/ovm.yaml").display().to_string()])?;
    admin.virtctl(&["start", NAME])?;
    let first = world.wait_until_running(NAME)?;
    let uuid = firmware_uuid(world, &first)?;
    // The console comes through the aggregated API, the user data from the controller.
    let mut console = Console::open(admin, "default", NAME)?;
    console.expect("printed from cloud-init userdata", BOOT_DEADLINE)?;
    console.expect(&format!("firmware UUID {uuid}"), BOOT_DEADLINE)?;
    console.expect("ovm-cirros login:", BOOT_DEADLINE)?;
    console.send("cirros\n")?;
    console.expect("Password:", BOOT_DEADLINE)?;
    console.send("gocubsgo\n")?;
    console.expect("# ", BOOT_DEADLINE)?;
    console.send("poweroff\n")?;

    // A final state is a new VirtualMachine, with the same firmware UUID, wherever it runs.
    let second = wait_for("the guest is created again", BOOT_DEADLINE, || {
        let machine = world.machine(NAME)?;
        ensure!(uid(&machine) != uid(&first), "it is still the old one: {}", machine["status"]);
        ensure!(machine["status"]["phase"] == "Running", "its status is {}", machine["status"]);
        Ok(machine)
    })?;
    ensure!(firmware_uuid(world, &second)? == uuid, "the firmware UUID changed");
    admin.virtctl(&["stop", NAME])?;
    world.wait_until_gone("default", NAME)?;
    admin.kubectl(&["delete", "ovm", NAME]).map(drop)
}

pub(crate) fn a_namespace_takes_its_machines_with_it(world: &World) -> Result<()> {
    world.admin.kubectl(&["create", "namespace", "going"])?;
    world.admin.create(&tests::machines::offline_machine("going", "guest", "idle", true))?;
    wait_for("the guest has a domain", DEADLINE, || {
        world.hosts_of("going", "guest")?.first().copied().context("it has none")
    })?;
    world.admin.kubectl(&["delete", "namespace", "going", "--timeout=180s"])?;
    world.wait_until_gone("going", "guest")
}

/// What `manifests/uninstall` leaves is taken up by the next install.
pub(crate) fn an_uninstall_leaves_guests_running_and_an_install_finds_them(world: &World) -> Result<()> {
    let admin = &world.admin;
    let guests = guests_on_both_nodes(world)?;
    let manifests = |folder: &str| repository().join("manifests").join(folder).display().to_string();
    admin.kubectl(&["delete", "-k", &manifests("uninstall"), "--timeout=120s"])?;
    wait_for("no pod of ours is left", DEADLINE, || {
        let left = admin.kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"])?;
        ensure!(left.is_empty(), "there are {left}");
        Ok(())
    })?;
    expect_same(world, &guests)?;
    admin.kubectl(&["apply", "-k", &manifests("overlays/dev")])?;
    for workload in ["deployment/ovm-controller", "daemonset/ovm-agent"] {
        world.wait_for_rollout(workload)?;
    }
    expect_same(world, &guests)?;
    stop_all(world, &guests)
}

fn firmware_uuid(world: &World, machine: &serde_json::Value) -> Result<String> {
    let node = machine["status"]["nodeName"].as_str().context("it has a node")?;
    world.cluster.node(node)?.virsh(&["domuuid", &format!("default_{NAME}")])
}

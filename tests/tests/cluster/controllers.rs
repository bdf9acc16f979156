//! What happens to controllers while they work.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::wait::wait_for;

use crate::world::{DEADLINE, SYSTEM, World, small};

/// Enough that a leader that is killed has begun with some and not with others.
const BURST: usize = 6;

pub(crate) fn a_leader_that_goes_in_the_middle_of_a_start(world: &World) -> Result<()> {
    let names: Vec<String> = (0..BURST).map(|index| format!("burst-{index}")).collect();
    let leader = leader(world)?;
    for name in &names {
        world.admin.create(&small(name, "idle", &json!({})))?;
    }
    world.admin.kubectl(&["delete", "pod", &leader, "-n", SYSTEM, "--grace-period=0", "--force"])?;
    for name in &names {
        let machine = world.wait_until_running(name)?;
        let node = machine["status"]["nodeName"].as_str().context("it has no node")?;
        let hosts = world.hosts_of("default", name)?;
        ensure!(hosts == [node], "{name} of node {node} has domains on {hosts:?}");
    }
    ensure!(self::leader(world)? != leader, "the leader is the one that was killed");
    world.wait_for_rollout("deployment/ovm-controller")
}

pub(crate) fn without_controllers_what_is_there_can_be_stopped(world: &World) -> Result<()> {
    for name in ["stops", "goes"] {
        world.admin.create(&small(name, "idle", &json!({})))?;
        world.wait_until_running(name)?;
    }
    world.admin.kubectl(&["scale", "deployment/ovm-controller", "-n", SYSTEM, "--replicas=0"])?;
    let result = with_the_webhook_down(world);
    world.admin.kubectl(&["scale", "deployment/ovm-controller", "-n", SYSTEM, "--replicas=2"])?;
    world.wait_for_rollout("deployment/ovm-controller")?;
    result?;
    world.wait_until_gone("default", "stops")?;
    world.wait_until_gone("default", "goes")?;
    wait_for("machines are taken again", DEADLINE, || world.admin.create(&small("new", "idle", &json!({}))))?;
    world.wait_until_running("new").map(drop)
}

fn with_the_webhook_down(world: &World) -> Result<()> {
    wait_for("no controller is left", DEADLINE, || {
        let pods = ["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=ovm-controller", "-o", "name"];
        let left = world.admin.kubectl(&pods)?;
        ensure!(left.is_empty(), "{left} is left");
        Ok(())
    })?;
    let refused = world.admin.create(&small("new", "idle", &json!({}))).err().context("a new machine was taken")?;
    ensure!(refused.to_string().contains("ovm.kubevirt.io"), "it is refused with {refused}");
    // What stops a guest is not asked about.
    world.admin.virtctl(&["stop", "stops"])?;
    world.admin.kubectl(&["delete", "ovm", "goes", "--wait=false"])?;
    world.admin.kubectl(&["label", "vm", "stops", "seen=yes"]).map(drop)
}

/// The pod that holds the Lease.
fn leader(world: &World) -> Result<String> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/ovm-controller");
    let lease = world.admin.get(&path)?.context("there is no Lease")?;
    let holder = lease["spec"]["holderIdentity"].as_str().context("nobody holds the Lease")?;
    let pods = ["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=ovm-controller"];
    let pods = world.admin.kubectl(&[&pods[..], &["-o", "jsonpath={.items[*].metadata.name}"]].concat())?;
    let found = pods.split(' ').find(|pod| !pod.is_empty() && holder.contains(*pod));
    found.map(str::to_owned).with_context(|| format!("holder {holder} is none of the pods {pods}"))
}

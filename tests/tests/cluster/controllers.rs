//! What happens to controllers while they work.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::machines::bare_machine;
use tests::wait::wait_for;
use tests::watch::Watch;

use crate::world::{DEADLINE, SYSTEM, World, small};

/// Machines whose starts are held up at a step each: before the VirtualMachine, before its placement, before its binding.
const HELD: [&str; 3] = ["held-create", "held-placement", "held-binding"];

/// The policy that holds them up. A test's own, and nothing of an installation.
const HOLD: &str = "test-hold";

/// What only the controller does and the policy denies, for each of [`HELD`].
const STEPS: [&str; 3] = [
    "request.operation == 'CREATE' && request.resource.resource == 'virtualmachines'",
    "request.resource.resource == 'offlinevirtualmachines' && has(object.status) && has(object.status.placement)",
    "request.resource.resource == 'virtualmachines' && has(object.status) && has(object.status.nodeName)",
];

/// A leader is killed while it is at each step of a start; its successor is frozen there, and wakes up beside its own successor: two leaders for a moment.
pub(crate) fn leaders_go_in_the_middle_of_starts(world: &World) -> Result<()> {
    let result = hold(world).and_then(|()| killed_then_frozen(world));
    release(world)?;
    result
}

fn killed_then_frozen(world: &World) -> Result<()> {
    let watch = Watch::start(&world.admin, &["get", "virtualmachines"], "{.metadata.name} {.metadata.uid}")?;
    for name in HELD {
        world.admin.create(&small(name, "idle", &json!({})))?;
    }
    wait_for("each start is at its step", DEADLINE, || expect_held(world))?;

    let killed = leader(world)?;
    world.cluster.node(&killed.node)?.signal(&killed.pod, "ovm-controller", "-KILL")?;
    let frozen = wait_for_another_leader(world, &killed)?;
    expect_held(world)?;

    world.cluster.node(&frozen.node)?.signal(&frozen.pod, "ovm-controller", "-STOP")?;
    let result = wait_for_another_leader(world, &frozen).and_then(|_| release(world));
    world.cluster.node(&frozen.node)?.signal(&frozen.pod, "ovm-controller", "-CONT")?;
    result?;

    for name in HELD {
        let machine = world.wait_until_running(name)?;
        let node = machine["status"]["nodeName"].as_str().context("it has no node")?;
        let hosts = world.hosts_of("default", name)?;
        ensure!(hosts == [node], "{name} of node {node} has domains on {hosts:?}");
    }
    let mut made: Vec<String> = watch.values();
    made.sort();
    made.dedup();
    ensure!(made.len() == HELD.len(), "there have been VirtualMachines {made:?}");
    world.wait_for_rollout("deployment/ovm-controller")
}

fn hold(world: &World) -> Result<()> {
    let validations = HELD.iter().zip(STEPS).map(|(name, step)| {
        json!({"expression": format!("!(object.metadata.name == '{name}' && {step})"), "message": format!("{name} is held")})
    });
    let resources = ["virtualmachines", "virtualmachines/status", "offlinevirtualmachines/status"];
    world.admin.create(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": HOLD},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["kubevirt.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": resources},
            ]},
            "matchConditions": [
                {"name": "by-the-controller", "expression": "request.userInfo.username == 'system:serviceaccount:kubevirt-system:ovm-controller'"},
            ],
            "validations": validations.collect::<Vec<_>>(),
        },
    }))?;
    world.admin.create(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": HOLD},
        "spec": {"policyName": HOLD, "validationActions": ["Deny"]},
    }))?;
    let probe = bare_machine("default", HELD[0], "idle");
    let as_controller = ["--as=system:serviceaccount:kubevirt-system:ovm-controller", "--dry-run=server"];
    wait_for("the policy is in force", DEADLINE, || {
        let said = world.admin.create_with(&as_controller, &probe).err().context("it is not yet")?;
        ensure!(said.to_string().contains("is held"), "it says {said}");
        Ok(())
    })
}

fn release(world: &World) -> Result<()> {
    let kinds = "validatingadmissionpolicybinding,validatingadmissionpolicy";
    world.admin.kubectl(&["delete", kinds, HOLD, "--ignore-not-found"]).map(drop)
}

/// That each of [`HELD`] is where the policy holds it.
fn expect_held(world: &World) -> Result<()> {
    let [before_create, before_placement, before_binding] = HELD;
    ensure!(world.machine(before_create).is_err(), "{before_create} has a VirtualMachine");
    for (name, has_placement) in [(before_placement, false), (before_binding, true)] {
        let machine = world.machine(name)?;
        ensure!(machine["status"]["nodeName"].is_null(), "{name} is bound: {}", machine["status"]);
        let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/default/offlinevirtualmachines/{name}");
        let placement = world.admin.get(&path)?.context("it is there")?["status"]["placement"].clone();
        ensure!(placement.is_null() != has_placement, "{name} has placement {placement}");
    }
    Ok(())
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

/// Who holds the Lease.
struct Leader {
    /// The process: a container that was started anew is another one.
    holder: String,
    pod: String,
    node: String,
}

fn leader(world: &World) -> Result<Leader> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/ovm-controller");
    let lease = world.admin.get(&path)?.context("there is no Lease")?;
    let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty());
    let holder = holder.context("nobody holds the Lease")?.to_owned();
    let pods = ["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=ovm-controller"];
    let fields = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{\"\\n\"}{end}";
    let pods = world.admin.kubectl(&[&pods[..], &["-o", fields]].concat())?;
    let found = pods.lines().filter_map(|line| line.split_once(' ')).find(|(pod, _)| holder.contains(*pod));
    let (pod, node) = found.with_context(|| format!("holder {holder} is none of the pods {pods}"))?;
    Ok(Leader { pod: pod.to_owned(), node: node.to_owned(), holder })
}

fn wait_for_another_leader(world: &World, before: &Leader) -> Result<Leader> {
    wait_for("another controller leads", DEADLINE, || {
        let now = leader(world)?;
        ensure!(now.holder != before.holder, "{} does still", now.holder);
        Ok(now)
    })
}

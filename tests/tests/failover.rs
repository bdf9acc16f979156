//! Two controllers on a real API server, and nodes that nobody runs guests on: the one that leads is told to end, killed in the middle of starts, and cut off.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::client::Client;
use tests::kube::{ControlPlane, why_unavailable};
use tests::libvirtd::Signal;
use tests::machines::offline_machine;
use tests::ports::free_address;
use tests::programs::{program, repository};
use tests::wait::wait_for;
use tests::watch::Watch;

/// For anything but a fail-over, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);
/// The Lease of a leader that was killed lapses after 15 s; whoever gave it up is succeeded well before.
const LEASE: Duration = Duration::from_secs(15);
const NAMESPACE: &str = "default";
const NODES: [&str; 2] = ["pretended-1", "pretended-2"];
/// Machines of one burst. A controller works on sixteen at a time.
const BURST: usize = 10;
/// Milliseconds after which a leader is killed in the middle of a burst.
const KILLS: [u64; 2] = [20, 250];

/// One controller. Dropping it kills it.
struct Replica {
    child: Child,
    metrics: String,
}

impl Replica {
    fn start(control_plane: &ControlPlane) -> Result<Self> {
        let metrics = free_address()?.to_string();
        let mut command = Command::new(program("ovm-controller")?);
        command.arg("--kubeconfig").arg(control_plane.kubeconfig()).args(["--metrics-listen", &metrics]);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(control_plane.directory().join("controllers.log"))
            .context("open the controllers' log")?;
        let child = command.stdin(Stdio::null()).stderr(log).spawn().context("run ovm-controller")?;
        let replica = Self { child, metrics };
        wait_for("a replica is ready", DEADLINE, || replica.http("/readyz"))?;
        Ok(replica)
    }

    fn http(&self, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.metrics);
        tests::programs::output(Command::new("curl").args(["--silent", "--show-error", "--fail", &url]))
    }

    fn leads(&self) -> Result<bool> {
        Ok(self.http("/metrics")?.lines().any(|line| line == "ovm_controller_leader 1"))
    }

    fn signal(&mut self, signal: UnixSignal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).context("signal a replica")
    }

    fn end(mut self, signal: UnixSignal) -> Result<()> {
        self.signal(signal)?;
        self.child.wait().context("wait for a replica")?;
        Ok(())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // Ended already, where the test did it.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Renews the Leases of the nodes. Dropping it ends that.
struct Heart(Arc<AtomicBool>);

impl Heart {
    fn start(client: &Client) -> Result<Self> {
        for node in NODES {
            client.create(&json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node, "labels": {"kubevirt.io/schedulable": "true"}},
                "status": {"allocatable": {"memory": "64Gi", "cpu": "64", "pods": "0"}},
            }))?;
            client.create(&json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": node, "namespace": "kubevirt-system"}, "spec": {"holderIdentity": node},
            }))?;
        }
        let (ended, mut kubectl) = (Arc::new(AtomicBool::new(false)), Vec::new());
        for node in NODES {
            let mut command = client.kubectl_command();
            command.args(["annotate", "--overwrite", "lease", node, "-n", "kubevirt-system"]);
            kubectl.push(command);
        }
        let beating = Arc::clone(&ended);
        thread::spawn(move || {
            let begun = Instant::now();
            while !beating.load(Ordering::Relaxed) {
                for command in &mut kubectl {
                    command.arg(format!("beat={}", begun.elapsed().as_millis()));
                    // An API server that is away is part of the test.
                    let _unheard = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
                }
                thread::sleep(Duration::from_secs(3));
            }
        });
        Ok(Self(ended))
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The replica that leads, and the other.
fn by_rank(mut replicas: Vec<Replica>) -> Result<(Replica, Replica)> {
    let leader = wait_for("one replica leads", DEADLINE, || {
        let ranks = replicas.iter().map(Replica::leads).collect::<Result<Vec<_>>>()?;
        match ranks[..] {
            [true, false] => Ok(0),
            [false, true] => Ok(1),
            _ => bail!("ranks {ranks:?}"),
        }
    })?;
    let leader = replicas.remove(leader);
    Ok((leader, replicas.remove(0)))
}

fn create_burst(client: &Client, round: &str) -> Result<Vec<String>> {
    let names: Vec<String> = (0..BURST).map(|number| format!("{round}-{number}")).collect();
    let items = names.iter().map(|name| {
        let mut machine = offline_machine(NAMESPACE, name, "none", true);
        // The nodes have no kubelet: Kubernetes soon says that they are unreachable.
        machine["spec"]["template"]["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        machine
    });
    let items: Vec<Value> = items.collect();
    client.create(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
    Ok(names)
}

fn wait_until_bound(client: &Client, names: &[String], deadline: Duration) -> Result<()> {
    for name in names {
        wait_for(&format!("{name} is bound"), deadline, || {
            let get = |kind: &str| {
                let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/{kind}/{name}");
                client.get(&path)?.with_context(|| format!("there is no {kind} {name}"))
            };
            let (vm, ovm) = (get("virtualmachines")?, get("offlinevirtualmachines")?);
            let placement = &ovm["status"]["placement"];
            ensure!(vm["status"]["phase"] == "Scheduled", "its status is {}", vm["status"]);
            ensure!(placement["vmUID"] == vm["metadata"]["uid"], "another was placed: {placement}");
            ensure!(placement["nodeName"] == vm["status"]["nodeName"], "it was placed elsewhere: {placement}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_leader_that_ends_dies_or_is_cut_off_is_succeeded_and_no_machine_is_doubled_or_forgotten() -> Result<()> {
    if let Some(reason) = why_unavailable() {
        tests::programs::say_skipped(
            "a_leader_that_ends_dies_or_is_cut_off_is_succeeded_and_no_machine_is_doubled_or_forgotten",
            &reason,
        );
        return Ok(());
    }
    let mut control_plane = ControlPlane::start()?;
    let client = control_plane.admin();
    let kinds = repository().join("manifests/crd");
    client.kubectl(&["apply", "-k", &kinds.display().to_string()])?;
    client.kubectl(&["create", "namespace", "kubevirt-system"])?;
    let replicas = vec![Replica::start(&control_plane)?, Replica::start(&control_plane)?];
    let (leader, other) = by_rank(replicas)?;
    let _heart = Heart::start(&client)?;
    let watch = Watch::start(&client, &["get", "virtualmachines"], "{.metadata.name} {.metadata.uid}")?;
    let mut all = create_burst(&client, "calm")?;
    wait_until_bound(&client, &all, DEADLINE)?;

    // Told to end, it gives its Lease up.
    let begun = Instant::now();
    leader.end(UnixSignal::SIGTERM)?;
    wait_for("the other leads", DEADLINE, || if other.leads()? { Ok(()) } else { bail!("it does not lead") })?;
    println!("SIGTERM to new leader: {:?}", begun.elapsed());
    ensure!(begun.elapsed() < LEASE / 2, "it took {:?}, as if the Lease had lapsed", begun.elapsed());

    // Killed in the middle of starts.
    let mut pair = vec![other, Replica::start(&control_plane)?];
    for delay in KILLS {
        let (leader, other) = by_rank(pair)?;
        let creator = create_burst(&client, &format!("kill{delay}"))?;
        thread::sleep(Duration::from_millis(delay));
        let begun = Instant::now();
        leader.end(UnixSignal::SIGKILL)?;
        wait_until_bound(&client, &creator, LEASE + DEADLINE)?;
        println!("SIGKILL after {delay} ms to all bound: {:?}", begun.elapsed());
        all.extend(creator);
        pair = vec![other, Replica::start(&control_plane)?];
    }

    // Frozen past its Lease, it wakes up beside its successor: two leaders for a moment.
    let (mut leader, other) = by_rank(pair)?;
    let frozen = create_burst(&client, "frozen")?;
    leader.signal(UnixSignal::SIGSTOP)?;
    wait_for("the other leads", DEADLINE, || if other.leads()? { Ok(()) } else { bail!("it does not lead") })?;
    let beside = create_burst(&client, "beside")?;
    leader.signal(UnixSignal::SIGCONT)?;
    wait_until_bound(&client, &frozen, DEADLINE)?;
    wait_until_bound(&client, &beside, DEADLINE)?;
    let (_leader, _other) = by_rank(vec![leader, other])?;
    all.extend(frozen.into_iter().chain(beside));

    let mut seen: Vec<String> = watch.values();
    seen.sort();
    seen.dedup();
    ensure!(seen.len() == all.len(), "{} machines, {} VirtualMachines: {seen:?}", all.len(), seen.len());

    // The API server is gone for as long as it likes.
    control_plane.stop_api(Signal::Kill)?;
    control_plane.start_api()?;
    let after = create_burst(&client, "after")?;
    wait_until_bound(&client, &after, DEADLINE)?;
    Ok(())
}

//! What a guest does not notice, and what is reported of it all the same.

use std::time::Duration;

use api::v1alpha1::Phase;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::libvirtd::Signal;

use super::world::{Guest, NODE, World, phase_of, reason, spec, wait};

#[tokio::test(flavor = "multi_thread")]
async fn i5_restarts_of_agent_and_libvirtd_are_invisible_to_guests() {
    let Some(mut world) = World::start("i5_restarts_of_agent_and_libvirtd_are_invisible_to_guests").await else {
        return;
    };
    world.create_bound("vm", Guest::Deaf, 0).await;
    let vm = world.wait_phase("vm", Phase::Running).await;
    let pids = world.qemu_pids("vm");
    assert_eq!(pids.len(), 1);
    world.stop_agent().await;
    world.start_agent().await;
    world.libvirtd.restart_daemon(Signal::Kill).unwrap();
    world.create_bound("other", Guest::Deaf, 0).await;
    world.wait_phase("other", Phase::Running).await;
    assert_eq!(world.qemu_pids("vm"), pids, "the same process");
    let after = world.vms().get("vm").await.unwrap();
    assert_eq!(after.status, vm.status, "nothing was written");
    world.delete("vm").await;
    world.wait_gone("vm").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_ends_that_nobody_saw_are_reported() {
    let Some(mut world) = World::start("i3_ends_that_nobody_saw_are_reported").await else { return };
    for name in ["agent", "api", "libvirt"] {
        world.create_bound(name, Guest::Obedient, 0).await;
        world.wait_phase(name, Phase::Running).await;
    }
    world.stop_agent().await;
    press_until_off(&world, "agent").await;
    world.start_agent().await;
    expect_powered_off(&world, "agent").await;

    // The API is away, and libvirt forgets the reason before it is back: the journal has it.
    world.cut_api(true);
    press_until_off(&world, "api").await;
    let journal = world.data_dir().join("journal.jsonl");
    wait("the journal has the end", async || {
        let text = std::fs::read_to_string(&journal).unwrap();
        if text.contains("\"op\":\"end\"") { Ok(()) } else { Err(text) }
    })
    .await;
    world.stop_agent().await;
    world.libvirtd.restart_daemon(Signal::Kill).unwrap();
    world.start_agent_while_api_is_away().await;
    assert_eq!(phase_of(&world.vms().get("api").await.unwrap()), Phase::Running, "nobody could tell yet");
    world.cut_api(false);
    expect_powered_off(&world, "api").await;

    let pid = world.qemu_pids("libvirt")[0];
    world.libvirtd.stop_daemon(Signal::Kill).unwrap();
    kill(Pid::from_raw(pid), UnixSignal::SIGKILL).unwrap();
    world.libvirtd.start_daemon().unwrap();
    let vm = world.wait_phase("libvirt", Phase::Failed).await;
    assert!(["QemuCrashed", "StateLost"].contains(&reason(&vm, "Ready").as_str()), "{}", reason(&vm, "Ready"));
    world.end().await;
}

async fn press_until_off(world: &World, name: &str) {
    wait("the guest obeys", async || {
        let _ = world.libvirtd.virsh(&["shutdown", "--mode", "acpi", &format!("default_{name}")]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        match world.domain_state(name).as_str() {
            "running (booted)" | "in shutdown (unknown)" => Err("still on".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

async fn expect_powered_off(world: &World, name: &str) {
    let vm = world.wait_vm(name, "its end is reported", |vm| phase_of(vm).is_final()).await;
    assert_eq!((phase_of(&vm), reason(&vm, "Ready").as_str()), (Phase::Succeeded, "PoweredOff"));
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_a_guest_that_obeys_succeeds_and_a_deaf_one_is_destroyed_after_its_grace() {
    let Some(world) = World::start("e3_a_guest_that_obeys_succeeds_and_a_deaf_one_is_destroyed_after_its_grace").await
    else {
        return;
    };
    world.create_bound("obedient", Guest::Obedient, 30).await;
    world.create_bound("deaf", Guest::Deaf, 3).await;
    let mut ends = Vec::new();
    for name in ["obedient", "deaf"] {
        world.hold(name).await;
        world.wait_phase(name, Phase::Running).await;
        world.delete(name).await;
    }
    for name in ["deaf", "obedient"] {
        let vm = world.wait_vm(name, "it has ended", |vm| phase_of(vm).is_final()).await;
        ends.push((phase_of(&vm), reason(&vm, "Ready")));
        assert!(world.events(name).await.iter().any(|(_, reason, _)| reason == "ShuttingDown"));
    }
    assert_eq!(ends, [(Phase::Failed, "GracePeriodExceeded".to_owned()), (Phase::Succeeded, "PoweredOff".to_owned())]);
    for name in ["obedient", "deaf"] {
        world.wait_vm(name, "only the foreign finalizer is left", |vm| vm.finalizers() == ["test/hold"]).await;
        world.strip(name).await;
        world.wait_gone(name).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hinders_a_start_is_told_and_the_guest_starts_once_it_is_gone() {
    let Some(world) = World::start("what_hinders_a_start_is_told_and_the_guest_starts_once_it_is_gone").await else {
        return;
    };
    let mut with_secret = spec(Guest::Deaf, 0);
    with_secret["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "top-secret"}}}));
    with_secret["domain"]["devices"]["disks"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "seed", "volumeName": "seed", "disk": {}}));
    let mut without_image = spec(Guest::Deaf, 0);
    without_image["volumes"][0]["registryDisk"]["image"] = json!("localhost:1/no/such:image");
    world.libvirtd.virsh(&["define", &foreign_domain(&world)]).unwrap();
    for (name, spec) in [("secret", with_secret), ("image", without_image), ("foreign", spec(Guest::Deaf, 0))] {
        world.create(name, spec).await;
        world.bind(name, NODE).await;
    }
    for (name, why, names) in [
        ("secret", "SecretMissing", "top-secret"),
        ("image", "ErrImagePull", "localhost:1/no/such:image"),
        ("foreign", "NameInUse", "default_foreign"),
    ] {
        let vm = world.wait_vm(name, "it says why", |vm| reason(vm, "Synchronized") == why).await;
        assert_eq!(phase_of(&vm), Phase::Scheduled);
        let told = wait("its event is there", async || {
            world.events(name).await.into_iter().find(|(_, reason, _)| reason == "SyncFailed").ok_or_else(String::new)
        })
        .await;
        assert!(told.0 == "Warning" && told.2.contains(names), "{told:?}");
    }
    assert_eq!(world.domain_state("foreign"), "shut off (unknown)", "not touched");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "top-secret"}, "stringData": {"userdata": "#!/bin/sh\necho hush\n"}});
    world.create_secret(secret).await;
    world.libvirtd.virsh(&["undefine", "default_foreign"]).unwrap();
    for name in ["secret", "foreign"] {
        let vm = world.wait_phase(name, Phase::Running).await;
        assert_eq!(reason(&vm, "Synchronized"), "", "removed on success");
    }
    assert!(!format!("{:?}", world.events("secret").await).contains("hush"), "I7");
    world.end().await;
}

/// A domain that some other tool has defined under the name of a guest.
fn foreign_domain(world: &World) -> String {
    let xml = "<domain type='qemu'><name>default_foreign</name><memory>8192</memory><os><type arch='x86_64'>hvm</type></os></domain>";
    let file = world.libvirtd.directory().join("foreign.xml");
    std::fs::write(&file, xml).unwrap();
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_libvirtd_makes_the_node_unschedulable_and_hangs_nothing_else() {
    let Some(mut world) = World::start("a_hung_libvirtd_makes_the_node_unschedulable_and_hangs_nothing_else").await
    else {
        return;
    };
    world.create_bound("vm", Guest::Deaf, 0).await;
    world.wait_phase("vm", Phase::Running).await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let schedulable = async |wanted: &str| {
        wait(&format!("schedulable is {wanted}"), async || {
            let node = nodes.get(NODE).await.unwrap();
            let is = node.labels().get(api::names::SCHEDULABLE_LABEL).cloned().unwrap_or_default();
            if is == wanted { Ok(()) } else { Err(is) }
        })
        .await;
    };
    schedulable("true").await;
    world.libvirtd.suspend_daemon().unwrap();
    schedulable("false").await;
    world.libvirtd.resume_daemon().unwrap();
    schedulable("true").await;
    world.delete("vm").await;
    world.wait_gone("vm").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e1_a_proc_that_hides_processes_is_told_and_starts_nothing() {
    let Some(mut world) = World::start("e1_a_proc_that_hides_processes_is_told_and_starts_nothing").await else {
        return;
    };
    world.create_bound("vm", Guest::Deaf, 0).await;
    world.wait_phase("vm", Phase::Running).await;
    world.stop_agent().await;
    let proc_dir = tempfile::tempdir().unwrap();
    world.set_proc_dir(proc_dir.path());
    let refused = api::chain(&world.try_to_start_agent().await.unwrap_err());
    assert!(refused.contains("process 1") && refused.contains("--proc-dir"), "{refused}");

    // Another PID namespace has a process 1, too.
    let random = "sys/kernel/random";
    for directory in ["1", random] {
        std::fs::create_dir_all(proc_dir.path().join(directory)).unwrap();
    }
    let boot_id = format!("{random}/boot_id");
    std::fs::copy(std::path::Path::new("/proc").join(&boot_id), proc_dir.path().join(&boot_id)).unwrap();
    world.start_agent().await;
    wait("the administrator is told", async || {
        // Each return of libvirt is worth a full pass.
        world.libvirtd.restart_daemon(Signal::Term).unwrap();
        let events: Api<Event> = Api::all(world.client.clone());
        let told = events.list(&ListParams::default().fields("reason=ProcessesHidden")).await.unwrap().items;
        if told.is_empty() { Err("no event".to_owned()) } else { Ok(()) }
    })
    .await;
    world.create_bound("other", Guest::Deaf, 0).await;
    world.wait_vm("other", "it says why", |vm| reason(vm, "Synchronized") == "ProcessesUnreadable").await;
    assert_eq!(world.domain_state("other"), "", "not even defined");

    world.stop_agent().await;
    world.set_proc_dir("/proc");
    world.start_agent().await;
    world.wait_phase("other", Phase::Running).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_the_lease_is_renewed_while_other_calls_hang() {
    let Some(world) = World::start("f1_the_lease_is_renewed_while_other_calls_hang").await else { return };
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), api::names::SYSTEM_NAMESPACE);
    let renewed = async || leases.get_opt(NODE).await.unwrap().and_then(|lease| lease.spec?.renew_time);
    world.hang_nodes();
    // Three in a row: the first, one before the beat hangs, and one beside it.
    let mut before = renewed().await;
    for _ in 0..3 {
        before = wait("the Lease is renewed", async || match renewed().await {
            is if is == before => Err(format!("{is:?}")),
            is => Ok(is),
        })
        .await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_s_console_is_opened_by_its_uid_only() {
    let Some(world) = World::start("a_guest_s_console_is_opened_by_its_uid_only").await else { return };
    let uid = world.create_bound("vm", Guest::Deaf, 0).await;
    world.wait_phase("vm", Phase::Running).await;
    let consoles = world.agent().consoles();
    drop(consoles.open_serial("default", "vm", &uid).await.unwrap());
    let refused = consoles.open_serial("default", "vm", "another").await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("default/vm"), "{refused}");
    world.end().await;
}

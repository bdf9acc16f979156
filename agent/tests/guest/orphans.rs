//! Domains whose VM is gone, is another one, or is elsewhere.

use api::v1alpha1::Phase;
use tests::libvirtd::Signal;

use super::world::{Guest, NODE, World, phase_of, reason, spec, wait};

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_vm_stripped_of_its_finalizer_is_found_and_stopped() {
    let Some(world) = World::start("i6_a_vm_stripped_of_its_finalizer_is_found_and_stopped").await else { return };
    let uid = world.create_bound("vm", Guest::Deaf, 0).await;
    world.wait_phase("vm", Phase::Running).await;
    world.strip("vm").await;
    world.delete("vm").await;
    world.wait_gone("vm").await;
    world.wait_domain("vm", "").await;
    wait("its disks are gone", async || {
        if world.data_dir().join("vms").join(&uid).exists() { Err(String::new()) } else { Ok(()) }
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e5_a_successor_starts_only_after_the_old_domain_is_gone() {
    let Some(world) = World::start("e5_a_successor_starts_only_after_the_old_domain_is_gone").await else { return };
    world.create_bound("vm", Guest::Deaf, 2).await;
    world.wait_phase("vm", Phase::Running).await;
    world.strip("vm").await;
    world.delete("vm").await;
    world.wait_gone("vm").await;
    let uid = world.create_bound("vm", Guest::Deaf, 0).await;
    let before = world.qemu_pids("vm");
    world.wait_phase("vm", Phase::Running).await;
    let after = world.qemu_pids("vm");
    assert_eq!(after.len(), 1, "I1: one process");
    assert_ne!(before, after);
    let xml = world.libvirtd.virsh(&["dumpxml", "default_vm"]).unwrap();
    assert!(xml.contains(&uid), "it is the successor's");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_an_orphan_with_a_successor_elsewhere_goes_at_once() {
    let Some(world) = World::start("e3_an_orphan_with_a_successor_elsewhere_goes_at_once").await else { return };
    world.create_bound("vm", Guest::Deaf, 3600).await;
    world.wait_phase("vm", Phase::Running).await;
    world.strip("vm").await;
    world.delete("vm").await;
    world.wait_gone("vm").await;
    world.create("vm", spec(Guest::Deaf, 3600)).await;
    world.bind("vm", "node2").await;
    world.wait_domain("vm", "").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e6_most_of_a_node_does_not_go_and_the_administrator_is_told() {
    let Some(world) = World::start("e6_most_of_a_node_does_not_go_and_the_administrator_is_told").await else { return };
    let names = ["a", "b", "c", "d"];
    for name in names {
        world.create_bound(name, Guest::Deaf, 0).await;
    }
    for name in names {
        world.wait_phase(name, Phase::Running).await;
    }
    world.cut_api(true);
    for name in names {
        world.strip(name).await;
        world.delete(name).await;
        world.wait_gone(name).await;
    }
    world.cut_api(false);
    wait("the administrator is told", async || {
        let told = world.events(NODE).await;
        if told
            .iter()
            .any(|(type_, reason, message)| type_ == "Warning" && reason == "OrphansHeld" && message.contains("4 of 4"))
        {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await;
    for name in names {
        assert_eq!(world.domain_state(name), "running (booted)", "{name}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e1_a_qemu_that_libvirt_forgot_is_not_started_twice_and_a_stop_kills_it() {
    let Some(mut world) = World::start("e1_a_qemu_that_libvirt_forgot_is_not_started_twice_and_a_stop_kills_it").await
    else {
        return;
    };
    world.create_bound("vm", Guest::Deaf, 0).await;
    world.wait_phase("vm", Phase::Running).await;
    let pids = world.qemu_pids("vm");
    world.libvirtd.stop_daemon(Signal::Kill).unwrap();
    std::fs::remove_file(world.libvirtd.directory().join("run/libvirt/qemu/default_vm.xml")).unwrap();
    world.libvirtd.start_daemon().unwrap();
    assert_eq!(world.domain_state("vm"), "shut off (unknown)", "libvirt has forgotten it");
    let vm = world.wait_vm("vm", "it is lost", |vm| reason(vm, "Ready") == "DomainLost").await;
    assert_eq!(phase_of(&vm), Phase::Running, "the guest runs");
    assert_eq!(world.qemu_pids("vm"), pids, "I1: and no second one");
    world.delete("vm").await;
    world.wait_gone("vm").await;
    assert!(world.qemu_pids("vm").is_empty());
    world.end().await;
}

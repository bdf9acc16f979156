//! A guest's life: started, stopped, ended in each way of the truth table.

use api::v1alpha1::Phase;

use super::world::{Guest, World, phase_of, reason};

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_vm_is_started_and_a_deleted_one_is_gone() {
    let Some(world) = World::start("a_bound_vm_is_started_and_a_deleted_one_is_gone").await else { return };
    let uid = world.create_bound("vm", Guest::Deaf, 0).await;
    let vm = world.wait_phase("vm", Phase::Running).await;
    let status = vm.status.clone().unwrap();
    assert_eq!(world.domain_state("vm"), "running (booted)");
    assert_eq!(
        status.abi.as_ref().and_then(|abi| abi.firmware_uuid.clone()),
        Some(uid.clone()),
        "a bare VM: its own UID"
    );
    assert!(
        status.abi.unwrap().machine_type.unwrap().starts_with("pc-q35-"),
        "the machine type as libvirt resolved it"
    );
    assert_eq!(status.interfaces.len(), 1);
    assert_eq!(reason(&vm, "Ready"), "Running");
    assert!(world.data_dir().join("vms").join(&uid).exists());

    world.delete("vm").await;
    world.wait_gone("vm").await;
    assert_eq!(world.domain_state("vm"), "", "no domain is left");
    assert!(!world.data_dir().join("vms").join(&uid).exists(), "no disk is left");
    let events = world.events("vm").await;
    let reasons: Vec<_> = events.iter().map(|(_, reason, message)| format!("{reason}: {message}")).collect();
    assert_eq!(reasons[..2], ["Created: VM defined.", "Started: VM started."]);
    assert!(reasons.contains(&"Deleted: VM stopping".to_owned()), "{reasons:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_guest_has_its_phase_and_reason() {
    let Some(world) = World::start("each_end_of_a_guest_has_its_phase_and_reason").await else { return };
    for (name, guest) in
        [("brief", Guest::Brief), ("panics", Guest::Panics), ("killed", Guest::Deaf), ("destroyed", Guest::Deaf)]
    {
        world.create_bound(name, guest, 0).await;
    }
    world.wait_phase("destroyed", Phase::Running).await;
    world.libvirtd.virsh(&["destroy", "default_destroyed"]).unwrap();
    for (name, phase, why) in [
        ("brief", Phase::Succeeded, "PoweredOff"),
        ("panics", Phase::Failed, "GuestPanicked"),
        ("destroyed", Phase::Failed, "Destroyed"),
    ] {
        let vm = world.wait_vm(name, "it has ended", |vm| phase_of(vm).is_final()).await;
        assert_eq!((phase_of(&vm), reason(&vm, "Ready").as_str()), (phase, why), "{name}");
    }
    world.end().await;
}

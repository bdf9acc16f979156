//! The controller against our own API server in process, with pretended agents: what users do, and what they see.

mod world;

use std::time::Duration;

use api::names::{OUT_OF_SERVICE_TAINT, VM_FINALIZER};
use api::v1alpha1::{OfflineVirtualMachine, OfflineVirtualMachineStatus, Phase, VirtualMachine};
use controller::ControllerOptions;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::json;

use world::{World, firmware_uuid, is_held, node_of, object, ovm, uid, vm};

/// Conditions but for `Ready`, which is always there.
fn complaints(status: &OfflineVirtualMachineStatus) -> Vec<&str> {
    status.conditions.iter().map(|one| one.type_.as_str()).filter(|type_| *type_ != "Ready").collect()
}

#[tokio::test]
async fn start_and_stop_with_one_event_each() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", false).await;
    let status = world.printable("vm", "Stopped").await;
    assert!(!status.created && !status.ready);
    assert!(world.vms().get_opt("vm").await.unwrap().is_none());

    world.patch_ovm("vm", json!({"spec": {"running": true}})).await;
    let vm = world.running("vm").await;
    let status = world.printable("vm", "Running").await;
    assert!(status.created && status.ready);
    assert_eq!(status.placement.unwrap().vm_uid, uid(&vm));
    assert_eq!(vm.metadata.labels.as_ref().unwrap()["kubevirt.io/ovm"], "vm");
    assert_eq!(vm.status.as_ref().unwrap().network.as_deref(), Some("user"));

    world.patch_ovm("vm", json!({"spec": {"running": false}})).await;
    world.gone("vm").await;
    world.printable("vm", "Stopped").await;
    let mut events = world.events("vm", 2).await;
    events.sort_by_key(|event| event.reason.clone());
    let said: Vec<_> = events
        .iter()
        .map(|event| (event.reason.clone().unwrap(), event.message.clone().unwrap(), event.count))
        .collect();
    assert_eq!(
        said,
        [
            ("SuccessfulCreate".to_owned(), "Created virtual machine: vm".to_owned(), Some(1)),
            ("SuccessfulDelete".to_owned(), format!("Deleted virtual machine: {}", uid(&vm)), Some(1)),
        ]
    );
    let source = events[0].source.as_ref().unwrap().component.as_deref();
    assert_eq!(source, Some("offlinevirtualmachine-controller"));
    assert_eq!(events[0].involved_object.kind.as_deref(), Some("OfflineVirtualMachine"));
}

#[tokio::test]
async fn deleting_the_vm_restarts_it_with_the_new_template_and_the_old_uuid() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    let first = world.running("vm").await;
    let memory = json!({"spec": {"template": {"spec": {"domain": {"resources": {"requests": {"memory": "128M"}}}}}}});
    world.patch_ovm("vm", memory).await;
    world
        .status_when("vm", "wants a restart", |status| {
            status.conditions.iter().any(|one| one.type_ == "RestartRequired")
        })
        .await;
    assert_eq!(uid(&world.running("vm").await), uid(&first), "the running guest is not touched");

    world.delete_vm("vm").await;
    let second = world.vm_when("vm", "is another", |vm| uid(vm) != uid(&first)).await;
    let second = world.vm_when("vm", "runs", |vm| uid(vm) == uid(&second) && world::phase(vm) == Phase::Running).await;
    assert_eq!(firmware_uuid(&second), firmware_uuid(&first));
    assert_eq!(second.spec.domain.resources.unwrap().requests.unwrap()["memory"].0, "128M");
    world.status_when("vm", "has what it wanted", |status| status.ready && complaints(status).is_empty()).await;
}

#[tokio::test]
async fn a_guest_that_powers_off_is_started_again() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    let first = world.running("vm").await;
    world.end_guest("vm", Phase::Succeeded);
    world
        .vm_when("vm", "is another that runs", |vm| uid(vm) != uid(&first) && world::phase(vm) == Phase::Running)
        .await;
    let status = world.status_when("vm", "ready again", |status| status.ready).await;
    assert_eq!(status.start_failure, None, "it had run for a minute");
}

#[tokio::test]
async fn a_guest_that_dies_at_once_backs_off() {
    let world = World::start(&["a"]).await;
    world.set_age(0);
    world.end_guest("vm", Phase::Failed);
    world.create_ovm("vm", true).await;
    let status = world.printable("vm", "CrashLoopBackOff").await;
    let failure = status.start_failure.unwrap();
    assert_eq!(failure.consecutive_fail_count, 1);
    world.gone("vm").await;
    world.patch_ovm("vm", json!({"spec": {"running": false}})).await;
    world.printable("vm", "Stopped").await;
    world.patch_ovm("vm", json!({"spec": {"running": true}})).await;
    world.running("vm").await;
}

#[tokio::test]
async fn cascade_takes_the_vm_first() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    world.running("vm").await;
    let hold = json!({"metadata": {"finalizers": [VM_FINALIZER, "example.com/hold"]}});
    world.vms().patch("vm", &PatchParams::default(), &Patch::Merge(hold)).await.unwrap();
    world.ovms().delete("vm", &DeleteParams::default()).await.unwrap();
    world
        .vm_when("vm", "is held by a stranger", |vm| {
            vm.metadata.finalizers.as_deref() == Some(["example.com/hold".to_owned()].as_slice())
        })
        .await;
    world.printable("vm", "Terminating").await;
    assert!(is_held(&world.ovms().get("vm").await.unwrap()), "the OVM waits for its VM");
    let release = json!({"metadata": {"finalizers": null}});
    world.vms().patch("vm", &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
    world.gone("vm").await;
    world.ovm_gone("vm").await;
}

#[tokio::test]
async fn a_foreign_finalizer_on_the_old_vm_holds_up_the_successor() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    let first = world.running("vm").await;
    let hold = json!({"metadata": {"finalizers": [VM_FINALIZER, "example.com/hold"]}});
    world.vms().patch("vm", &PatchParams::default(), &Patch::Merge(hold)).await.unwrap();
    world.delete_vm("vm").await;
    world.status_when("vm", "not ready", |status| status.created && !status.ready).await;
    assert_eq!(uid(&world.vms().get("vm").await.unwrap()), uid(&first));
    let release = json!({"metadata": {"finalizers": null}});
    world.vms().patch("vm", &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
    world
        .vm_when("vm", "is another that runs", |vm| uid(vm) != uid(&first) && world::phase(vm) == Phase::Running)
        .await;
}

#[tokio::test]
async fn orphan_delete_leaves_the_guest_and_a_new_ovm_adopts_it() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    let vm = world.running("vm").await;
    world.printable("vm", "Running").await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    world.ovms().delete("vm", &orphan).await.unwrap();
    world.ovm_gone("vm").await;
    let orphaned = world.vms().get("vm").await.unwrap();
    assert_eq!(uid(&orphaned), uid(&vm));
    assert!(orphaned.metadata.owner_references.is_none_or(|owners| owners.is_empty()), "the moment the OVM is gone");
    assert!(orphaned.metadata.deletion_timestamp.is_none());

    world.create_ovm("vm", true).await;
    let status = world.printable("vm", "Running").await;
    assert_eq!(status.placement.unwrap().vm_uid, uid(&vm), "adopted without a restart");
    let adopted = world.running("vm").await;
    assert_eq!((uid(&adopted), firmware_uuid(&adopted)), (uid(&vm), firmware_uuid(&vm)));
}

#[tokio::test]
async fn somebody_else_s_vm_is_left_alone_and_said() {
    let world = World::start(&["a"]).await;
    let mut foreign = vm("vm");
    foreign.metadata.owner_references = Some(vec![object(json!({
        "apiVersion": "v1", "kind": "Namespace", "name": "kube-system", "controller": true,
        "uid": world.namespaces().get("kube-system").await.unwrap().metadata.uid,
    }))]);
    let foreign = world.vms().create(&PostParams::default(), &foreign).await.unwrap();
    world.create_ovm("vm", true).await;
    let status = world.status_when("vm", "says so", |status| !complaints(status).is_empty()).await;
    assert_eq!(status.conditions[0].reason.as_deref(), Some("FailedCreate"));
    assert!(!status.created);
    assert_eq!(uid(&world.vms().get("vm").await.unwrap()), uid(&foreign));
}

#[tokio::test]
async fn a_stripped_finalizer_comes_back() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    world.running("vm").await;
    let strip = json!({"metadata": {"finalizers": null}});
    world.vms().patch("vm", &PatchParams::default(), &Patch::Merge(strip)).await.unwrap();
    world.vm_when("vm", "is held again", |vm| vm.metadata.finalizers.is_some()).await;
}

#[tokio::test]
async fn a_bare_vm_is_bound_with_its_own_uuid_and_let_go_if_it_never_was() {
    let world = World::start(&[]).await;
    world.vms().create(&PostParams::default(), &vm("never")).await.unwrap();
    world.vm_when("never", "has no node", |vm| world::phase(vm) == Phase::Pending).await;
    world.delete_vm("never").await;
    world.gone("never").await;

    world.vms().create(&PostParams::default(), &vm("bare")).await.unwrap();
    let waiting = world.vm_when("bare", "has no node", |vm| world::phase(vm) == Phase::Pending).await;
    let said = waiting.status.unwrap().conditions[0].message.clone().unwrap();
    assert!(said.starts_with("0/0 nodes are available"), "{said}");
    world.add_node("a").await;
    let running = world.running("bare").await;
    assert_eq!(firmware_uuid(&running), uid(&running));
}

#[tokio::test]
async fn decisions_at_once_do_not_fill_a_node_twice_and_room_that_is_freed_is_used() {
    let world = World::start(&["a"]).await;
    let names = ["one", "two", "three", "four"];
    for name in names {
        let mut large = ovm(name, true);
        let resources = large.spec.template.spec.domain.resources.get_or_insert_default();
        resources.requests.get_or_insert_default().insert("memory".to_owned(), "5Gi".into());
        world.ovms().create(&PostParams::default(), &large).await.unwrap();
    }
    let settled = || async {
        let vms = world.vms().list(&ListParams::default()).await.unwrap().items;
        let count = |wanted| vms.iter().filter(|vm| world::phase(vm) == wanted).count();
        (count(Phase::Running) == 1 && count(Phase::Pending) == 3).then(|| {
            let first = vms.iter().find(|vm| world::phase(vm) == Phase::Running).unwrap();
            first.metadata.name.clone().unwrap()
        })
    };
    let first = world.eventually("one runs and three wait", settled).await;
    let waiting = names.into_iter().find(|name| *name != first).unwrap();
    let said = world.vms().get(waiting).await.unwrap().status.unwrap().conditions[0].message.clone();
    assert_eq!(said.as_deref(), Some("0/1 nodes are available: 1 Insufficient memory."));
    world.patch_ovm(&first, json!({"spec": {"running": false}})).await;
    let next = || async {
        let vms = world.vms().list(&ListParams::default()).await.unwrap().items;
        let running = vms.iter().find(|vm| world::phase(vm) == Phase::Running)?;
        (vms.len() == 3 && running.metadata.name.as_ref() != Some(&first)).then_some(())
    };
    world.eventually("another has the room", next).await;
}

#[tokio::test]
async fn a_new_controller_finds_everything_in_order() {
    let mut world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    let vm = world.running("vm").await;
    let before = world.printable("vm", "Running").await;
    world.restart_controller().await;
    world.create_ovm("other", true).await;
    world.running("other").await;
    assert_eq!(uid(&world.vms().get("vm").await.unwrap()), uid(&vm));
    assert_eq!(world.ovms().get("vm").await.unwrap().status.unwrap(), before, "nothing was written anew");
}

#[tokio::test]
async fn two_namespaces_one_name_two_uuids() {
    let world = World::start(&["a"]).await;
    let other: Namespace = object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}));
    world.namespaces().create(&PostParams::default(), &other).await.unwrap();
    world.create_ovm("vm", true).await;
    let here = world.running("vm").await;
    let elsewhere = Api::namespaced(world.client.clone(), "other");
    elsewhere.create(&PostParams::default(), &ovm("vm", true)).await.unwrap();
    let vms = Api::<VirtualMachine>::namespaced(world.client.clone(), "other");
    let read = || async { vms.get_opt("vm").await.unwrap().filter(|vm| world::phase(vm) == Phase::Running) };
    let there = world.eventually("the other runs", read).await;
    assert_ne!(firmware_uuid(&here), firmware_uuid(&there));
}

#[tokio::test]
async fn two_clusters_one_namespace_and_name_two_uuids() {
    let mut uuids = Vec::new();
    for _ in 0..2 {
        let world = World::start(&["a"]).await;
        world.create_ovm("vm", true).await;
        uuids.push(firmware_uuid(&world.running("vm").await));
    }
    assert_ne!(uuids[0], uuids[1]);
}

/// `--uuid-compat=kubevirt-v0`: the name alone makes the UUID, so that one of two guests of a name has to wait, or to bring a UUID.
#[tokio::test]
async fn by_kubevirts_rule_two_namespaces_collide_and_the_second_says_with_whom() {
    let mut world = World::start(&["a"]).await;
    world
        .restart_controller_with(ControllerOptions {
            uuid_compat: Some("kubevirt-v0".parse().unwrap()),
            ..ControllerOptions::default()
        })
        .await;
    let other: Namespace = object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}));
    world.namespaces().create(&PostParams::default(), &other).await.unwrap();
    world.create_ovm("testvm", true).await;
    // As a guest of KubeVirt of that name had it.
    assert_eq!(firmware_uuid(&world.running("testvm").await), "5a9fc181-957e-5c32-9e5a-2de5e9673531");

    let elsewhere = Api::<OfflineVirtualMachine>::namespaced(world.client.clone(), "other");
    elsewhere.create(&PostParams::default(), &ovm("testvm", true)).await.unwrap();
    let vms = Api::<VirtualMachine>::namespaced(world.client.clone(), "other");
    let refused = || async {
        let conditions = vms.get_opt("testvm").await.unwrap()?.status?.conditions;
        conditions.into_iter().find(|condition| condition.reason.as_deref() == Some("FirmwareUuidInUse"))
    };
    let condition = world.eventually("the second is refused", refused).await;
    assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("Scheduled", "False"));
    assert!(condition.message.as_ref().unwrap().contains("default/testvm"), "{condition:?}");

    let given = json!({"spec": {"template": {"spec": {"domain": {"firmware": {"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223"}}}}}});
    elsewhere.patch("testvm", &PatchParams::default(), &Patch::Merge(&given)).await.unwrap();
    vms.delete("testvm", &DeleteParams::default()).await.unwrap();
    let runs = || async { vms.get_opt("testvm").await.unwrap().filter(|vm| world::phase(vm) == Phase::Running) };
    let second = world.eventually("the second runs with a UUID of its own", runs).await;
    assert_eq!(firmware_uuid(&second), "5d307ca9-b3ef-428c-8861-06e72d69f223");
}

#[tokio::test]
async fn a_create_that_fails_is_said_counted_and_tried_again() {
    let world = World::start(&["a"]).await;
    world.gate.set(Some("not today"));
    world.create_ovm("vm", true).await;
    let status = world.printable("vm", "FailedCreate").await;
    let failure = status.conditions.iter().find(|condition| condition.type_ == "Failure").unwrap();
    assert!(failure.message.as_ref().unwrap().contains("not today"), "{failure:?}");
    let counted = || async {
        let events = world.events("vm", 1).await;
        assert_eq!(events.len(), 1, "one event, counted: {events:?}");
        (events[0].count >= Some(2)).then(|| events[0].clone())
    };
    let event = world.eventually("a second try", counted).await;
    assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Warning"), Some("FailedCreate")));
    assert!(event.message.unwrap().starts_with("Error creating virtual machine: "));
    world.gate.set(None);
    world.running("vm").await;
    world.status_when("vm", "has nothing to complain of", |status| status.ready && complaints(status).is_empty()).await;
}

#[tokio::test]
async fn a_lost_node_makes_ready_unknown_until_it_is_back() {
    let world = World::start(&["a"]).await;
    world.create_ovm("vm", true).await;
    world.running("vm").await;
    world.silence("a");
    world.pass(Duration::from_secs(41)).await;
    world.printable("vm", "NodeLost").await;
    let lost = world.vms().get("vm").await.unwrap();
    let ready = lost.status.unwrap().conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeLost")));
    let nodes = Api::<Node>::all(world.client.clone());
    world
        .eventually("not schedulable", || async {
            let labels = nodes.get("a").await.unwrap().metadata.labels.unwrap_or_default();
            (labels.get("kubevirt.io/schedulable").map(String::as_str) == Some("false")).then_some(())
        })
        .await;
    world.renew("a").await;
    world.printable("vm", "Running").await;
}

#[tokio::test]
async fn a_fenced_node_s_guest_starts_elsewhere_and_a_lost_one_s_does_not() {
    let world = World::start(&["a", "b"]).await;
    world.create_ovm("vm", true).await;
    let first = world.running("vm").await;
    let (home, other) = if node_of(&first) == "a" { ("a", "b") } else { ("b", "a") };
    world.silence(home);
    world.pass(Duration::from_secs(41)).await;
    world.renew(other).await;
    world.printable("vm", "NodeLost").await;
    assert_eq!(uid(&world.vms().get("vm").await.unwrap()), uid(&first), "lost is not fenced");
    let taint =
        json!({"spec": {"taints": [{"key": OUT_OF_SERVICE_TAINT, "value": "nodeshutdown", "effect": "NoExecute"}]}});
    Api::<Node>::all(world.client.clone()).patch(home, &PatchParams::default(), &Patch::Merge(taint)).await.unwrap();
    world.vm_when("vm", "has a successor", |vm| uid(vm) != uid(&first)).await;
    // The other node was silent for 41 s too, as far as the controller knew; its agent says that it takes guests.
    let schedulable = json!({"metadata": {"labels": {"kubevirt.io/schedulable": "true"}}});
    Api::<Node>::all(world.client.clone())
        .patch(other, &PatchParams::default(), &Patch::Merge(schedulable))
        .await
        .unwrap();
    let second =
        world.vm_when("vm", "runs again", |vm| uid(vm) != uid(&first) && world::phase(vm) == Phase::Running).await;
    assert_eq!(node_of(&second), other);
}

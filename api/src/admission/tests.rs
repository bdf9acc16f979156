//! Tests of the admission rules: the contract's table, line by line.

use serde_json::{Value, json};

use super::*;
use crate::validated::{DiskBus, DiskDevice, Tray, UserData, VolumeSource};

/// The user guide's example, as its template's spec.
fn example() -> Value {
    json!({
        "domain": {
            "devices": {"disks": [
                {"disk": {"bus": "virtio"}, "name": "registrydisk", "volumeName": "registryvolume"},
                {"disk": {"bus": "virtio"}, "name": "cloudinitdisk", "volumeName": "cloudinitvolume"},
            ]},
            "machine": {"type": ""},
            "resources": {"requests": {"memory": "64M"}},
        },
        "terminationGracePeriodSeconds": 0,
        "volumes": [
            {"name": "registryvolume", "registryDisk": {"image": "kubevirt/cirros-registry-disk-demo:latest"}},
            {"name": "cloudinitvolume", "cloudInitNoCloud": {"userDataBase64": "IyEvYmluL3NoCg=="}},
        ],
    })
}

/// The example with the value at a JSON pointer replaced; a missing last step is added.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = example();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = spec.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
    if let Some(list) = parent.as_array_mut() {
        let index: usize = key.parse().unwrap();
        list.truncate(index.max(list.len()));
        if index == list.len() { list.push(value) } else { list[index] = value }
    } else {
        parent[key] = value;
    }
    spec
}

fn check(spec: Value) -> Result<ValidatedSpec, Vec<Cause>> {
    validate_vm_spec(&serde_json::from_value(spec).unwrap(), "spec")
}

#[track_caller]
fn refused(spec: Value, field: &str, message: &str) {
    let causes = check(spec).expect_err("must be refused");
    let found = causes.iter().find(|cause| cause.field == field && cause.message == message);
    let found = found.unwrap_or_else(|| panic!("no cause {field:?}: {message:?} in {causes:#?}"));
    assert_eq!(found.reason, FIELD_VALUE_INVALID);
}

const DISKS: &str = "spec.domain.devices.disks";

#[test]
fn the_guides_example_is_admitted() {
    let spec = check(example()).unwrap();
    assert_eq!(spec.memory_kib, 62500);
    assert_eq!((spec.cores, spec.grace_period_seconds, spec.machine_type), (1, 0, None));
    assert_eq!(spec.disks[1].device, DiskDevice::Disk { bus: DiskBus::Virtio, readonly: false });
    assert_eq!(spec.volumes[1].source, VolumeSource::CloudInitNoCloud(UserData::Inline(b"#!/bin/sh\n".to_vec())));
}

#[test]
fn rules_of_the_contract() {
    refused(
        with("/domain/devices/disks/0/volumeName", json!("nope")),
        &format!("{DISKS}[0].volumeName"),
        &format!("{DISKS}[0].volumeName 'nope' not found."),
    );
    refused(
        with("/domain/devices/disks/1/volumeName", json!("registryvolume")),
        &format!("{DISKS}[1].volumeName"),
        &format!("{DISKS}[1] and {DISKS}[0] reference the same volumeName."),
    );
    refused(
        with("/domain/devices/disks/0", json!({"name": "a", "volumeName": "registryvolume", "lun": {}})),
        &format!("{DISKS}[0].lun"),
        &format!("{DISKS}[0].lun can only be mapped to a PersistentVolumeClaim volume."),
    );
    refused(
        with("/domain/devices/disks/1/name", json!("registrydisk")),
        &format!("{DISKS}[1].name"),
        &format!("{DISKS}[1] and {DISKS}[0] must not have the same Name."),
    );
    refused(
        with("/domain/devices/disks/0/cdrom", json!({})),
        &format!("{DISKS}[0]"),
        &format!("{DISKS}[0] can only have a single target type defined"),
    );
    refused(
        with("/volumes/1/name", json!("registryvolume")),
        "spec.volumes[1].name",
        "spec.volumes[1] and spec.volumes[0] must not have the same Name.",
    );
    for volume in
        [json!({"name": "v"}), json!({"name": "v", "emptyDisk": {"capacity": "1M"}, "registryDisk": {"image": "x"}})]
    {
        refused(with("/volumes/2", volume), "spec.volumes[2]", "spec.volumes[2] must have exactly one source type set");
    }
    let seed = "/volumes/1/cloudInitNoCloud";
    let field = "spec.volumes[1].cloudInitNoCloud";
    refused(
        with(seed, json!({"userDataBase64": "#"})),
        &format!("{field}.userDataBase64"),
        &format!("{field}.userDataBase64 is not a valid base64 value."),
    );
    for source in [json!({}), json!({"userData": "a", "userDataBase64": "YQ=="}), json!({"secretRef": {"name": ""}})] {
        refused(with(seed, source), field, &format!("{field} must have one exactly one userdata source set."));
    }
    let message = format!("{field} userdata exceeds 2048 byte limit");
    refused(with(seed, json!({"userData": "a".repeat(2049)})), field, &message);
    assert!(check(with(seed, json!({"userData": "a".repeat(2048)}))).is_ok());
}

#[test]
fn at_most_256_disks_and_volumes() {
    let disks = |n: usize| (0..n).map(|i| json!({"name": format!("d{i}"), "volumeName": format!("v{i}")})).collect();
    let volumes = |n: usize| {
        (0..n).map(|i| json!({"name": format!("v{i}"), "emptyDisk": {"capacity": "1Mi"}})).collect::<Vec<_>>()
    };
    let build = |d: usize, v: usize| {
        let mut spec = with("/domain/devices/disks", Value::Array(disks(d)));
        spec["volumes"] = Value::Array(volumes(v));
        spec
    };
    assert_eq!(check(build(256, 256)).unwrap().disks.len(), 256);
    refused(build(257, 256), DISKS, &format!("{DISKS} list exceeds the 256 element limit in length"));
    refused(build(1, 257), "spec.volumes", "spec.volumes list exceeds the 256 element limit in length");
}

#[test]
fn values_that_no_guest_could_have() {
    let domain = "/domain";
    for (pointer, value, field) in [
        ("/cpu", json!({"cores": 0}), "cpu.cores"),
        ("/resources", json!({"requests": {"memory": "0"}}), "resources.requests.memory"),
        ("/resources", json!({"requests": {"memory": "64Mx"}}), "resources.requests.memory"),
        ("/resources", json!({"requests": {"memory": "-64M"}}), "resources.requests.memory"),
        ("/resources", json!({"requests": {"memory": "2G"}, "limits": {"memory": "1G"}}), "resources.requests.memory"),
        ("/machine", json!({"type": "q35' x='"}), "machine.type"),
        ("/firmware", json!({"uuid": "not-a-uuid"}), "firmware.uuid"),
        ("/firmware", json!({"uuid": "00000000-0000-0000-0000-000000000000"}), "firmware.uuid"),
        ("/clock", json!({"timezone": "Europe/Berlin\u{1}"}), "clock.timezone"),
        ("/clock", json!({"timezone": "UTC", "utc": {}}), "clock"),
        ("/clock", json!({"timer": {"pit": {"tickPolicy": "merge"}}}), "clock.timer.pit.tickPolicy"),
        ("/clock", json!({"timer": {"rtc": {"tickPolicy": "discard"}}}), "clock.timer.rtc.tickPolicy"),
        ("/clock", json!({"timer": {"rtc": {"track": "moon"}}}), "clock.timer.rtc.track"),
        ("/features", json!({"hyperv": {"spinlocks": {"spinlocks": 1}}}), "features.hyperv.spinlocks.spinlocks"),
        (
            "/features",
            json!({"hyperv": {"vendorid": {"vendorid": "thirteen-char"}}}),
            "features.hyperv.vendorid.vendorid",
        ),
        ("/features", json!({"hyperv": {"synic": {}}}), "features.hyperv.synic"),
        ("/devices/watchdog", json!({"name": "W_1"}), "devices.watchdog.name"),
        (
            "/devices/watchdog",
            json!({"name": "w", "i6300esb": {"action": "explode"}}),
            "devices.watchdog.i6300esb.action",
        ),
        ("/devices/disks/0/disk", json!({"bus": "scsy"}), "devices.disks[0].disk.bus"),
        ("/devices/disks/0/disk", json!({"bus": "ide"}), "devices.disks[0].disk.bus"),
        ("/devices/disks/0/name", json!("my_disk"), "devices.disks[0].name"),
    ] {
        let causes = check(with(&format!("{domain}{pointer}"), value.clone())).expect_err(pointer);
        let field = format!("spec.domain.{field}");
        let cause = causes.iter().find(|c| c.field == field).unwrap_or_else(|| panic!("{field} not in {causes:?}"));
        assert!(cause.message.starts_with(&field), "the message names the field: {cause:?}");
    }
    for (pointer, value, field) in [
        ("/volumes/2", json!({"name": "v", "emptyDisk": {"capacity": "0"}}), "spec.volumes[2].emptyDisk.capacity"),
        ("/volumes/2", json!({"name": "v", "ephemeral": {}}), "spec.volumes[2].ephemeral.persistentVolumeClaim"),
        ("/volumes/0/registryDisk", json!({"image": "../../etc/passwd\n"}), "spec.volumes[0].registryDisk.image"),
        ("/terminationGracePeriodSeconds", json!(-1), "spec.terminationGracePeriodSeconds"),
    ] {
        let causes = check(with(pointer, value)).expect_err(pointer);
        assert!(causes.iter().any(|c| c.field == field), "{field} not in {causes:?}");
    }
}

#[test]
fn devices_that_libvirt_refuses() {
    let build = |machine: &str, targets: &[Value]| {
        let disks = targets.iter().enumerate().map(|(i, target)| {
            let mut disk = json!({"name": format!("d{i}"), "volumeName": format!("v{i}")});
            disk.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
            disk
        });
        let mut spec = with("/domain/devices/disks", Value::Array(disks.collect()));
        spec["domain"]["machine"]["type"] = json!(machine);
        let volume = |i| json!({"name": format!("v{i}"), "emptyDisk": {"capacity": "1Mi"}});
        spec["volumes"] = (0..targets.len()).map(volume).collect();
        spec
    };
    let field = |index: usize, rest: &str| format!("{DISKS}[{index}]{rest}");
    let floppies = vec![json!({"floppy": {}}); 3];
    assert!(check(build("", &floppies[..2])).is_ok());
    let one_too_many = |i, rest: &str| format!("{} is one too many: a machine has at most {rest}.", field(i, ""));
    refused(build("", &floppies), &field(2, ""), &one_too_many(2, "2 floppy drives"));
    let ide = vec![json!({"disk": {"bus": "ide"}}); 5];
    assert!(check(build("pc", &ide[..4])).is_ok());
    refused(build("pc", &ide), &field(4, ""), &one_too_many(4, "4 IDE devices"));
    let readonly = field(0, ".disk.readonly");
    refused(
        build("", &[json!({"disk": {"readonly": true}})]),
        &readonly,
        &format!("{readonly} cannot be true on bus 'sata'; use bus virtio, scsi or usb."),
    );
    assert!(check(build("", &[json!({"disk": {"bus": "virtio", "readonly": true}})])).is_ok());
    let tray = field(0, ".cdrom.tray");
    refused(
        build("", &[json!({"cdrom": {"bus": "usb", "tray": "open"}})]),
        &tray,
        &format!("{tray} cannot be open on bus 'usb'; use bus sata or scsi."),
    );
}

#[test]
fn defaults_that_need_no_node() {
    let spec = check(json!({"domain": {"devices": {}}})).unwrap();
    assert_eq!((spec.memory_kib, spec.cores, spec.grace_period_seconds), (8192, 1, 30));
    assert!(spec.features.acpi);
    assert_eq!(spec.features.apic, Some(crate::validated::Apic { end_of_interrupt: None }));

    let target = |machine: &str, target: Value| {
        let mut disk = json!({"name": "a", "volumeName": "registryvolume"});
        disk.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        let mut spec = with("/domain/devices/disks", json!([disk]));
        spec["domain"]["machine"]["type"] = json!(machine);
        check(spec).unwrap().disks[0].device
    };
    assert_eq!(target("", json!({})), DiskDevice::Disk { bus: DiskBus::Sata, readonly: false });
    assert_eq!(target("pc", json!({})), DiskDevice::Disk { bus: DiskBus::Ide, readonly: false });
    assert_eq!(
        target("pc-q35-10.0", json!({"cdrom": {}})),
        DiskDevice::Cdrom { bus: DiskBus::Sata, readonly: true, tray: Tray::Closed }
    );
    assert_eq!(target("", json!({"floppy": {}})), DiskDevice::Floppy { readonly: false, tray: Tray::Closed });
}

#[test]
fn tiny_guests_get_no_less_than_they_ask_for() {
    for (memory, kib) in [("1M", 977), ("5M", 4883), ("64M", 62500), ("1", 1), ("1Ki", 1)] {
        let spec = check(with("/domain/resources", json!({"requests": {"memory": memory}}))).unwrap();
        assert_eq!(spec.memory_kib, kib, "{memory}");
        assert!(spec.memory_kib * 1024 >= crate::Quantity::from(memory).to_units().unwrap());
    }
    let spec = check(with("/domain/resources", json!({"limits": {"memory": "1Gi", "cpu": 2}}))).unwrap();
    assert_eq!((spec.memory_kib, spec.cpu_request_millis), (1 << 20, 2000));
}

#[test]
fn paths_are_those_of_the_kind() {
    let bad = with("/domain/devices/disks/0/volumeName", json!("nope"));
    let meta = json!({"name": "x"});
    let vm = json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine", "metadata": meta, "spec": bad});
    assert_eq!(validate("VirtualMachine", &vm, None)[0].field, format!("{DISKS}[0].volumeName"));
    let ovm = json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "metadata": meta,
        "spec": {"running": false, "template": {"spec": bad}}});
    let causes = validate("OfflineVirtualMachine", &ovm, None);
    assert_eq!(causes[0].field, "spec.template.spec.domain.devices.disks[0].volumeName");
    assert_eq!(
        validate("OfflineVirtualMachine", &ovm, Some(&ovm)),
        [],
        "an update that leaves the template alone passes"
    );

    let none = json!({"metadata": meta, "spec": {"running": false}});
    let causes = validate("OfflineVirtualMachine", &none, None);
    assert_eq!((causes[0].reason, causes[0].field.as_str()), (FIELD_VALUE_REQUIRED, "spec.template"));
    assert_eq!(causes[0].message, "missing virtual machine template.");
}

#[test]
fn a_bound_spec_does_not_change() {
    let vm = |memory: &str, node: Option<&str>| {
        json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "x"},
            "spec": with("/domain/resources", json!({"requests": {"memory": memory}})),
            "status": {"nodeName": node}})
    };
    let bound = vm("64M", Some("a"));
    let causes = validate("VirtualMachine", &vm("65M", Some("a")), Some(&bound));
    assert_eq!((causes[0].reason, causes[0].field.as_str()), (FIELD_VALUE_FORBIDDEN, "spec"));
    assert_eq!(validate("VirtualMachine", &bound, Some(&bound)), []);
    assert_eq!(validate("VirtualMachine", &vm("65M", None), Some(&vm("64M", None))), []);
}

#[test]
fn user_data_is_in_no_debug_output() {
    let spec = check(with("/volumes/1/cloudInitNoCloud", json!({"userData": "canary"}))).unwrap();
    assert!(!format!("{spec:?}").contains("canary"));
}

/// Fields of the faults of an OfflineVirtualMachine with that in its template.
fn faults_of_template(pointer: &str, value: Value) -> Vec<(String, String)> {
    let mut template = json!({"metadata": {"labels": {"app": "web"}}, "spec": example()});
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    template.pointer_mut(parent).unwrap()[key] = value;
    let ovm = json!({"metadata": {"name": "x"}, "spec": {"running": false, "template": template}});
    validate("OfflineVirtualMachine", &ovm, None).into_iter().map(|cause| (cause.field, cause.message)).collect()
}

#[test]
fn words_that_decide_the_node_are_those_of_pods() {
    let required = |expression: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}})
    };
    let fields = |field: Value| {
        json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1, "preference": {"matchFields": [field]}}]}})
    };
    let good = [
        ("/spec/nodeSelector", json!({"example.com/zone": "a", "disk": ""})),
        ("/spec/tolerations", json!([{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}])),
        (
            "/spec/tolerations",
            json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]),
        ),
        ("/spec/affinity", required(json!({"key": "a", "operator": "Gt", "values": ["7"]}))),
        ("/spec/affinity", required(json!({"key": "a", "operator": "Exists"}))),
        ("/spec/affinity", fields(json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}))),
        ("/spec/domain/resources", json!({"requests": {"memory": "64M", "cpu": 1, "example.com/fpga": 1}})),
        ("/metadata/labels", json!({"kubevirt.io/ovm": "ovm-cirros"})),
    ];
    for (pointer, value) in good {
        assert_eq!(faults_of_template(pointer, value.clone()), [], "{value}");
    }
    let terms =
        "spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let preferred = "spec.template.spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]";
    let tolerations = "spec.template.spec.tolerations[0]";
    let bad = [
        ("/spec/nodeSelector", json!({"a b": "c"}), "spec.template.spec.nodeSelector".to_owned(), "'a b'"),
        ("/spec/nodeSelector", json!({"a": "b c"}), "spec.template.spec.nodeSelector".to_owned(), "'b c'"),
        (
            "/spec/tolerations",
            json!([{"key": "a", "operator": "Equals"}]),
            format!("{tolerations}.operator"),
            "Equal, Exists",
        ),
        ("/spec/tolerations", json!([{"value": "a"}]), format!("{tolerations}.operator"), "must be Exists"),
        (
            "/spec/tolerations",
            json!([{"key": "a", "effect": "NoScheduling"}]),
            format!("{tolerations}.effect"),
            "PreferNoSchedule",
        ),
        (
            "/spec/tolerations",
            json!([{"key": "a", "tolerationSeconds": 5}]),
            format!("{tolerations}.effect"),
            "NoExecute",
        ),
        (
            "/spec/tolerations",
            json!([{"key": "a", "operator": "Exists", "value": "b"}]),
            format!("{tolerations}.value"),
            "must be empty",
        ),
        (
            "/spec/affinity",
            required(json!({"key": "a", "operator": "in", "values": ["b"]})),
            format!("{terms}[0].matchExpressions[0].operator"),
            "'in'",
        ),
        (
            "/spec/affinity",
            required(json!({"key": "a", "operator": "In"})),
            format!("{terms}[0].matchExpressions[0].values"),
            "at least one",
        ),
        (
            "/spec/affinity",
            required(json!({"key": "a", "operator": "Lt", "values": ["x"]})),
            format!("{terms}[0].matchExpressions[0].values"),
            "one integer",
        ),
        (
            "/spec/affinity",
            fields(json!({"key": "spec.x", "operator": "In", "values": ["b"]})),
            format!("{preferred}.preference.matchFields[0].key"),
            "metadata.name",
        ),
        (
            "/spec/domain/resources",
            json!({"requests": {"memroy": "1Gi"}}),
            "spec.template.spec.domain.resources.requests".to_owned(),
            "'memroy'",
        ),
        ("/metadata/labels", json!({"a b": "c"}), "spec.template.metadata.labels".to_owned(), "'a b'"),
        ("/metadata/annotations", json!({"": "c"}), "spec.template.metadata.annotations".to_owned(), "''"),
    ];
    for (pointer, value, field, words) in bad {
        let faults = faults_of_template(pointer, value.clone());
        assert!(matches!(&*faults, [(at, message)] if *at == field && message.contains(words)), "{value}: {faults:#?}");
    }
}

#[test]
fn what_was_stored_before_the_rules_over_placement_stays_usable() {
    let mut spec = example();
    spec["tolerations"] = json!([{"key": "a", "operator": "Equals"}]);
    assert!(check(spec.clone()).is_ok(), "the agent reads it");
    let ovm = |running: bool| json!({"metadata": {"name": "x"}, "spec": {"running": running, "template": {"metadata": {"labels": {"a b": "c"}}, "spec": spec}}});
    assert_eq!(validate("OfflineVirtualMachine", &ovm(true), Some(&ovm(false))), []);
    let mut vm = json!({"metadata": {"name": "x"}, "spec": spec});
    assert_eq!(validate("VirtualMachine", &vm, None).len(), 1);
    vm["metadata"]["ownerReferences"] = json!([{"apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "name": "x", "uid": "1", "controller": true}]);
    assert_eq!(validate("VirtualMachine", &vm, None), []);
}

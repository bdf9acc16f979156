//! Manifests that the suites create: small machines that boot in milliseconds, and their volumes.

use std::path::Path;

use serde_json::{Value, json};

/// Enough for SeaBIOS and a boot sector.
const MEMORY: &str = "16M";

/// A virtual machine with one disk from an image, which is ended at once when it is to stop.
pub fn machine_spec(image: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "domain": {
            "resources": { "requests": { "memory": MEMORY } },
            "devices": { "disks": [{ "name": "root", "volumeName": "root", "disk": {} }] },
        },
        "volumes": [{ "name": "root", "registryDisk": { "image": image } }],
    })
}

/// A virtual machine like that of [`machine_spec`], whose one volume is on a claim: `source` is the volume without its name, `bus` its disk's.
pub fn claim_spec(source: &Value, bus: &str) -> Value {
    let mut volume = source.clone();
    volume["name"] = json!("root");
    let mut spec = machine_spec("unused");
    spec["volumes"] = json!([volume]);
    spec["domain"]["devices"]["disks"][0]["disk"] = json!({ "bus": bus });
    spec
}

/// An OfflineVirtualMachine with this spec in its template.
pub fn offline_machine_of(namespace: &str, name: &str, spec: &Value, running: bool) -> Value {
    let mut machine = offline_machine(namespace, name, "unused", running);
    machine["spec"]["template"]["spec"] = spec.clone();
    machine
}

/// A PersistentVolume of class `manual` at a path of the host.
pub fn volume(name: &str, path: &Path, access_modes: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name, "labels": { "made-by": "ovm-test", "volume": name } },
        "spec": {
            "capacity": { "storage": "1Mi" },
            "accessModes": access_modes,
            "storageClassName": "manual",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": { "path": path },
        },
    })
}

/// A claim of class `manual` to a volume of the label that [`volume`] gives.
pub fn claim(namespace: &str, name: &str, volume: &str, access_modes: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "accessModes": access_modes,
            "storageClassName": "manual",
            "resources": { "requests": { "storage": "1Mi" } },
            "selector": { "matchLabels": { "volume": volume } },
        },
    })
}

/// An OfflineVirtualMachine with the machine of [`machine_spec`].
pub fn offline_machine(namespace: &str, name: &str, image: &str, running: bool) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1alpha1",
        "kind": "OfflineVirtualMachine",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "running": running, "template": { "metadata": { "labels": { "machine": name } }, "spec": machine_spec(image) } },
    })
}

/// A VirtualMachine that no OfflineVirtualMachine owns.
pub fn bare_machine(namespace: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": name, "namespace": namespace },
        "spec": machine_spec(image),
    })
}
